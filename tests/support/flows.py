"""Connections of a tcp worker without its rings: they use the real engine, and guests of the test."""

from types import SimpleNamespace
from typing import Any

from pipeline.engines.tcp.config import TcpConfig
from pipeline.engines.tcp.connection import Connection
from pipeline.engines.tcp.segment import Segment
from pipeline.records.flows import flow_key
from pipeline.records.run import Run
from pipeline.stages.tcp.flow import Flow, Guest, GuestLink
from pipeline.stages.tcp.host_end import HostEnd
from pipeline.wire.tcp import ACK, SYN

CONFIG = TcpConfig()


def half_open_connection() -> Connection:
    """A connection whose host has answered, and whose guest has not."""
    syn = Segment(100, 0, SYN, 65535, 0, None, 0, 0, False, (), 1460, 7, True)
    conn = Connection.passive(CONFIG, syn, 500, 0.0)
    conn.on_connected(0.0)
    conn.transmit(0.0, 1)
    return conn


def on_link(guest: Guest) -> GuestLink:
    """A link of the guest."""
    return GuestLink(guest.number, guest)


def flow_of(link: GuestLink, number: int = 1) -> Flow:
    """An open connection. It does not count for its guest yet."""
    conn = half_open_connection()
    conn.on_segment(Segment(101, 501, ACK, 65535, 0, None, 0, 0, False), 0.0)
    conn.transmit(0.0, 1)
    conn.take_actions()
    return flow_with(conn, link, number)


def flow_with(conn: Connection, link: GuestLink, number: int, egress: int = 0) -> Flow:
    """A flow of this connection. Its host end pushes records to no ring."""
    ring: Any = SimpleNamespace(push=lambda _record: None)
    return Flow(conn, flow_key(1, 1, 2, number), link, HostEnd(number, egress, ring), 0.0)


def data(at: int, length: int, slot: int) -> Segment:
    buf = Run(slot, 0, length, 0, length)
    return Segment(101 + at, 501, ACK, 65535, length, buf, 0, 0, False)
