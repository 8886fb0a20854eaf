"""What the TCP engine, which does no I/O, asks its stage to do: actions, and segments to send.

Actions concern the host socket and the slots. They queue in order, and the stage takes them with
``Connection.take_actions()``. Outgoing segments do not queue: the stage pulls them with
``Connection.transmit()``. This may add actions (Gone after a reset). So the stage takes the actions after
transmit(), too.

Every handle of a received segment ends in exactly one Deliver or Discard. Every handle given to
``on_host_data`` ends in exactly one Release. This also holds when the connection is reset, refused or times
out. After Gone the connection holds no handle.

Deliver, Discard, Release and Outgoing are made for every range. They are classes with slots, because a
compiled one is made in a third of the time of a NamedTuple.
"""

from typing import Final, NamedTuple

from pipeline.engines.tcp.segment import Handle

Header = tuple[int, int, int, int, bool, tuple[tuple[int, int], ...], int]
"""The fields that all segments of one transmit() share: ack, wnd, ts_val, ts_ecr, has_ts, sack, mss."""
SynOptions = tuple[int, bool]
"""Options of a SYN: window scale (-1 for none), SACK permitted."""
NOT_SYN: Final = (-1, False)


class Connect(NamedTuple):
    """The guest asks for a connection: open the host socket, then call on_connected or on_connect_failed."""


class Deliver:
    """Pass bytes [skip, skip + length) of the range with handle buf to the host, with its reference."""

    __slots__ = ("buf", "length", "skip")

    def __init__(self, buf: Handle, skip: int, length: int) -> None:
        self.buf = buf
        self.skip = skip
        self.length = length


class Discard:
    """Free a received handle that is not needed (duplicate, out of window, refused)."""

    __slots__ = ("buf",)

    def __init__(self, buf: Handle) -> None:
        self.buf = buf


class Release:
    """Free a handle given to on_host_data: all its bytes are acknowledged, or the connection is over."""

    __slots__ = ("buf",)

    def __init__(self, buf: Handle) -> None:
        self.buf = buf


class Established(NamedTuple):
    """The handshake has finished. active: the host opened the connection, so egress must learn it."""

    active: bool


class HostShutdown(NamedTuple):
    """The guest's FIN follows all its data: call shutdown(SHUT_WR) on the host socket."""


class HostReset(NamedTuple):
    """The connection failed, was refused or was reset: reset the host socket (linger 0)."""


class Gone(NamedTuple):
    """The connection is over and holds no handle: delete it."""


class Outgoing:
    """One range for the guest, or one segment without data.

    buf is None without data. Otherwise send bytes [off, off + length) of the slot that it names, in segments
    of ``mss`` payload bytes (options already subtracted). The last may be shorter. PSH and FIN in flags are
    for the last segment. wnd is the 16-bit field. In a SYN, mss is the value of the MSS option, and
    syn_wscale >= 0 and syn_sack ask for their options.
    """

    __slots__ = (
        "ack",
        "buf",
        "flags",
        "has_ts",
        "length",
        "mss",
        "off",
        "sack",
        "seq",
        "syn_sack",
        "syn_wscale",
        "ts_ecr",
        "ts_val",
        "wnd",
    )

    def __init__(
        self,
        seq: int,
        flags: int,
        header: Header,
        buf: Handle = None,
        off: int = 0,
        length: int = 0,
        syn: SynOptions = NOT_SYN,
    ) -> None:
        self.seq = seq
        self.flags = flags
        self.ack, self.wnd, self.ts_val, self.ts_ecr, self.has_ts, self.sack, self.mss = header
        self.buf = buf
        self.off = off
        self.length = length
        self.syn_wscale, self.syn_sack = syn


Action = Connect | Deliver | Discard | Release | Established | HostShutdown | HostReset | Gone

CONNECT: Final = Connect()
HOST_SHUTDOWN: Final = HostShutdown()
HOST_RESET: Final = HostReset()
GONE: Final = Gone()
