"""What the supervisor remembers for successors of workers."""

import os
import socket
from collections.abc import Iterator

import pytest

from pipeline.control.memory import Memory
from pipeline.ipc import healing_messages, messages
from pipeline.links.places import BYTES, READING, Places
from pipeline.topology import DEMUX, INGRESS, TCP


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory()
    yield made
    made.close()


def link(number: int, form: str = "qemu") -> healing_messages.LinkUpEvent:
    return healing_messages.LinkUpEvent(number, 7, "qemu", "@", "process 1", form)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_links_go_on_if_their_place_is_certain_and_are_closed_otherwise(memory: Memory) -> None:
    places = Places(memoryview(bytearray(BYTES)))
    fds = {number: os.dup(1) for number in (1, 2, 3, 4)}
    places.take(1)
    places.take(2)[READING] = 1
    places.take(9)
    for number, fd in fds.items():
        memory.link_up(link(number, "packet" if number == 3 else "qemu"), [fd])
    memory.link_up(link(5, ""), [])
    going_on = memory.links_that_go_on(places, [])
    assert going_on == {1: 7, 3: 7}
    assert [ended.number for ended in memory.end_others(places, going_on)] == [2, 4, 5]
    assert [memory.is_up(number) for number in (1, 2, 3, 4, 5)] == [True, False, True, False, False]
    # 2 was read from at the time, and 4 has no row.
    assert [is_open(fd) for fd in fds.values()] == [True, False, True, False]
    assert [(ask.number, ask.form) for ask, _ in memory.adoptions(places, [])] == [(1, "qemu"), (3, "packet")]
    assert places.place(9, []) is None, "nobody has that link any more"
    memory.close()
    assert not any(map(is_open, fds.values()))


def test_a_link_that_is_gone_is_closed(memory: Memory) -> None:
    ours, theirs = socket.socketpair()
    memory.link_up(link(1), [ours.detach()])
    assert memory.link_down(1) == link(1)
    assert memory.link_down(1) is None
    assert theirs.recv(1) == b""
    theirs.close()


def test_a_successor_of_ingress_gets_listeners_but_not_a_stream_in_the_middle(memory: Memory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as stream:
        memory.opens(messages.Open("qemu"), [listener], "tcp://127.0.0.1:0")
        memory.opens(messages.Open("stdio"), [stream.fileno(), stream.fileno()], "")
    ((ask, fds),) = memory.for_successor(INGRESS)
    assert isinstance(ask, messages.Open)
    assert ask.protocol == "qemu"
    assert len(fds) == 1
    assert memory.guest_places == [("qemu", "tcp://127.0.0.1:0", fds)]


def test_a_successor_of_demux_looks_for_all_guests_with_a_lease(memory: Memory) -> None:
    assert list(memory.for_successor(DEMUX)) == []
    memory.leases = healing_messages.LeasesEvent([[b"one", b"", 3.0]], [[b"two", b"", 4.0], [], [7]])
    assert list(memory.for_successor(DEMUX)) == [(healing_messages.Seek([b"one", b"two"]), [])]
    assert list(memory.for_successor(TCP)) == []


def test_a_successor_of_the_resolver_gets_the_last_leases_before_the_zones(memory: Memory) -> None:
    memory.zones.append(messages.DnsAdd({"name": "a."}))
    memory.leases = healing_messages.LeasesEvent([[b"1", b"2", 3.0]], [])
    asks = list(memory.first_for("resolver"))
    assert asks == [healing_messages.RestoreLeases([[b"1", b"2", 3.0]], []), messages.DnsAdd({"name": "a."})]


def test_a_successor_of_ingress_numbers_links_on_after_a_former_daemon(memory: Memory) -> None:
    assert list(memory.first_for("ingress")) == []
    memory.numbers = healing_messages.Know(last_link=7)
    assert list(memory.first_for("ingress")) == [memory.numbers]
    assert list(memory.first_for("resolver")) == []


def test_a_successor_of_ingress_gets_the_own_names_of_a_link_that_have_inner_ones(memory: Memory) -> None:
    for number in (1, 2):
        memory.link_up(link(number, "packet"), [os.dup(1)])
    names = [b"\x5a\x94\xef\0\0\1", b"\xc0\xa8\x7f\x0f"]
    memory.has_inner(2, names)
    memory.has_inner(3, names)
    places = Places(memoryview(bytearray(BYTES)))
    assert [(ask.number, ask.places) for ask, _ in memory.adoptions(places, [])] == [(1, None), (2, names)]
    decoded = healing_messages.Adopt.decode([*memory.adoptions(places, [])][1][0].encode())
    assert decoded.places == names
    # Another guest may get the number.
    memory.link_down(2)
    memory.link_up(link(2, "packet"), [os.dup(1)])
    assert [ask.places for ask, _ in memory.adoptions(places, [])] == [None, None]
