"""Records about one TCP connection between tcp (the guest's side) and egress (the host socket).

They open the connection, carry its bytes in both directions, and end it. Each has the number of its flow.
CONNECTED, ORPHANED, ABORT, EVICTED, FORBIDDEN, PROXY_FAILED and CLOSED have nothing else: they are
FlowNotices (flows.py).
"""

from struct import Struct
from typing import Final

from pipeline.records.flows import FlowKey
from pipeline.records.kinds import (
    CONNECT,
    CONNECT_FAILED,
    DECIDED,
    GUEST_ANSWERED,
    GUEST_MOVED,
    SHUTDOWN,
    SOCKETS_USED_UP,
    STRAY,
    TAKEN,
    TO_GUEST,
    TO_HOST,
    WINDOW,
)
from pipeline.records.run import Run

_CONNECT: Final = Struct("<B?HHH16xII16x36s12x")  # kind, insists, link, guest, mss, flow, syn_seq, key
_ANSWERED: Final = Struct("<B3xHH16xI20x36s12x")  # kind, guest, mss, flow, key
_STRAY: Final = Struct("<B47x36s12x")  # kind, key
_MOVED: Final = Struct("<B3xH18xI68x")  # kind, guest, flow
_FAILED: Final = Struct("<B15xI?3xI32xI32x")  # kind, make_way, refused, flow, error
_USED_UP: Final = Struct("<B3xH10xI76x")  # kind, guest, make_way
_TO_HOST: Final = Struct("<B3xHHIIIII68x")  # kind, stride, piece_size, slot, off, length, skip, flow
_TO_GUEST: Final = Struct("<B7xIII4xI68x")  # kind, slot, off, length, flow
_AMOUNT: Final = Struct("<B15xI4xI68x")  # kind, count or window, flow
_DECIDED: Final = Struct("<B??21xIBx66s")  # kind, allowed, is_name, flow, length, text
_SHUTDOWN: Final = Struct("<B23xI32x?35x")  # kind, flow, both

DECIDED_TEXT: Final = 66
"""Characters of a text in one record."""
MAKE_WAY_NO: Final = 0
"""The failure has another cause than a lack of sockets."""
MAKE_WAY_OWN: Final = 1
"""No guest has more sockets than this one. Only one of its own half-open connections may end."""
MAKE_WAY_ANY: Final = 2
"""Another guest has more sockets. One of its half-open connections may end, if it has more of these too."""


class Connect:
    """CONNECT: open a connection from the host for a guest.

    guest: the number of the guest on ``link``. mss: payload bytes of a segment towards the guest. syn_seq:
    the sequence number of the guest's SYN. An ICMP error about the connection quotes it. insists: no
    half-open connection can make way. If the guest has fewer sockets than its share, another guest loses one.
    """

    def __init__(
        self, flow: int, key: FlowKey, link: int, guest: int, mss: int, syn_seq: int, insists: bool
    ) -> None:
        self.flow = flow
        self.key = key
        self.link = link
        self.guest = guest
        self.mss = mss
        self.syn_seq = syn_seq
        self.insists = insists

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "Connect":
        """The record at burst[at:]."""
        _, insists, link, guest, mss, flow, syn_seq, key = _CONNECT.unpack_from(burst, at)
        return Connect(flow, key, link, guest, mss, syn_seq, insists)

    @staticmethod
    def pack(
        flow: int, key: FlowKey, link: int, guest: int, mss: int, syn_seq: int, insists: bool = False
    ) -> bytes:
        """A record with these fields."""
        return _CONNECT.pack(CONNECT, insists, link, guest, mss, flow, syn_seq, key)


class GuestAnswered:
    """GUEST_ANSWERED: the guest with this number accepted the connection that egress dialled.

    key, mss: as in Connect.
    """

    def __init__(self, flow: int, key: FlowKey, guest: int, mss: int) -> None:
        self.flow = flow
        self.key = key
        self.guest = guest
        self.mss = mss

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "GuestAnswered":
        """The record at burst[at:]."""
        _, guest, mss, flow, key = _ANSWERED.unpack_from(burst, at)
        return GuestAnswered(flow, key, guest, mss)

    @staticmethod
    def pack(flow: int, key: FlowKey, guest: int, mss: int) -> bytes:
        """A record with these fields."""
        return _ANSWERED.pack(GUEST_ANSWERED, guest, mss, flow, key)


class Stray:
    """STRAY: the tcp worker with the connection of this key has died. The guest knows nothing of that."""

    def __init__(self, key: FlowKey) -> None:
        self.key = key

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "Stray":
        """The record at burst[at:]."""
        _, key = _STRAY.unpack_from(burst, at)
        return Stray(key)

    @staticmethod
    def pack(key: FlowKey) -> bytes:
        """A record with this field."""
        return _STRAY.pack(STRAY, key)


class GuestMoved:
    """GUEST_MOVED: the guest of a flow is back on another link. ``guest`` is its number now."""

    def __init__(self, flow: int, guest: int) -> None:
        self.flow = flow
        self.guest = guest

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "GuestMoved":
        """The record at burst[at:]."""
        _, guest, flow = _MOVED.unpack_from(burst, at)
        return GuestMoved(flow, guest)

    @staticmethod
    def pack(flow: int, guest: int) -> bytes:
        """A record with these fields."""
        return _MOVED.pack(GUEST_MOVED, guest, flow)


