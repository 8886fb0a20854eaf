"""Listeners in the ingress worker: guests that come, that are too many, that leave; sockets that break."""

import socket
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.counters import INDEX
from pipeline.ipc import messages
from pipeline.ipc.arena import SLOT_BYTES, Pool
from pipeline.links.base import Link, LinkClosed
from pipeline.links.listener import Arrival, GatewayAddresses, LinkResources, Listener
from pipeline.stages.ingress.acceptors import Acceptors
from tests.support.events import Events
from tests.support.poller import Poller


class Stage:
    """A worker and a stage, as far as acceptors go."""

    def __init__(self, room_for: int = 10) -> None:
        self.poller = Poller()
        self.counts = [0] * len(INDEX)
        self.events: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.reports = Events()
        self.guests: list[Arrival] = []
        self._room_for = room_for
        worker: Any = SimpleNamespace(
            register=self.poller.register,
            unregister=self.poller.unregister,
            counts=self.counts,
            send_event=self.events.append,
            log=SimpleNamespace(warning=self._on_line, error=self._on_line),
            events=self.reports,
        )
        slots = [memoryview(bytearray(SLOT_BYTES)) for _ in range(4)]
        self.new_mtus: list[int] = []
        self.acceptors = Acceptors(
            worker,
            LinkResources(Pool(0, 4), slots, 1500),
            self._add,
            self.remove,
            lambda _link: None,
            lambda link: self.new_mtus.append(link.tunnel_mtu),
            GatewayAddresses(b"\2" * 6, frozenset(), 0),
        )

    def _on_line(self, event: str, **_fields: Any) -> None:
        self.lines.append(event)

    def _add(self, guest: Arrival) -> bool:
        if len(self.guests) >= self._room_for:
            guest.link.close()
            return False
        self.guests.append(guest)
        return True

    def remove(self, link: Link, error: LinkClosed) -> None:
        """What the stage does with a link that is over."""
        (guest,) = (guest for guest in self.guests if guest.link is link)
        self.guests.remove(guest)
        link.close()
        self.acceptors.on_left(1, 5, guest, error)


def left(error: str, peer: str = "@", protocol: str = "qemu") -> dict[str, Any]:
    text = f"cannot receive packets from {peer}, disconnecting: {error}"
    told = {"event": "guest", "change": "left", "protocol": protocol, "peer": peer}
    return {**told, "error": error, "text": text}


def connection() -> tuple[int, socket.socket]:
    """The descriptor of a connected guest, and its far end."""
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs


def test_a_guest_comes_in_and_its_leaving_is_told() -> None:
    stage = Stage()
    fd, theirs = connection()
    assert stage.acceptors.open(messages.Open("qemu"), [fd]) == {}
    (guest,) = stage.guests
    assert guest.protocol == "qemu"
    assert stage.events == []
    stage.remove(guest.link, LinkClosed("EOF"))
    assert stage.events == [left("EOF")]
    fields = {"guest": 5, "link": 1, "protocol": "qemu", "peer": "@", "error": "EOF"}
    assert stage.reports.reported == [("guest-gone", fields)]
    stage.acceptors.close()
    theirs.close()


def test_one_guest_too_many_is_told_as_left() -> None:
    stage = Stage(room_for=0)
    fd, theirs = connection()
    stage.acceptors.open(messages.Open("qemu"), [fd])
    assert stage.events == [left("too many guests")]
    assert stage.reports.reported == []
    assert theirs.recv(1) == b""


def test_the_leaving_of_a_guest_of_connect_is_told_too() -> None:
    stage = Stage()
    link: Any = object()
    stage.acceptors.on_left(7, 5, Arrival(link, "connect", "@", "process 12"), LinkClosed("EOF"))
    assert stage.events == [{**left("EOF", protocol="connect"), "opened_by": "process 12"}]
    (fields,) = stage.reports.of("guest-gone")
    assert (fields["link"], fields["opened_by"]) == (7, "process 12")


def test_a_guest_that_the_daemons_end_cuts_off_is_no_error() -> None:
    stage = Stage()
    link: Any = object()
    stage.acceptors.close()
    stage.acceptors.on_left(7, 5, Arrival(link, "connect", "@"), LinkClosed("the daemon stops"))
    assert stage.events == []
    assert len(stage.reports.of("guest-gone")) == 1


def test_who_is_refused_is_counted_and_what_breaks_is_told() -> None:
    stage = Stage()
    door: Any = SimpleNamespace(protocol="bess")
    stage.acceptors.refuse(door, "no", "link_handshake_failed")
    stage.acceptors.refuse(door, "no", "")
    assert stage.counts[INDEX["link_handshake_failed"]] == 1
    stage.acceptors.fail(door, "accept error")
    assert stage.counts[INDEX["link_accept_failed"]] == 1
    assert stage.events == [
        {"event": "guest", "change": "failed", "protocol": "bess", "error": "accept error"}
    ]
    assert stage.lines == ["guest refused", "guest refused", "no more guests"]


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown protocol"):
        Stage().acceptors.open(messages.Open("pigeon"), [])


class Timed(Listener):
    """A listener with one time-out."""

    protocol = "timed"

    def __init__(self, due: float) -> None:
        self.due = due

    def open(self, *_: object) -> None:
        return

    def deadline(self) -> float:
        return self.due

    def on_timer(self, now: float) -> None:
        if now >= self.due:
            self.due = float("inf")

    def close(self) -> None:
        return


def test_the_earliest_time_out_counts() -> None:
    acceptors = Stage().acceptors
    assert acceptors.deadline() == float("inf")
    for due in (5.0, 7.0):
        acceptors.add(Timed(due))
    assert acceptors.deadline() == 5.0
    acceptors.on_timer(6.0)
    assert acceptors.deadline() == 7.0


def test_a_link_to_other_hosts_is_there_at_once_and_reports_its_mtu() -> None:
    stage = Stage()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    place = f"udp://127.0.0.1:{sock.getsockname()[1]}?vni=7&remote=127.0.0.2"
    stage.acceptors.open(messages.Open("vxlan", place=place), [sock.detach()])
    (guest,) = stage.guests
    assert (guest.protocol, guest.peer) == ("vxlan", "vxlan 7")
    stage.acceptors.mtu_changed(guest.link)
    assert stage.new_mtus == [guest.link.tunnel_mtu]
    stage.acceptors.close()
    guest.link.close()
