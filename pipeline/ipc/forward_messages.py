"""The control messages about forwarded ports: to listen, and from listen to egress.

message_table.py describes control messages.
"""

from dataclasses import dataclass

from pipeline.ipc.message import Answer, Request


@dataclass(frozen=True, slots=True)
class Expose(Request):
    """Open a port forward on this bound socket. proxy: version of the PROXY header.

    found: addresses of local's host name, for the supervisor's part alone that binds.

    name: the local address by which Unexpose names the forward, if that is not ``local``.
    """

    NAME = "expose"
    protocol: str
    local: str
    remote: str
    proxy: int | None = None
    found: list[str] | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ExposeAnswer(Answer):
    """port: the bound port of the host; None for a unix socket."""

    port: int | None = None


@dataclass(frozen=True, slots=True)
class Unexpose(Request):
    """Close a port forward."""

    NAME = "unexpose"
    protocol: str
    local: str


@dataclass(frozen=True, slots=True)
class Tunnel(Request):
    """Connect this socket to a port of a guest. head: bytes of it that were read already."""

    NAME = "tunnel"
    ip: str
    port: int
    head: bytes | None = None


@dataclass(frozen=True, slots=True)
class Accepted(Request):
    """Connect this accepted socket to a guest. first: bytes to send to the guest before the socket's.

    addr: as in a record (pipeline.records.addresses), since numbers of messages have 64 bits.
    """

    NAME = "accepted"
    addr: bytes
    port: int
    first: bytes


@dataclass(frozen=True, slots=True)
class UdpForward(Request):
    """Forward datagrams between this bound socket and a guest. key: a name for UdpUnforward.

    addr: as in Accepted.
    """

    NAME = "udp_forward"
    key: str
    addr: bytes
    port: int


@dataclass(frozen=True, slots=True)
class UdpUnforward(Request):
    """Close the UDP forward with this key."""

    NAME = "udp_unforward"
    key: str
