"""What each guest sent and got: rows of the counter block, in bounded number."""

import socket
from collections.abc import Iterator

import pytest

from pipeline.config import merge, options
from pipeline.counter_block import GUEST_ROWS, OTHERS, CounterBlock, GuestRow
from pipeline.go import flags
from pipeline.ipc.fabric import Fabric
from pipeline.stages.ingress.stage import IngressStage
from pipeline.stages.ingress.traffic import TrafficRows
from pipeline.stages.worker import Worker
from pipeline.topology import Layout


@pytest.fixture
def block() -> CounterBlock:
    return CounterBlock(memoryview(bytearray(CounterBlock.BYTES)))


def test_a_row_begins_with_zeros_though_another_link_had_it(block: CounterBlock) -> None:
    rows = TrafficRows(block.counts)
    for link in range(1, GUEST_ROWS + 1):
        traffic = rows.open(link)
        traffic.bytes_from_guest += 5
        rows.close(traffic)
    assert block.guests() == []
    rows.open(99)
    assert block.guests() == [GuestRow(99, 0, 0, 0, 0, 0)]


def test_rows_are_updated_once_a_second_and_nothing_is_counted_twice(block: CounterBlock) -> None:
    rows = TrafficRows(block.counts)
    traffic = rows.open(1)
    rows.write(10.0)
    traffic.bytes_to_guest += 5
    traffic.frames_dropped += 1
    rows.write(10.5)
    assert block.guests() == [GuestRow(1, 0, 0, 0, 0, 0)]
    rows.write(11.0)
    rows.write(12.0)
    traffic.bytes_to_guest += 2
    rows.write(13.0)
    assert block.guests() == [GuestRow(1, 0, 0, 7, 0, 1)]


def test_links_without_a_row_of_their_own_share_one(block: CounterBlock) -> None:
    rows = TrafficRows(block.counts)
    own = [rows.open(link) for link in range(1, GUEST_ROWS + 1)]
    others = [rows.open(1000), rows.open(1001)]
    for traffic in others:
        traffic.bytes_from_guest += 5
    rows.write(1.0)
    assert len({traffic.row for traffic in own}) == GUEST_ROWS
    assert len(block.guests()) == GUEST_ROWS + 1
    assert block.guests()[-1] == GuestRow(OTHERS, 10, 0, 0, 0, 0)
    others[1].bytes_from_guest += 1
    rows.close(others[0])
    rows.close(others[1])
    assert block.guests()[-1] == GuestRow(OTHERS, 11, 0, 0, 0, 0), "what they counted stays"
    rows.close(own[3])
    assert rows.open(1002).row == own[3].row


class Rig:
    """Ingress with one guest on a socket pair."""

    def __init__(self) -> None:
        config = merge.build(flags.parse(options.START, []), [])[0]
        self.fabric = Fabric.create(Layout(64))
        self.worker = Worker(self.fabric.ports("ingress"), None)
        self.stage = IngressStage(self.worker, config)
        self.worker.adopt(self.stage)
        ours, self.guest = socket.socketpair()
        self.stage.on_control({"op": "attach", "head": b""}, [ours.detach()])

    def breathe(self, now: float) -> None:
        assert self.worker.poller is not None
        self.worker.poller.dispatch(self.worker.poller.poll(0, 64))
        self.worker.breathe(now)

    def rows(self) -> list[GuestRow]:
        return self.fabric.counters("ingress").guests()

    def close(self) -> None:
        self.guest.close()
        self.worker.end()
        assert self.worker.poller is not None
        self.worker.poller.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def test_frames_and_runts_of_a_guest_are_on_its_account_until_it_leaves(rig: Rig) -> None:
    frame, runt = bytes(60), bytes(5)
    rig.guest.sendall(b"".join(len(data).to_bytes(2, "little") + data for data in (frame, runt, frame)))
    rig.breathe(1.0)
    rig.breathe(2.0)
    (row,) = rig.rows()
    assert (row.bytes_from_guest, row.frames_from_guest, row.frames_dropped) == (125, 3, 1)
    rig.guest.shutdown(socket.SHUT_RDWR)
    rig.breathe(2.1)
    assert rig.rows() == []
