"""What demux tells a fleet about the stations of this host, and what becomes of those that move away."""

from collections.abc import Iterator

import pytest

from pipeline.ipc import fleet_messages
from pipeline.records import kinds
from pipeline.records.guests import LinkNotice
from pipeline.stages.demux.stage import DemuxStage
from pipeline.topology import DEMUX
from pipeline.wire import arp, ethernet, ip
from tests.stages.demux.test_tunnel import FAR, LOCAL, NEAR, TUNNEL, Rig
from tests.support.attempts import GATEWAY, Station, arp_frame

MOVER = Station(bytes((0x5A, 0x94, 0xEF, 0, 0, 9)), GATEWAY + 9)


class Reports:
    """Takes the place of the way to the supervisor."""

    def __init__(self, stage: DemuxStage) -> None:
        self.stage = stage
        self.events: list[fleet_messages.StationsEvent] = []
        stage.stations._on = True
        stage.stations._worker = self  # type: ignore[assignment]

    def send_event(self, message: dict[str, object], fds: tuple[int, ...] = ()) -> None:
        self.events.append(fleet_messages.StationsEvent.decode(message))

    def take(self) -> tuple[dict[bytes, bool], dict[bytes, bytes]]:
        """The MACs and addresses of all reports since the last call."""
        self.stage.stations.report(float("inf"))
        self.stage.stations._next_at = 0.0
        macs: dict[bytes, bool] = {}
        addrs: dict[bytes, bytes] = {}
        for event in self.events:
            macs |= event.macs
            addrs |= event.addrs
        self.events.clear()
        return macs, addrs


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig() as made:
        yield made
        made.leave()


@pytest.fixture
def reports(rig: Rig) -> Reports:
    stage = rig.stages[DEMUX]
    assert isinstance(stage, DemuxStage)
    return Reports(stage)


def appear(rig: Rig, link: int, station: Station) -> None:
    rig.send(link, arp_frame(arp.REQUEST, station, station.mac, ethernet.BROADCAST, GATEWAY))


def test_all_stations_of_this_host_are_reported_on_demand(rig: Rig, reports: Reports) -> None:
    reports.stage.on_control(fleet_messages.Stations().encode(), [])
    (event,) = reports.events
    assert event.complete
    assert event.macs == {LOCAL.mac: True, NEAR.mac: True}
    assert event.addrs == {ip.packed(LOCAL.addr): LOCAL.mac, ip.packed(NEAR.addr): NEAR.mac}


def test_a_new_station_is_reported_and_one_of_another_host_is_not(rig: Rig, reports: Reports) -> None:
    appear(rig, 1, MOVER)
    assert reports.take() == ({MOVER.mac: True}, {ip.packed(MOVER.addr): MOVER.mac})
    other = Station(bytes((0x5A, 0x94, 0xEF, 0, 0, 10)), GATEWAY + 10)
    appear(rig, TUNNEL, other)
    macs, _ = reports.take()
    assert macs == {}


def test_a_station_whose_link_ends_is_gone(rig: Rig, reports: Reports) -> None:
    rig.card.push(DEMUX, LinkNotice.pack(kinds.LINK_DOWN, 3, 3))
    rig.settle()
    macs, addrs = reports.take()
    assert macs == {NEAR.mac: False}
    assert addrs == {ip.packed(NEAR.addr): b""}


def test_a_station_that_has_moved_away_is_on_the_tunnel_at_once(rig: Rig, reports: Reports) -> None:
    stage = reports.stage
    away = fleet_messages.StationsAway([NEAR.mac, FAR.mac, bytes(6)], [ip.packed(NEAR.addr)])
    assert stage.on_control(away.encode(), []) == {}
    assert stage.switch.link_of(NEAR.mac) == TUNNEL
    assert stage.neighbors.get(NEAR.addr) is None
    assert stage.switch.link_of(FAR.mac) == TUNNEL
    macs, addrs = reports.take()
    assert macs == {NEAR.mac: False}
    assert addrs == {ip.packed(NEAR.addr): b""}
    rig.card.sent.clear()
    rig.send(1, ethernet.header(NEAR.mac, LOCAL.mac, 0x88B5) + bytes(50))
    assert [link for link, _, _ in rig.sent()] in ([TUNNEL], [])


def test_without_a_fleet_nothing_is_reported(rig: Rig) -> None:
    stage = rig.stages[DEMUX]
    assert isinstance(stage, DemuxStage)
    appear(rig, 1, MOVER)
    assert len(stage.stations) == 0
