"""The messages between a supervisor and its successor: what is wrong ends the takeover, and leaks nothing."""

import os
import socket
from collections.abc import Iterator

import msgpack
import pytest

from pipeline.daemon.handover_line import Line, LineError
from pipeline.daemon.predecessor import VARIABLE, Predecessor
from pipeline.ipc.channel import ControlChannel
from pipeline.ipc.handover_messages import (
    Leases,
    OpenForward,
    Place,
    PlacesEnd,
    Ready,
    StateEnd,
    Yours,
    Zone,
    decode,
)
from pipeline.ipc.socket_pair import socket_pair

WAIT = 5.0


class Ends:
    """Both ends. ``raw`` sends maps of any kind."""

    def __init__(self) -> None:
        ours, theirs = socket_pair()
        self.raw = ControlChannel(ours)
        self.line = Line(theirs, "the other")
        self.predecessor = Predecessor(self.line)

    def close(self) -> None:
        self.raw.close()
        self.predecessor.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    before = len(os.listdir("/proc/self/fd"))
    made = Ends()
    yield made
    made.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_messages_with_descriptors_come_in_order(ends: Ends) -> None:
    with socket.socket() as sock:
        for number in range(3):
            ends.raw.send(Place("qemu", f"unix:///{number}").encode(), [sock])
    ends.raw.send(PlacesEnd(3).encode())
    ends.predecessor.receive_places()
    assert all(("qemu", f"unix:///{number}") in ends.predecessor.given for number in range(3))
    taken = ends.predecessor.given.take(("qemu", "unix:///1"))
    assert taken is not None
    taken.close()
    assert ends.predecessor.given.take(("qemu", "unix:///1")) is None


def test_more_descriptors_than_one_packet_carries_wait_in_the_line() -> None:
    """SCM_MAX_FD is 253, and a socket takes a few hundred packets: the rest waits for the reader."""
    ours, theirs = socket_pair()
    sender, receiver = Line(ours, "the successor"), Line(theirs, "the predecessor")
    with socket.socket() as sock:
        for number in range(600):
            sender.send(OpenForward(f"127.0.0.1:{number}", "", "tcp", configured=False), [sock])
    sender.send(StateEnd(600))
    found = []
    while True:
        sender.flush_all(0.001)
        message, fds = receiver.wait_for(WAIT)
        for fd in fds:
            os.close(fd)
        if isinstance(message, StateEnd):
            break
        assert isinstance(message, OpenForward)
        assert len(fds) == 1
        found.append(message.local)
    assert found == [f"127.0.0.1:{number}" for number in range(600)]
    sender.close()
    receiver.close()


def test_a_newer_version_may_send_more_fields_and_messages(ends: Ends) -> None:
    ends.raw.send({"op": "something_new", "x": 1})
    ends.raw.send({**Zone({"Name": "a."}).encode(), "more": [1, 2]})
    ends.raw.send({**StateEnd(1).encode(), "sum": "abc"})
    state = ends.predecessor.receive_state()
    assert [each.zone for each in state.zones] == [{"Name": "a."}]


@pytest.mark.parametrize(
    "wrong",
    [
        {"op": "zone"},
        {"op": "leases", "ipv4": []},
        {"op": "guest_link", "number": "one"},
        {"op": "open_forward", "local": "a", "remote": "b", "protocol": "tcp"},
        # No descriptor comes with it.
        OpenForward("127.0.0.1:1", "b", "tcp", configured=True).encode(),
        {"op": "state_end", "count": 7},
        Ready("1.0").encode(),
    ],
)
def test_a_wrong_message_is_an_error_that_names_the_fault(ends: Ends, wrong: dict[str, object]) -> None:
    ends.raw.send(wrong)
    with pytest.raises(LineError):
        ends.predecessor.receive_state()


def test_descriptors_of_a_wrong_message_are_closed(ends: Ends) -> None:
    with socket.socket() as sock:
        ends.raw.send({"op": "place", "url": 7}, [sock, sock])
        ends.raw.send(Place("", "unix:///a").encode(), [sock])
    with pytest.raises(LineError, match="protocol"):
        ends.predecessor.receive_places()


@pytest.mark.parametrize("packet", [b"", b"\xc1", msgpack.packb([1, 2]), msgpack.packb("text")])
def test_bytes_that_are_no_map_are_an_error(packet: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line = Line(theirs, "the other")
    if packet:
        ours.send(packet)
    ours.close()
    with pytest.raises(LineError, match="the other"):
        line.wait_for(WAIT)
    line.close()


def test_silence_is_an_error(ends: Ends) -> None:
    with pytest.raises(LineError, match="does not answer"):
        ends.line.wait_for(0.01)


def test_the_predecessor_lets_go_with_yours_alone(ends: Ends) -> None:
    ends.raw.send(Yours().encode())
    assert ends.predecessor.await_end()
    assert ends.predecessor.has_ended


def test_an_end_without_yours_means_that_the_predecessor_goes_on(ends: Ends) -> None:
    ends.raw.close()
    assert not ends.predecessor.await_end()
    ends.predecessor.refuse("nobody listens")


def test_the_environment_names_the_line_once() -> None:
    ours, theirs = socket_pair()
    environ = {VARIABLE: str(theirs.detach())}
    found = Predecessor.find(environ)
    assert found is not None
    assert environ == {}
    assert not os.get_inheritable(found.line.fileno())
    found.close()
    ours.close()
    for text in ("", "x", "-1", "99999", "99999999"):
        assert Predecessor.find({VARIABLE: text} if text else {}) is None


def test_leases_have_a_place_in_the_format() -> None:
    leases = Leases([[b"\0", b"mac", 1.5]], [])
    assert decode(leases.encode()) == leases
