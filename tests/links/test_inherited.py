"""Descriptors from a parent: by number, by systemd's names, once each."""

import os
import socket

import pytest

from pipeline.links.addresses import AddressError
from pipeline.links.inherited import FIRST, Inherited

PID = 4711


def systemd(count: int, names: str = "", pid: int = PID) -> dict[str, str]:
    return {"LISTEN_PID": str(pid), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": names, "HOME": "/"}


def test_a_number_names_a_descriptor() -> None:
    ours, theirs = socket.socketpair()
    number = ours.detach()
    found = Inherited({}, PID)
    found.claim(f"fd://{number}")
    (claimed,) = found.sockets
    assert not os.get_inheritable(number)
    sock = found.take(f"fd://{number}")
    assert sock is claimed
    assert found.sockets == []
    theirs.sendall(b"x")
    assert sock.recv(1) == b"x"
    sock.close()
    theirs.close()


def test_an_option_after_the_number_is_not_part_of_it() -> None:
    ours, theirs = socket.socketpair()
    number = ours.detach()
    found = Inherited({}, PID)
    found.claim(f"fd://{number}?vnet")
    with pytest.raises(AddressError, match=f"descriptor {number} is used already"):
        found.claim(f"fd://{number}")
    found.take(f"fd://{number}?vnet").close()
    theirs.close()


def test_each_descriptor_is_used_once() -> None:
    ours, theirs = socket.socketpair()
    number = ours.detach()
    found = Inherited({}, PID)
    found.claim(f"fd://{number}")
    with pytest.raises(AddressError, match=f"descriptor {number} is used already"):
        found.claim(f"fd://{number}")
    found.close()
    theirs.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("fd://2", "the first descriptor that can be passed is 3"),
        ("fd://999", "descriptor 999: bad file descriptor"),
        ("fd://api", r"no descriptor of that name was passed \(names: none\)"),
        ("fd://-3", "no descriptor of that name"),
    ],
)
def test_what_cannot_be_used_is_named(url: str, words: str) -> None:
    with pytest.raises(AddressError, match=words):
        Inherited({}, PID).claim(url)


def test_a_file_is_no_socket() -> None:
    number = os.open(os.devnull, os.O_RDONLY)
    with pytest.raises(AddressError, match="operation on non-socket"):
        Inherited({}, PID).claim(f"fd://{number}")
    os.close(number)


def test_systemd_names_its_descriptors() -> None:
    found = Inherited(systemd(3, "api:qemu:api"), PID)
    assert found.unused() == ["3 (api)", "4 (qemu)", "5 (api)"]
    with pytest.raises(AddressError, match=r"\(names: api, api, qemu\)"):
        found.claim("fd://vm")


def test_systemd_variables_are_not_handed_on() -> None:
    environ = systemd(1)
    found = Inherited(environ, PID)
    assert environ == {"HOME": "/"}
    assert found.unused() == [str(FIRST)]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        systemd(2, pid=1),
        systemd(0),
        {**systemd(1), "LISTEN_FDS": "x"},
        {**systemd(1), "LISTEN_FDS": "-1"},
    ],
)
def test_what_is_meant_for_another_process_or_nonsense_is_not_believed(environ: dict[str, str]) -> None:
    assert Inherited(environ, PID).unused() == []
