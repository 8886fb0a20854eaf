"""From flags and the YAML file to the one Config: merged, checked and completed.

Merging and the order of checks are gvproxy's: the file wins for the subnet and the three
addresses, a flag wins elsewhere; without a file the default mode adds zones, leases and the
ssh forward. Only IPv4 subnets are served. Binds and opens nothing: the caller passes what
tries the log file.
"""

import difflib
import ipaddress
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

from pydantic import BaseModel

from pipeline.config import limits
from pipeline.config.access import egress_policy, guest_api, with_proxy_protocol
from pipeline.config.endpoints import check, further_links, links_of
from pipeline.config.file import ConfigError, read
from pipeline.config.keys import FileKeys, SocketForwardKeys, StackKeys
from pipeline.config.limits import Limits
from pipeline.config.model import (
    MAX_BUSY_POLL,
    PLACEMENTS,
    SEPARATE,
    STREAM_SCHEMES,
    UDP_NATS,
    Access,
    Config,
    Links,
    Logging,
    Network,
    PortForward,
    Record,
    SocketForward,
    Workers,
    Zone,
    mac_bytes,
)
from pipeline.config.scalars import split_network
from pipeline.config.subnet import DEFAULT_MTU, addresses, checked_mtu, parse_subnet
from pipeline.go import flags
from pipeline.links.addresses import unix_path
from pipeline.system import small_file

GATEWAY_MAC: Final = "5a:94:ef:e4:0c:dd"
GUEST_MAC: Final = "5a:94:ef:e4:0c:ee"
VPNKIT_UUID: Final = "c3d68012-0208-11ea-9fd7-f2189899ab08"
HOST_LOOPBACK: Final = "127.0.0.1"
RESOLV_CONF: Final = "/etc/resolv.conf"

LEVELS: Final[Mapping[str, str]] = {
    "critical": "critical",
    "panic": "critical",
    "fatal": "critical",
    "error": "error",
    "warn": "warning",
    "warning": "warning",
    "info": "info",
    "debug": "debug",
    "trace": "debug",
}
"""Log levels that a user may name, and ours for them."""


def build(
    parsed: flags.Parsed,
    words: Sequence[str] = (),
    *,
    try_log_file: Callable[[str], None] | None = None,
    resolv_conf: str = RESOLV_CONF,
) -> tuple[Config, tuple[str, ...]]:
    """Config and warnings from the parsed flags; words is the command line as typed.

    Checks run in gvproxy's order and stop at the first failure: ConfigError with its text.
    try_log_file is called with the log's path before anything else is judged.
    """
    warnings: list[str] = []
    path = parsed.text("config")
    keys, notes = read_file(path) if path else (FileKeys(), ())
    warnings += (f"{path}: {note}" for note in notes)
    level = _level("debug" if parsed.true("debug") else keys.log_level or "info", warnings)
    log_file = parsed.text("log-file") or keys.log_file
    if log_file and try_log_file is not None:
        try:
            try_log_file(log_file)
        except OSError as error:
            raise ConfigError(
                f"unable to open log file {log_file}: {os.strerror(error.errno or 0)}"
            ) from error
    stack = keys.stack
    subnet_text = stack.subnet or parsed.text("subnet")
    subnet = parse_subnet(subnet_text)
    gateway, device, host = addresses(
        subnet,
        subnet_text,
        stack.gateway_ip or parsed.text("gatewayIP"),
        stack.device_ip or parsed.text("deviceIP"),
        stack.host_ip or parsed.text("hostIP"),
    )
    notification = _notification(parsed.text("notification"), keys.notification)
    links = links_of(parsed, keys)
    if stack.debug:
        warnings.append("stack.debug has no effect: packets are not written to the log")
    if path and any(word in ("-ssh-port", "--ssh-port") for word in words):
        warnings.append("-ssh-port is ignored when -config is given: use stack.forwards")
    network = _from_file(stack) if path else _default_mode(parsed, gateway, device, host, resolv_conf)
    socket_forwards = _socket_forwards(parsed, keys.forwards)
    listen = parsed.lists["listen"] or tuple(keys.listen)
    services = parsed.text("services") or keys.services
    for url in (*listen, *filter(None, [services])):
        check(url, "cannot listen", STREAM_SCHEMES)
    bounds = _limits(parsed, keys)
    config = Config(
        Network(
            mtu=checked_mtu(parsed.number("mtu") or stack.mtu or DEFAULT_MTU, warnings),
            subnet=subnet,
            gateway_ip=int(gateway),
            device_ip=int(device),
            host_ip=int(host),
            gateway_mac=mac_bytes(stack.gateway_mac or GATEWAY_MAC),
            dns_zones=network.zones,
            dns_search_domains=network.search_domains,
            nat={_int(ip): _int(to) for ip, to in stack.nat.items()} or {int(host): _int(HOST_LOOPBACK)},
            gateway_virtual_ips=tuple(_int(ip) for ip in stack.gateway_virtual_ips) or (int(host),),
            dhcp_static_leases={_int(ip): mac_bytes(mac) for ip, mac in network.leases.items()},
            vpnkit_macs={uuid: mac_bytes(mac) for uuid, mac in network.vpnkit_macs.items()},
            udp_nat=_udp_nat(parsed.text("udp-nat") or keys.udp_nat),
            state_file=parsed.text("state-file") or keys.state_file,
        ),
        Links(
            listen=listen,
            services=services,
            notification=notification,
            **links,
            further=further_links((*keys.links, *parsed.lists["link"])),
        ),
        Workers(
            placement=_placement(parsed.text("placement") or keys.placement or SEPARATE),
            tcp_workers=_own(parsed, "tcp-workers", keys.tcp_workers, 1, 64),
            egress_workers=_own(parsed, "egress-workers", keys.egress_workers, 1, 64),
            slots=_own(parsed, "slots", keys.slots, 64, 1 << 16),
            busy_poll=_own(parsed, "busy-poll", keys.busy_poll, 0, MAX_BUSY_POLL, unset=-1),
        ),
        bounds,
        Access(
            forwards=with_proxy_protocol(network.forwards, keys.proxy_protocol),
            socket_forwards=socket_forwards,
            ec2_metadata_access=parsed.true("ec2-metadata-access")
            or keys.ec2_metadata_access
            or stack.ec2_metadata_access,
            api_token_file=_token_file(parsed.text("api-token-file") or keys.api_token_file),
            guest_api=guest_api(keys.guest_api),
            egress_policy=egress_policy(keys.egress_policy),
        ),
        Logging(
            log_level=level,
            log_file=log_file,
            pid_file=parsed.text("pid-file") or keys.pid_file,
            capture_file=network.capture_file,
            stack_debug=stack.debug,
        ),
    )
    return config, tuple(warnings)


