"""Decodes records for tests: which class each kind has, and the names of its fields."""

import inspect
from typing import Any

from pipeline.records import dials, flows, frames, guests, icmp, kinds, services, streams, tcp, udp

CLASSES: dict[int, type] = {
    kinds.FRAME: frames.Frame,
    kinds.TCP_RANGE: tcp.TcpRange,
    kinds.UDP_RANGE: udp.UdpRange,
    kinds.LINK_UP: guests.LinkNotice,
    kinds.LINK_DOWN: guests.LinkNotice,
    kinds.HEARD: guests.Neighbor,
    kinds.UDP_USED: udp.UdpNotice,
    kinds.UDP_FRAGMENTED: udp.UdpNotice,
    kinds.SHARED: guests.Shared,
    kinds.TUNNEL: guests.Tunnel,
    kinds.RENAMED: guests.Renamed,
    kinds.WATCH_DROPS: frames.WatchDrops,
    kinds.FRAME_OUT: frames.FrameOut,
    kinds.TCP_OUT: tcp.TcpOut,
    kinds.UDP_OUT: udp.UdpOut,
    kinds.UDP_TO_GUEST: udp.UdpToGuest,
    kinds.NEIGHBOR: guests.Neighbor,
    kinds.NEIGHBOR_GONE: guests.NeighborGone,
    kinds.MISBEHAVED: frames.Misbehaved,
    kinds.DROPPED: frames.Dropped,
    kinds.WORK: guests.Work,
    kinds.STEER_UDP: udp.SteerUdp,
    kinds.UNSTEER_UDP: udp.UnsteerUdp,
    kinds.GUEST_ERROR: icmp.GuestError,
    kinds.DIAL: dials.Dial,
    kinds.DIAL_ROUTED: dials.DialRouted,
    kinds.DIAL_FAILED: dials.DialFailed,
    kinds.GUEST_ANSWERED: streams.GuestAnswered,
    kinds.GUEST_MOVED: streams.GuestMoved,
    kinds.ORPHANED: flows.FlowNotice,
    kinds.CONNECT: streams.Connect,
    kinds.CONNECTED: flows.FlowNotice,
    kinds.CONNECT_FAILED: streams.ConnectFailed,
    kinds.DECIDED: streams.Decided,
    kinds.SOCKETS_USED_UP: streams.SocketsUsedUp,
    kinds.TO_HOST: streams.ToHost,
    kinds.TAKEN: streams.Taken,
    kinds.TO_GUEST: streams.ToGuest,
    kinds.WINDOW: streams.Window,
    kinds.SHUTDOWN: streams.Shutdown,
    kinds.ABORT: flows.FlowNotice,
    kinds.EVICTED: flows.FlowNotice,
    kinds.FORBIDDEN: flows.FlowNotice,
    kinds.PROXY_FAILED: flows.FlowNotice,
    kinds.STRAY: streams.Stray,
    kinds.CLOSED: flows.FlowNotice,
    kinds.UDP_DATA: udp.UdpData,
    kinds.UDP_ANSWERED: flows.FlowNotice,
    kinds.UDP_CLOSE: flows.FlowNotice,
    kinds.UNREACHABLE: icmp.Unreachable,
    kinds.ICMP_ECHO: icmp.EchoRequest,
    kinds.ICMP_REPLY: icmp.EchoReply,
    kinds.ICMP_ERROR: icmp.EchoError,
    kinds.SERVICE_DATAGRAM: services.ServiceDatagram,
    kinds.NAMED: services.Named,
    kinds.TOLD: services.Told,
    kinds.LEASED: guests.Leased,
}


def decode(record: bytes | memoryview) -> Any:
    """A record, of any kind, as an object of its class."""
    cls: Any = CLASSES[record[0]]
    return cls.unpack(memoryview(record), 0)


def fields_of(cls: type) -> list[str]:
    """The names of the fields of a class, in the order of its constructor."""
    return list(inspect.signature(cls).parameters)