class ConnectFailed:
    """CONNECT_FAILED: the connection to the host could not be opened.

    error: the errno of the attempt. make_way: MAKE_WAY_*, whether a half-open connection may end for it.
    refused: a rule forbids the connection.
    """

    def __init__(self, flow: int, error: int, make_way: int, refused: bool = False) -> None:
        self.flow = flow
        self.error = error
        self.make_way = make_way
        self.refused = refused

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "ConnectFailed":
        """The record at burst[at:]."""
        _, make_way, refused, flow, error = _FAILED.unpack_from(burst, at)
        return ConnectFailed(flow, error, make_way, refused)

    @staticmethod
    def pack(flow: int, error: int, make_way: int = MAKE_WAY_NO, refused: bool = False) -> bytes:
        """A record with these fields."""
        return _FAILED.pack(CONNECT_FAILED, make_way, refused, flow, error)


class Decided:
    """DECIDED: the egress policy allows the connection, or not. A text may need several records.

    is_name: the text is the name that the guest's first bytes stated; else what has decided, as a path in the
    configuration.
    """

    def __init__(self, flow: int, allowed: bool, is_name: bool, text: str) -> None:
        self.flow = flow
        self.allowed = allowed
        self.is_name = is_name
        self.text = text

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "Decided":
        """The record at burst[at:]."""
        _, allowed, is_name, flow, length, text = _DECIDED.unpack_from(burst, at)
        return Decided(flow, allowed, is_name, text[:length].decode("latin-1"))

    @staticmethod
    def pack(flow: int, allowed: bool, is_name: bool, text: str) -> bytes:
        """A record with these fields. text: at most DECIDED_TEXT characters."""
        part = text.encode("latin-1", "replace")
        padded = part.ljust(DECIDED_TEXT, b"\0")
        return _DECIDED.pack(DECIDED, allowed, is_name, flow, len(part), padded)

    @staticmethod
    def pack_all(flow: int, allowed: bool, rule: str, name: str) -> list[bytes]:
        """The records of a decision. name: the stated one, "" for none."""
        return [
            Decided.pack(flow, allowed, is_name, text[at : at + DECIDED_TEXT])
            for is_name, text in ((False, rule), (True, name))
            for at in range(0, len(text), DECIDED_TEXT)
        ]


class SocketsUsedUp:
    """SOCKETS_USED_UP: no socket is left for a UDP flow of this guest. make_way: MAKE_WAY_*."""

    def __init__(self, guest: int, make_way: int) -> None:
        self.guest = guest
        self.make_way = make_way

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "SocketsUsedUp":
        """The record at burst[at:]."""
        _, guest, make_way = _USED_UP.unpack_from(burst, at)
        return SocketsUsedUp(guest, make_way)

    @staticmethod
    def pack(guest: int, make_way: int) -> bytes:
        """A record with these fields."""
        return _USED_UP.pack(SOCKETS_USED_UP, guest, make_way)


class ToHost(Run):
    """TO_HOST: a run of the guest's bytes for the host socket of a flow."""

    def __init__(
        self, flow: int, slot: int, off: int, length: int, stride: int, piece_size: int, skip: int
    ) -> None:
        super().__init__(slot, off, length, stride, piece_size, skip)
        self.flow = flow

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "ToHost":
        """The record at burst[at:]."""
        _, stride, piece_size, slot, off, length, skip, flow = _TO_HOST.unpack_from(burst, at)
        return ToHost(flow, slot, off, length, stride, piece_size, skip)

    @staticmethod
    def pack(flow: int, run: Run, skip: int, length: int) -> bytes:
        """A record of the length bytes of a received run that follow its first skip bytes."""
        return _TO_HOST.pack(TO_HOST, run.stride, run.piece_size, run.slot, run.off, length, skip, flow)


class Taken:
    """TAKEN: the host socket took ``count`` bytes since the last such record."""

    def __init__(self, flow: int, count: int) -> None:
        self.flow = flow
        self.count = count

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "Taken":
        """The record at burst[at:]."""
        _, count, flow = _AMOUNT.unpack_from(burst, at)
        return Taken(flow, count)

    @staticmethod
    def pack(flow: int, count: int) -> bytes:
        """A record with these fields."""
        return _AMOUNT.pack(TAKEN, count, flow)


class ToGuest:
    """TO_GUEST: bytes of the host for the guest of a flow, in one piece."""

    def __init__(self, flow: int, slot: int, off: int, length: int) -> None:
        self.flow = flow
        self.slot = slot
        self.off = off
        self.length = length

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "ToGuest":
        """The record at burst[at:]."""
        _, slot, off, length, flow = _TO_GUEST.unpack_from(burst, at)
        return ToGuest(flow, slot, off, length)

    @staticmethod
    def pack(flow: int, slot: int, off: int, length: int) -> bytes:
        """A record with these fields."""
        return _TO_GUEST.pack(TO_GUEST, slot, off, length, flow)


class Window:
    """WINDOW: the guest's receive window is about ``window`` bytes."""

    def __init__(self, flow: int, window: int) -> None:
        self.flow = flow
        self.window = window

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "Window":
        """The record at burst[at:]."""
        _, window, flow = _AMOUNT.unpack_from(burst, at)
        return Window(flow, window)

    @staticmethod
    def pack(flow: int, window: int) -> bytes:
        """A record with these fields."""
        return _AMOUNT.pack(WINDOW, window, flow)


class Shutdown:
    """SHUTDOWN: the sender of this record will send no more bytes of the stream.

    both: the host socket is closed in both directions, so the guest's bytes are not read. Tcp never sets it.
    """

    def __init__(self, flow: int, both: bool) -> None:
        self.flow = flow
        self.both = both

    @staticmethod
    def unpack(burst: memoryview, at: int) -> "Shutdown":
        """The record at burst[at:]."""
        _, flow, both = _SHUTDOWN.unpack_from(burst, at)
        return Shutdown(flow, both)

    @staticmethod
    def pack(flow: int, both: bool = False) -> bytes:
        """A record with these fields."""
        return _SHUTDOWN.pack(SHUTDOWN, flow, both)
