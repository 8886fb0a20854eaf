"""Links whose events come at other descriptors than a socket: rings in a guest's memory."""

import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perf import vhost_frontend as driver
from perf.vhost_frontend import Frontend
from pipeline.ipc import messages
from pipeline.links.addresses import listen
from pipeline.stages.ingress.ports import Port
from tests.support.ingress_rig import IngressRig

FRAME = b"\xff" * 6 + bytes(54)


def serve(rig: IngressRig, function: Callable[[], object]) -> None:
    """Call what waits for ingress, while ingress turns."""
    thread = threading.Thread(target=function)
    thread.start()
    while thread.is_alive():
        rig.turn()
    thread.join()


@pytest.fixture
def card(rig: IngressRig, tmp_path: Path) -> Iterator[Frontend]:
    """A card whose rings run, with four receive buffers."""
    path = tmp_path / "vhost.sock"
    sock = listen(f"unix://{path}")
    rig.stage.on_control(messages.Open("vhost-user").encode(), [sock.detach()])
    made = Frontend(ring_size=4)
    serve(rig, lambda: made.open(str(path)))
    for _ in range(5):
        rig.turn()
    yield made
    made.close()


def port_of(rig: IngressRig) -> Port:
    [port] = rig.stage.ports.by_number.values()
    return port


def test_a_kick_of_the_receive_queue_sends_what_waits(rig: IngressRig, card: Frontend) -> None:
    link = port_of(rig).link
    for _ in range(6):
        link.send([struct.pack("<I", 72) + bytes(12) + FRAME])
    assert link.blocked
    assert len(card.received()) == 4
    card.refill()
    rig.turn()
    assert not link.blocked
    assert len(card.received()) == 2


def test_a_kick_of_a_further_queue_has_the_link_read(rig: IngressRig, card: Frontend) -> None:
    second = driver.DriverRing(card.memory, 4, 0x8000, True)

    def start_second() -> None:
        for index in (2, 3):
            places = [driver.USER_BASE + place for place in (second.table, second.used, second.avail)]
            card.tell(driver.SET_NUM, struct.pack("<II", index, 4))
            card.tell(driver.SET_ADDR, struct.pack("<IIQQQQ", index, 0, *places, 0))
            card.tell(driver.SET_KICK, struct.pack("<Q", index), (second.kick,))
            card.tell(driver.ENABLE, struct.pack("<II", index, 1))

    serve(rig, start_second)
    rig.turn()
    assert not rig.stage.ports.readable
    card.memory.view[card.transmit_at : card.transmit_at + 72] = bytes(12) + FRAME
    second.describe(0, card.transmit_at, 72, 0)
    second.add(0)
    second.publish()
    rig.turn()
    assert second.completed() == [(0, 0)]
    second.close()


def test_a_monitor_that_leaves_takes_its_link_with_it(rig: IngressRig, card: Frontend) -> None:
    card.sock.close()
    rig.turn()
    assert not rig.stage.ports.by_number
