"""Config as a value and as a file."""

import dataclasses
import os
from pathlib import Path

import pytest
import yaml

from pipeline.config import merge, options
from pipeline.config import model as config
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
    path.write_text(yaml.safe_dump(config.as_file(made), sort_keys=False))
    assert build("-config", str(path)) == made


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        build().network.mtu = 3  # type: ignore[misc]


def test_addresses_have_texts_and_numbers() -> None:
    assert config.address_text(0xC0A87F01) == "192.168.127.1"
    assert config.mac_bytes("5A:94:ef:e4:0c:dd") == config.mac_bytes("5a-94-ef-e4-0c-dd")
    assert config.mac_text(bytes.fromhex("5a94efe40cdd")) == "5a:94:ef:e4:0c:dd"