def read_file(path: str) -> tuple[FileKeys, tuple[str, ...]]:
    """The configuration file and notes about unknown keys. Raises ConfigError."""
    try:
        text = small_file.read(path, pipes=True).decode("utf-8")
    except OSError as error:
        words = os.strerror(error.errno or 0).lower()
        raise ConfigError(f"failed to read config file: open {path}: {words}") from error
    except small_file.FileError as error:
        raise ConfigError(f"failed to read config file: {path}: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"failed to parse configuration: yaml: {error}") from error
    try:
        return read(text)
    except ConfigError as error:
        raise ConfigError(f"failed to parse configuration: {error}") from error


def _level(text: str, warnings: list[str]) -> str:
    level = LEVELS.get(text.lower())
    if level is None:
        warnings.append(f"bad log level {flags.quote(text)}, falling back to {flags.quote('info')}")
        return "info"
    return level


def _notification(flag: str, key: str) -> str:
    # gvproxy takes the key as a path; a URL there is what people write.
    if not flag and not key.startswith("unix://"):
        return key
    try:
        url = urlsplit(flag or key)
    except ValueError as error:
        raise ConfigError(f"invalid value for notification listen address: {error}") from None
    if url.scheme != "unix" or not url.path:
        raise ConfigError("notification listen address must be unix:// address")
    return unix_path(flag or key)


class _Network(NamedTuple):
    """What a file sets and the default mode sets otherwise."""

    capture_file: str
    zones: tuple[Zone, ...]
    search_domains: tuple[str, ...]
    forwards: tuple[PortForward, ...]
    leases: Mapping[str, str]
    vpnkit_macs: Mapping[str, str]


def _from_file(stack: StackKeys) -> _Network:
    zones = (
        Zone(
            zone.name,
            tuple(Record(record.name, record.ip, record.regexp) for record in zone.records),
            zone.default_ip,
        )
        for zone in stack.dns
    )
    forwards = []
    for key, remote in stack.forwards.items():
        network, local = split_network(key)
        forwards.append(PortForward(network, local, remote))
    return _Network(
        stack.capture_file,
        tuple(zones),
        tuple(stack.dns_search_domains),
        tuple(forwards),
        stack.dhcp_static_leases,
        stack.vpnkit_macs,
    )


def _default_mode(
    parsed: flags.Parsed,
    gateway: ipaddress.IPv4Address,
    device: ipaddress.IPv4Address,
    host: ipaddress.IPv4Address,
    resolv_conf: str,
) -> _Network:
    port = parsed.number("ssh-port")
    if port != -1 and not 1024 <= port <= 65535:
        raise ConfigError("ssh-port value must be between 1024 and 65535")
    records = (Record("gateway", str(gateway)), Record("host", str(host)))
    return _Network(
        capture_file=parsed.text("pcap"),
        zones=tuple(Zone(name, records) for name in ("containers.internal.", "docker.internal.")),
        search_domains=search_domains(resolv_conf),
        forwards=() if port == -1 else (PortForward("tcp", f"127.0.0.1:{port}", f"{device}:22"),),
        leases={str(device): GUEST_MAC},
        vpnkit_macs={VPNKIT_UUID: GUEST_MAC},
    )


def search_domains(resolv_conf: str) -> tuple[str, ...]:
    """The names of the first ``search`` line of a resolv.conf; none when it cannot be read."""
    try:
        with open(resolv_conf, encoding="utf-8", errors="replace") as file:
            for line in file:
                words = line.split()
                if words and words[0] == "search" and not line[0].isspace():
                    return tuple(words[1:])
    except OSError:
        return ()
    return ()


def _socket_forwards(parsed: flags.Parsed, keys: Sequence[SocketForwardKeys]) -> tuple[SocketForward, ...]:
    columns = [parsed.lists[f"forward-{part}"] for part in ("sock", "dest", "user", "identity")]
    if len({len(column) for column in columns}) > 1:
        raise ConfigError(
            "--forward-sock, --forward-dest, --forward-user, and --forward-identity must all be specified "
            "together, the same number of times, or not at all"
        )
    found = [SocketForward(key.socket, key.dest, key.user, key.identity) for key in keys]
    found += [SocketForward(*row) for row in zip(*columns, strict=True)]
    for forward in found:
        try:
            os.stat(forward.identity)
        except OSError as error:
            words = os.strerror(error.errno or 0).lower()
            path = forward.identity
            raise ConfigError(
                f"identity file {flags.quote(path)} can't be loaded: stat {path}: {words}"
            ) from None
    return tuple(found)


def _token_file(path: str) -> str:
    """The path of a file that holds a token. The token itself is read again by who checks requests."""
    if not path:
        return ""
    try:
        token = small_file.read(path).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        words = os.strerror(error.errno or 0).lower() if isinstance(error, OSError) else "not ASCII"
        raise ConfigError(f"token file {flags.quote(path)} can't be read: {words}") from None
    except small_file.FileError as error:
        raise ConfigError(f"token file {flags.quote(path)} can't be read: {error}") from None
    if not re.fullmatch(r"[!-~]+", token):
        raise ConfigError(f"token file {flags.quote(path)} must hold one word")
    return path


def _placement(kind: str) -> str:
    if kind not in PLACEMENTS:
        raise ConfigError(f"placement must be one of {', '.join(PLACEMENTS)}, not {kind!r}")
    return kind


def _udp_nat(kind: str) -> str:
    if kind not in UDP_NATS:
        raise ConfigError(f"udp-nat must be one of {', '.join(UDP_NATS)}, not {kind!r}")
    return kind


def _own(parsed: flags.Parsed, name: str, key: int, low: int, high: int, unset: int = 0) -> int:
    number = parsed.number(name)
    if number == unset:
        return key
    if not low <= number <= high:
        raise ConfigError(f"{name} must be a whole number from {low} to {high}, not {number}")
    return number


def _limits(parsed: flags.Parsed, keys: FileKeys) -> Limits:
    written = dict(cast(BaseModel, keys.limits))
    values: dict[str, int] = {limit.name: written[limit.name] for limit in limits.TABLE}
    for text in parsed.lists["limit"]:
        key, _, number = text.partition("=")
        limit = limits.BY_KEY.get(key)
        if limit is None:
            near = difflib.get_close_matches(key, limits.BY_KEY, n=1, cutoff=0.0)
            raise ConfigError(f"limit: unknown name {flags.quote(key)}, did you mean {near[0]}?")
        try:
            value = flags.integer(number)
        except flags.FlagError:
            value = -1
        if not limit.low <= value <= limit.high:
            allowed = f"a whole number from {limit.low} to {limit.high}"
            raise ConfigError(f"limit: {key} must be {allowed}, not {flags.quote(number)}")
        values[limit.name] = value
    return Limits(**values)


def _int(address: str) -> int:
    return int(ipaddress.IPv4Address(address))
