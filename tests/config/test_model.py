"""Config as a value and as a file."""

import dataclasses
import os
from pathlib import Path

import pytest
import yaml

from pipeline.config import keys, merge, options
from pipeline.config import model as config
from pipeline.config.shown import as_file
from pipeline.go import flags


def build(*words: str) -> config.Config:
    return merge.build(flags.parse(options.START, words), words, resolv_conf=os.devnull)[0]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("-subnet", "10.0.0.0/8", "-mtu", "9000", "-listen", "unix:///a", "-listen", "vsock://:1024"),
        ("-debug", "-ec2-metadata-access", "-slots", "1024", "-limit", "max-tcp-flows=7", "-ssh-port", "-1"),
    ],
)
def test_a_config_written_as_a_file_reads_back_the_same(words: tuple[str, ...], tmp_path: Path) -> None:
    made = build(*words)
    path = tmp_path / "shown.yaml"
    path.write_text(yaml.safe_dump(as_file(made), sort_keys=False))
    assert build("-config", str(path)) == made


def test_every_setting_has_a_key_and_every_key_a_setting() -> None:
    folded_into_others = {"proxy_protocol", "stack_ec2_metadata_access"}
    read_from_other_files = {"name_lists", "proxy_hosts"}
    settings = build().settings().keys() - read_from_other_files
    assert keys.FileKeys().settings().keys() - folded_into_others == settings


def test_a_setting_is_in_one_group_and_one_map() -> None:
    made = build()
    groups = [getattr(made, group.name) for group in dataclasses.fields(made)]
    assert len(made.settings()) == sum(len(dataclasses.fields(group)) for group in groups)
    maps = [keys.FileKeys, keys.StackKeys, keys.InterfaceKeys, keys.LimitKeys]
    names = [
        key.name for each in maps for key in dataclasses.fields(each) if not isinstance(key.default, keys.Map)
    ]
    assert len(names) == len(set(names))


def test_a_config_made_of_its_settings_is_the_same() -> None:
    assert config.Config.of(build().settings()) == build()


def test_what_is_empty_or_said_by_default_is_not_shown() -> None:
    shown = as_file(build("-limit", "max-closing-bytes=0", "-busy-poll", "0"))
    assert shown.keys().isdisjoint({"interfaces", "guest-api", "egress-policy", "services", "links"})
    assert shown["busy-poll"] == 0
    assert shown["limits"]["max-closing-bytes"] == 0


def test_the_ports_of_sockets_on_loopback_are_known() -> None:
    words = (
        "-listen",
        "tcp://127.0.0.1:1",
        "-services",
        "tcp6://[::1]:2",
        "-listen-qemu",
        "tcp://localhost:3",
    )
    words += ("-link", "le16+tcp4://127.1.2.3:4", "-listen", "tcp://:5", "-listen", "tcp://10.0.0.1:6")
    words += ("-listen", "unix:///a", "-listen-stdio", "tcp", "-metrics", "127.0.0.1:7")
    words += ("-web", "[::1]:8")
    assert build(*words).links.loopback_ports == {1, 2, 3, 4, 7, 8}
    assert build().links.loopback_ports == frozenset()


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        build().network.mtu = 3  # type: ignore[misc]
