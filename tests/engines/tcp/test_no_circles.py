"""No connection leaves objects that refer to each other in a circle: compiled, nobody would find them."""

import gc
from dataclasses import replace

import pytest

from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.connection import Connection
from pipeline.engines.tcp.segment import Segment
from pipeline.wire.tcp import ACK, SYN

_PACKAGES = ("pipeline.engines.tcp.", "pipeline.records.", "pipeline.engines.offload.")
"""Those of ACYCLIC in native/compiler.py."""
_CFG = replace(TcpConfig(), first_delayed_ack=0.001)


def _live(end: str) -> None:
    """A connection with data both ways, a hole, a loss and an end."""
    syn = Segment(1000, 0, SYN, 65535, mss=1460, wscale=7, sack_permitted=True)
    conn = Connection.passive(_CFG, syn, 5000, 0.0)
    conn.on_connected(0.0)
    (answer,) = conn.transmit(0.0, 9)
    ack = answer.seq + 1
    for seq in (1001, 1301):
        conn.on_segment(Segment(seq, ack, ACK, 65535, 100, seq), 0.01)
    conn.on_taken(100, 0.01)
    for slot in (3, 4):
        conn.on_host_data(slot, 0, 5000, 0.01)
    conn.transmit(0.01, 9)
    sack = ((ack + 2920, ack + 5840),)
    conn.on_segment(Segment(1101, ack, ACK, 65535, sack=sack), 0.02)
    for now in (0.02, 0.1, 3.0):
        conn.on_timer(now)
        conn.transmit(now, 9)
    if end == "host":
        conn.on_host_reset(4.0)
    elif end == "guest":
        conn.on_guest_gone(4.0)
    conn.transmit(4.0, 9)
    conn.take_actions()


@pytest.mark.parametrize("end", ["host", "guest", "neither"])
def test_a_connection_leaves_no_circle(end: str) -> None:
    gc.collect()
    gc.disable()
    try:
        gc.set_debug(gc.DEBUG_SAVEALL)
        _live(end)
        gc.collect()
        left = [type(thing) for thing in gc.garbage if type(thing).__module__.startswith(_PACKAGES)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left
