"""What a file that is read again comes to: keys that change, and keys that keep their values."""

import re
from pathlib import Path

import pytest

from pipeline.config import merge, options
from pipeline.config.errors import ConfigError
from pipeline.config.live import KEYS, LIVE, reloaded
from pipeline.config.model import Config
from pipeline.go import flags
from tests.config.built import build


def of(tmp_path: Path, text: str, *words: str) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    config, _ = build("-config", str(path), *words)
    return config


def test_every_setting_has_a_key_for_the_log(tmp_path: Path) -> None:
    names = {name for name, _ in KEYS}
    assert of(tmp_path, "").settings().keys() <= names
    assert names >= LIVE
    assert dict(KEYS)["host_ip"] == "stack.hostIP"
    assert dict(KEYS)["further"] == "links"
    assert dict(KEYS)["max_tcp_flows"] == "limits.max-tcp-flows"


def test_live_settings_change_and_all_others_stay(tmp_path: Path) -> None:
    before = of(tmp_path, "slots: 100")
    read = of(
        tmp_path,
        """
slots: 200
listen: ["unix:///other"]
egress-policy: {default: deny}
limits: {max-macs: 5}
stack:
  mtu: 1400
  forwards: {":1": "192.168.127.2:1"}
  dns: [{name: a.}]
  dhcpStaticLeases: {192.168.127.3: "02:00:00:00:00:01"}
""",
    )
    config, changed, kept = reloaded(before, read)
    assert set(changed) == {"egress-policy", "limits.max-macs", "stack.forwards", "stack.dns"}
    assert set(kept) == {"slots", "listen", "stack.mtu", "stack.dhcpStaticLeases"}
    for name, value in config.settings().items():
        assert value == (read if name in LIVE else before).settings()[name], name
    assert reloaded(config, read).changed == ()


def test_a_flag_still_wins_over_the_file(tmp_path: Path) -> None:
    words = ("-limit", "max-macs=7", "-debug")
    before = of(tmp_path, "", *words)
    assert reloaded(before, of(tmp_path, "{limits: {max-macs: 5}, log-level: error}", *words)).changed == ()


def test_a_file_is_read_again_although_its_sockets_exist(tmp_path: Path) -> None:
    path, sock = tmp_path / "config.yaml", tmp_path / "sock"
    path.write_text(f'{{interfaces: {{qemu: "unix://{sock}"}}, links: ["bess+unixpacket://{sock}"]}}')
    words = ["-config", str(path)]
    parsed = flags.parse(options.START, words)
    first, _ = merge.build(parsed, words)
    sock.touch()
    with pytest.raises(ConfigError, match="already exists"):
        merge.build(parsed, words)
    assert merge.build(parsed, words, again=True)[0] == first


def test_the_documentation_names_every_key_that_may_change() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "reload.md").read_text()
    keys = {key for name, key in KEYS if name in LIVE and not key.startswith("limits.")}
    documented = set(re.findall(r"`([\w.-]+)`", "".join(re.findall(r"^\| (`.+?) \|", text, re.MULTILINE))))
    assert keys | {"limits", "proxy-protocol"} == documented - {"-link"}
