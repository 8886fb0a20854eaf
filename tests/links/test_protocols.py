"""The table of protocols: which socket each binds, and which listener serves it."""

import os
import socket
from pathlib import Path

import pytest

from pipeline.config.choices import LINK_SCHEMES
from pipeline.links import protocols
from pipeline.links.addresses import AddressError
from pipeline.links.inherited import Inherited
from tests.support.owner import Owner

SCHEMES = {
    "qemu": "unix",
    "le16": "unix",
    "vpnkit": "unix",
    "bess": "unixpacket",
    "vfkit": "unixgram",
    "fd": "unix",
}


@pytest.mark.parametrize(("protocol", "scheme"), SCHEMES.items())
def test_each_protocol_has_its_kind_of_socket_and_its_listener(
    owner: Owner, tmp_path: Path, protocol: str, scheme: str
) -> None:
    sock = protocols.bind(protocol, f"{scheme}://{tmp_path}/s", Inherited({}, 1))
    assert sock.type == protocols.FORMS[protocol].kind
    door = owner.open(
        protocols.make(protocol, [each.detach() for each in (sock, *protocols.companions(protocol))])
    )
    assert door.protocol == protocol


def test_the_links_of_a_configuration_are_these() -> None:
    assert {name: (*form.schemes, "fd") for name, form in protocols.FORMS.items()} == LINK_SCHEMES


@pytest.mark.parametrize("protocol", SCHEMES)
def test_other_schemes_are_refused_by_name(protocol: str) -> None:
    with pytest.raises(AddressError, match=f"unexpected scheme in 'ftp://a' for {protocol}"):
        protocols.bind(protocol, "ftp://a", Inherited({}, 1))


def test_a_passed_descriptor_must_be_of_the_right_kind() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    number = ours.detach()
    passed = Inherited({}, 1)
    passed.claim(f"fd://{number}")
    with pytest.raises(
        AddressError, match="for bess: the descriptor is a stream socket, not a packet socket"
    ):
        protocols.bind("bess", f"fd://{number}", passed)
    with pytest.raises(OSError):
        os.fstat(number)
    theirs.close()


def test_a_passed_connection_is_a_guest(owner: Owner) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    number = ours.detach()
    passed = Inherited({}, 1)
    passed.claim(f"fd://{number}")
    sock = protocols.bind("bess", f"fd://{number}", passed)
    owner.open(protocols.make("bess", [sock.detach()]))
    theirs.send(b"frame")
    assert owner.frames(1) == [b"frame"]
    theirs.close()


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown protocol 'x'"):
        protocols.make("x", [])
