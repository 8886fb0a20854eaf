"""What the engine asks of its stage.

Actions go towards the host side and the slots; they queue up in order and leave with
``Connection.take_actions()``. Outgoing segments do not queue: the stage pulls them with
``Connection.transmit()``, which may itself add actions (Gone behind a reset), so take the
actions after transmitting, too.

Conservation: every handle of an arrived segment ends in exactly one Deliver or Discard,
every handle given to ``on_host_data`` in exactly one Release, also when the connection is
reset, refused or times out. After Gone the connection holds no handle.
"""

from typing import Final, NamedTuple

from pipeline.engines.tcp.segment import Handle


class Connect(NamedTuple):
    """The guest asks for a connection: open the host side, then on_connected or on_connect_failed."""


class Deliver(NamedTuple):
    """Hand bytes [skip, skip + length) of the range behind buf to the host; the reference moves."""

    buf: Handle
    skip: int
    length: int


class Discard(NamedTuple):
    """A received handle that is not needed (duplicate, out of window, refused): give it back."""

    buf: Handle


class Release(NamedTuple):
    """A handle given to on_host_data is acknowledged in full, or its connection is over: give it back."""

    buf: Handle


class Established(NamedTuple):
    """The handshake has finished. active: we opened it, so egress waits for this news."""

    active: bool


class HostShutdown(NamedTuple):
    """The guest's FIN was reached behind all its data: shutdown(SHUT_WR) on the host socket."""


class HostReset(NamedTuple):
    """The connection failed, was refused or reset: reset the host socket (linger 0)."""


class Gone(NamedTuple):
    """Nothing is left of this connection and it holds no handle: delete it."""


class Outgoing(NamedTuple):
    """One range for the guest, or one segment without data.

    buf is None without data; else bytes [off, off + length) of the slot it names are to be
    sent, cut into segments of ``mss`` payload bytes (options already subtracted) of which
    the last may be shorter. PSH and FIN in flags belong to the last segment. wnd is the 16-bit
    field. In a SYN, mss is the value of the MSS option, syn_wscale >= 0 and syn_sack ask for
    theirs.
    """

    seq: int
    ack: int
    flags: int
    wnd: int
    ts_val: int
    ts_ecr: int
    has_ts: bool
    sack: tuple[tuple[int, int], ...]
    buf: Handle
    off: int
    length: int
    mss: int
    syn_wscale: int = -1
    syn_sack: bool = False


Action = Connect | Deliver | Discard | Release | Established | HostShutdown | HostReset | Gone

CONNECT: Final = Connect()
HOST_SHUTDOWN: Final = HostShutdown()
HOST_RESET: Final = HostReset()
GONE: Final = Gone()
