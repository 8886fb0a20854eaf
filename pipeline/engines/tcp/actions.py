"""What the engine asks of its stage: actions, and segments to send.

Actions concern the host side and the slots. They queue up in order and leave with
``Connection.take_actions()``. Outgoing segments do not queue: the stage pulls them with
``Connection.transmit()``, which may itself add actions (Gone after a reset). So the stage takes
the actions after transmitting, too.

Conservation: every handle of an arrived segment ends in exactly one Deliver or Discard, and every
handle given to ``on_host_data`` in exactly one Release, also when the connection is reset,
refused or times out. After Gone the connection holds no handle.

What is made for every range (Deliver, Discard, Release, Outgoing) is a class with slots: compiled,
making one costs a third of what a NamedTuple costs.
"""

from typing import Final, NamedTuple

from pipeline.engines.tcp.segment import Handle

Header = tuple[int, int, int, int, bool, tuple[tuple[int, int], ...], int]
"""What all segments of one transmit() share: ack, wnd, ts_val, ts_ecr, has_ts, sack, mss."""
SynOptions = tuple[int, bool]
"""Options of a SYN: window scale (-1 for none), SACK permitted."""
NOT_SYN: Final = (-1, False)


class Connect(NamedTuple):
    """The guest asks for a connection: open the host side, then on_connected or on_connect_failed."""


class Deliver:
    """Hand bytes [skip, skip + length) of the range with handle buf to the host; the reference moves."""

    __slots__ = ("buf", "length", "skip")

    def __init__(self, buf: Handle, skip: int, length: int) -> None:
        self.buf = buf
        self.skip = skip
        self.length = length


class Discard:
    """A received handle that is not needed (duplicate, out of window, refused): give it back."""

    __slots__ = ("buf",)

    def __init__(self, buf: Handle) -> None:
        self.buf = buf


class Release:
    """A handle given to on_host_data is acknowledged in full, or its connection is over: give it back."""

    __slots__ = ("buf",)

    def __init__(self, buf: Handle) -> None:
        self.buf = buf


class Established(NamedTuple):
    """The handshake has finished. active: we opened it, so egress waits for this news."""

    active: bool


class HostShutdown(NamedTuple):
    """The guest's FIN was reached, after all its data: shutdown(SHUT_WR) on the host socket."""


class HostReset(NamedTuple):
    """The connection failed, was refused or reset: reset the host socket (linger 0)."""


class Gone(NamedTuple):
    """Nothing is left of this connection and it holds no handle: delete it."""


class Outgoing:
    """One range for the guest, or one segment without data.

    buf is None without data. Otherwise bytes [off, off + length) of the slot it names are to be sent, cut
    into segments of ``mss`` payload bytes (options already subtracted) of which the last may be shorter.
    PSH and FIN in flags belong to the last segment. wnd is the 16-bit field. In a SYN, mss is the value of
    the MSS option; syn_wscale >= 0 and syn_sack ask for their options.
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
