"""The JSON schema allows what the reader of files allows, and the documents name the keys that it has."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipeline.config import file as config_file
from pipeline.config import keys, limits
from pipeline.config.errors import ConfigError
from pipeline.config.keys import dashed
from pipeline.config.schema import json_schema
from pipeline.config.shown import as_file
from tests.config.built import build

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.yaml"), ROOT / "README.md"])
SCHEMA: dict[str, Any] = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

GOOD = [
    "",
    "{}",
    "listen: [unix:///a, 'vsock://:1024']",
    "listen-connect: [unix:///b, 'tcp://127.0.0.1:1']",
    "listen:\nstack:\n  mtu:\n  dns:\n  nat: ~\n",
    "listen: [~]",
    "log-file: 0x10\npid-file: 7\nstack: {dnsSearchDomains: [1.0, ~, true]}",
    "slots: 0x100\nstack: {mtu: 1_500, debug: yes, ec2MetadataAccess: TRUE}",
    "busy-poll: 0\nmetrics: 127.0.0.1:9100\nweb: 127.0.0.1:0",
    "interfaces: {qemu: unix:///q, vfkit: unixgram:///v, bess: unixpacket:///b, stdio: accept, vpnkit: unix:///h}",
    "links: [qemu+tcp://127.0.0.1:1]\nforwards: [{socket: /s, dest: /d, user: core, identity: /k}]",
    "stack: {subnet: 10.0.0.0/24, gatewayIP: 10.0.0.1, gatewayMacAddress: '5A-94-EF-E4-0C-DD'}",
    "stack: {gatewayMacAddress: ''}",
    "stack: {nat: {192.168.127.254: 127.0.0.1}, gatewayVirtualIPs: [192.168.127.253]}",
    "stack: {dhcpStaticLeases: {192.168.127.2: '5a:94:ef:e4:0c:ee'}}",
    "stack: {vpnKitUUIDMacAddresses: {some-uuid: '5a:94:ef:e4:0c:ee'}}",
    "stack: {forwards: {'127.0.0.1:2222': '192.168.127.2:22', ':80': '192.168.127.2:80'}}",
    "stack: {forwards: {'udp::53': '192.168.127.2:53'}}",
    "stack: {dns: [{name: a., defaultIP: 10.0.0.1, records: [{name: b, ip: fd00::2}]}]}",
    "stack: {dns: [{name: a., records: [{regexp: 'c.*', ip: ''}]}]}",
    "egress-policy: {default: deny, rules: [{action: allow, ports: [443, 8000-8100], protocols: [tcp]}]}",
    "egress-policy: {rules: [{action: deny, networks: [10.0.0.0/8, 10.1.1.1], guests: [192.168.127.2]}]}",
    "egress-policy: {rules: [{action: allow, names: ['*.example.com', Example.ORG., a_b]}]}",
    "egress-policy: {rules: [{action: allow, names: ~}]}",
    "egress-policy: {preset: locked, questions: refuse, rebinding: allow, quic: read, ech: deny, h3: allow}",
    "egress-policy: {rules: [{action: allow, groups: [public], stated: check, stated-ports: [443]}]}",
    "guest-api: {enabled: false, unix: on, addresses: [127.0.0.0/8, '::1', 'fd00::/8'], ports: [1024-65535]}",
    "ipv6: {enabled: on, nat64: auto}",
    "ipv6: {nat64: no}",
    "ipv6: {enabled: 'off', prefix: 'fd12:3456:789a:1::/64'}",
    "ipv6: {enabled: no, prefix: ''}",
    "ipv6: {enabled: auto, gateway: 'fd12:3456:789a:1::53', host: ''}",
    "egress-policy: {rules: [{action: allow, guests: [5a:94:ef:e4:0c:ee, link:3]}]}",
    "egress-policy: {rules: [{action: allow, guests: [fd00::2], networks: [fd00::/8]}]}",
    "ipv6: {enabled: ~, prefix: '2001:db8::/64'}",
    "ipv6: {static-leases: {'fd00::5': 5A-94-EF-E4-0C-EE, 'fd00::6': duid:00:03:00:01:5a:94:ef:e4:0c:ee}}",
    "ipv6: {static-leases: {'fd00::5': 'duid:00-02-AB', 'fd00::6': 'duid:5a:94:ef:e4:0c:ee'}}",
    f"ipv6: {{static-leases: {{'fd00::5': 'duid:00:04{128 * ':ab'}'}}}}",
    "udp-nat: full-cone\nguests: isolated\nproxy-protocol: {'127.0.0.1:80': v2}",
    "limits: {max-tcp-flows: 1, max-closing-bytes: 0}",
]
BAD = [
    "[1]",
    "word",
    "lisen: [unix:///a]",
    "limits: {max-tcp-flow: 1}",
    "stack: {mtus: 1}",
    "stack: {dns: [{nam: a.}]}",
    "egress-policy: {rules: [{action: allow, port: [1]}]}",
    "interfaces: {kvm: unix:///a}",
    "listen: unix:///a",
    "log-file: [a]",
    "stack: [1]",
    "stack: {mtu: many}",
    "stack: {mtu: '1500'}",
    "stack: {mtu: -1}",
    "stack: {mtu: 1.5}",
    "slots: 63",
    "slots: 65537",
    "tcp-workers: 0",
    "ec2-metadata-access: 7",
    "ec2-metadata-access: 'true'",
    "stack: {gatewayMacAddress: 5a:94}",
    "stack: {gatewayMacAddress: '5a:94-ef:e4:0c:dd'}",
    "stack: {nat: {host: 127.0.0.1}}",
    "stack: {nat: {192.168.127.254: localhost}}",
    "stack: {gatewayVirtualIPs: [192.168.127.256]}",
    "stack: {gatewayVirtualIPs: [192.168.127.01]}",
    "stack: {gatewayVirtualIPs: [~]}",
    "stack: {dhcpStaticLeases: {192.168.127.9: nonsense}}",
    "stack: {forwards: {'127.0.0.1:22': guest}}",
    "stack: {forwards: {ssh: '192.168.127.2:22'}}",
    "stack: {dns: [{name: b., records: [{name: x, ip: 1.2.3}]}]}",
    "stack: {dns: {name: b.}}",
    "egress-policy: {default: maybe}",
    "egress-policy: {preset: shut}",
    "egress-policy: {quic: allow}",
    "egress-policy: {h3: deny}",
    "egress-policy: {questions: drop}",
    "egress-policy: {rules: [{action: allow, groups: [internet]}]}",
    "egress-policy: {rules: [{action: allow, name-files: [names.txt]}]}",
    "egress-policy: {rules: [{action: allow, stated: never}]}",
    "egress-policy: {rules: [{ports: [443]}]}",
    "egress-policy: {rules: [{action: ~}]}",
    "egress-policy: {rules: [{action: allow, ports: [65536]}]}",
    "egress-policy: {rules: [{action: allow, ports: [http]}]}",
    "egress-policy: {rules: [{action: allow, protocols: [sctp]}]}",
    "egress-policy: {rules: [{action: allow, networks: [fd00/8]}]}",
    "egress-policy: {rules: [{action: allow, names: ['a b']}]}",
    "guest-api: {addresses: [here]}",
    "udp-nat: cone",
    "ipv6: on",
    "ipv6: {enabled: maybe}",
    "ipv6: {nat64: maybe}",
    "ipv6: {enabled: 'yes'}",
    "ipv6: {host: 10.0.0.1}",
    "ipv6: {prefix: 'fd00::/48'}",
    "ipv6: {prefix: 'fd00::1'}",
    "ipv6: {prefix: 'fe80::/64'}",
    "ipv6: {prefix: '64:ff9b::/64'}",
    "ipv6: {prefix: 10.0.0.0/24}",
    "ipv6: {static-leases: {'fd00::5': '00:03:00:01:5a:94:ef:e4:0c:ee'}}",
    "ipv6: {static-leases: {'fd00::5': 'duid:'}}",
    "ipv6: {static-leases: {'fd00::5': 'duid:00:03'}}",
    "ipv6: {static-leases: {'fd00::5': 'duid:00:03-00'}}",
    "ipv6: {static-leases: {'fd00::5': 'DUID:00:03:00'}}",
    f"ipv6: {{static-leases: {{'fd00::5': 'duid:00:04{129 * ':ab'}'}}}}",
    "guests: none",
    "proxy-protocol: {'127.0.0.1:80': v3}",
    "proxy-protocol: {'80': v1}",
    "limits: {max-tcp-flows: 0}",
]
ONLY_THE_PROGRAM = [
    "egress-policy: {rules: [{action: allow, networks: [10.0.0.1/8]}]}",
    "egress-policy: {rules: [{action: allow, ports: [9-8]}]}",
    "stack: {dns: [{name: a., records: [{regexp: 'crc-('}]}]}",
    "ipv6: {prefix: 'fd00::1/64'}",
    "ipv6: {prefix: 'fd00:::/64'}",
    "stack: {forwards: {'127.0.0.1:65536': '192.168.127.2:22'}}",
]
"""JSON Schema cannot say what is wrong here."""


def is_read(text: str) -> bool:
    """Whether the reader takes the file, without a note about an unknown key."""
    try:
        return config_file.read(text)[1] == ()
    except ConfigError:
        return False


def conforms(text: str) -> bool:
    return bool(VALIDATOR.is_valid(yaml.safe_load(text)))


def key_paths(schema: dict[str, Any], before: str = "") -> Iterator[str]:
    """Each key with its path, as egress-policy.rules.ports."""
    for key, value in schema["properties"].items():
        yield before + key
        for inner in (value, *value.get("anyOf", ()), value.get("items", {})):
            if reference := inner.get("$ref", ""):
                yield from key_paths(SCHEMA["$defs"][reference.rpartition("/")[2]], f"{before}{key}.")


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("text", GOOD)
def test_what_is_read_conforms(text: str) -> None:
    assert is_read(text)
    VALIDATOR.validate(yaml.safe_load(text))


@pytest.mark.parametrize("text", BAD)
def test_what_is_refused_does_not_conform(text: str) -> None:
    assert not is_read(text)
    assert not conforms(text)


@pytest.mark.parametrize("text", ONLY_THE_PROGRAM)
def test_some_mistakes_only_the_program_sees(text: str) -> None:
    assert not is_read(text)
    assert conforms(text)


LARGEST = ", ".join(f"{dashed(limit.name)}: {limit.high}" for limit in limits.TABLE)
SHOWN = {
    "network": (
        "stack: {mtu: 9000, subnet: 10.1.0.0/16, gatewayIP: 10.1.0.9, hostIP: 10.1.0.8, deviceIP: 10.1.0.7, "
        "gatewayMacAddress: '5a:94:ef:e4:0c:99', dnsSearchDomains: [a.example], nat: {10.1.0.6: 127.0.0.1}, "
        "gatewayVirtualIPs: [10.1.0.6], dhcpStaticLeases: {10.1.0.5: '5a:94:ef:e4:0c:01'}, "
        "vpnKitUUIDMacAddresses: {u: '5a:94:ef:e4:0c:02'}, ec2MetadataAccess: true, "
        "dns: [{name: z., defaultIP: 10.1.0.4, records: [{name: b, ip: fd00::2}, "
        "{regexp: 'c.*', ip: 10.1.0.3}]}]}\n"
        "udp-nat: full-cone\nstate-file: /var/lib/leases.json\ndns-servers: [10.0.0.1, '[fd00::1]:5353']\n"
        "outbound-address: 10.9.9.9\noutbound-interface: eth0\nguest-names: vm.internal\n"
        "dns-address: 10.1.0.2\n"
        "dhcp-range: 10.1.0.10-10.1.0.20\n"
        "ipv6: {enabled: on, prefix: 'fd12:3456:789a:1::/64', nat64: off, "
        "dns: 'fd12:3456:789a:1::3', "
        "static-leases: {'fd12:3456:789a:1::5': '5a:94:ef:e4:0c:01', "
        "'fd12:3456:789a:1::6': 'duid:00:03:00:01:5a:94:ef:e4:0c:01'}}\n"
    ),
    "links": (
        "listen: [unix:///a, vsock://:1024]\nlisten-connect: [unix:///b]\n"
        "services: unix:///s\nmetrics: 127.0.0.1:9100\n"
        "web: localhost:8080\nnotification: /n\n"
        "interfaces: {vpnkit: unix:///h, vhost-user: unix:///u}\nlinks: [qemu+tcp://127.0.0.1:1, vfkit+unixgram:///v]\n"
    ),
    "workers": (
        "placement: auto\ntcp-workers: 2\negress-workers: 3\nslots: 1024\nbusy-poll: 0\n"
        "sandbox: strict\nuser: daemon\n"
    ),
    "limits": f"limits: {{{LARGEST}}}",
    "access": (
        "stack: {forwards: {'127.0.0.1:8080': '192.168.127.2:80', 'udp:127.0.0.1:53': '192.168.127.2:53'}}\n"
        "forwards: [{socket: /s, dest: /d, user: core, identity: IDENTITY}]\n"
        "ec2-metadata-access: true\nproxy-protocol: {'127.0.0.1:8080': v2}\n"
        "api-token-file: TOKEN\nguests: isolated\ndisable: [icmp, host-loopback]\n"
        "guest-api: {enabled: false, unix: true, ssh: true, others: true, addresses: [127.0.0.0/8], "
        "ports: [80]}\n"
        "egress-policy: {default: deny, rules: [{action: allow, guests: [192.168.127.2], "
        "networks: [10.0.0.0/8], names: ['*.example.com'], ports: [443, 8000-8100], "
        "protocols: [tcp, udp], groups: [public, metadata], name-files: [NAMES], stated: ignore, "
        "stated-ports: [8443]}, {action: proxy, via: 'http://localhost:3128'}], questions: nxdomain, "
        "rebinding: deny, inner-names: [a.example], quic: deny, ech: remove, h3: remove, "
        "quotas: [{guests: ['link:3'], per: day, bytes: 5GB, bytes-from-guest: 7, bytes-to-guest: 8MiB, "
        "connections: 9, dns-questions: 10, open-flows: keep}]}\nquota-file: /q\n"
    ),
    "fleet": (
        "links: ['vxlan+udp://10.66.0.1?vni=7']\n"
        "fleet: {servers: 'tls://one.example,[fd00::1]:4223', host: alpha, network: lab, ttl: 30, "
        "credentials: TOKEN, ca: TOKEN, certificate: TOKEN, key: IDENTITY}\n"
    ),
    "logging": (
        "log-level: debug\nlog-file: /l\npid-file: /p\nflow-log: /f\nstack: {debug: true, capture-file: /c}\n"
    ),
}
"""A file for each group of Config, in which no value of the group is the default."""


@pytest.mark.parametrize("group", SHOWN)
def test_what_config_show_prints_of_a_group_reads_back_and_conforms(group: str, tmp_path: Path) -> None:
    text = SHOWN[group]
    for name in ("IDENTITY", "TOKEN"):
        path = tmp_path / name
        path.write_text("0123456789abcdef0123456789abcdef\n")
        path.chmod(0o600)
        text = text.replace(name, str(path))
    (tmp_path / "names").write_text("# a list\n\nb.example # one\n*.C.example.\n")
    text = text.replace("NAMES", str(tmp_path / "names"))
    (tmp_path / "given.yaml").write_text(text)
    made, notes = build("-config", str(tmp_path / "given.yaml"))
    assert all("stack.debug has no effect" in note for note in notes)
    default = getattr(build()[0], group)
    values = {name: getattr(getattr(made, group), name) for name in default.__slots__}
    same = [name for name, value in values.items() if value == getattr(default, name)]
    # Only one guest of these kinds is possible at a time, and an nkey stands in the place of credentials.
    assert set(same) <= {"qemu", "bess", "stdio", "vfkit", "fleet_nkey"}
    shown = as_file(made)
    VALIDATOR.validate(shown)
    (tmp_path / "shown.yaml").write_text(yaml.safe_dump(shown))
    assert build("-config", str(tmp_path / "shown.yaml")) == (made, notes)


def test_the_documents_name_the_keys_of_the_schema_and_no_others() -> None:
    in_schema = {path for path in key_paths(SCHEMA) if not path.startswith("limits.")}
    rows = re.findall(r"^\| `([\w.-]+)` \|", (ROOT / "docs" / "config.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(in_schema)
    table = re.findall(r"^\| `(max-[\w-]+)` \|", (ROOT / "docs" / "limits.md").read_text(), re.MULTILINE)
    assert set(table) == set(SCHEMA["$defs"][keys.LimitKeys.__name__]["properties"])


def test_files_in_documents_are_read_and_conform() -> None:
    found = 0
    for path in DOCS:
        text = path.read_text()
        blocks = [text] if path.suffix == ".yaml" else re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
        for block in blocks:
            if path.name in ("metrics.md", "gvtap.yaml"):
                # files of Prometheus and of Lima
                continue
            assert config_file.read(block)[1] == (), block
            VALIDATOR.validate(yaml.safe_load(block))
            found += 1
    assert found >= 3
