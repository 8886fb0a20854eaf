"""Sends and reads many datagrams with one system call: UDP_SEGMENT and recvmmsg(2), both of Linux.

Each datagram keeps its boundaries. If the system lacks UDP_SEGMENT, or the route cannot use it (a tunnel, a
device without checksums), Sender sends the datagrams one by one. The result for the caller is the same.
"""

import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Sequence
from ipaddress import IPv6Address
from typing import Final

import numpy as np

from pipeline.host.udp_local import Address, Control
from pipeline.wire import ip

MAX_DATAGRAM: Final = 65527
"""Bytes: 65535 less the UDP header. IPv6 carries that much, IPv4 20 bytes less."""
MAX_SEGMENTED: Final = 65507
"""Bytes of the datagrams of one call, in all: 65535 less the IPv4 and UDP headers."""
MAX_SEGMENTS: Final = 64
"""The most datagrams of one call. This is UDP_MAX_SEGMENTS of Linux up to 6.8."""

SOL_UDP: Final = 17
UDP_SEGMENT: Final = 103

FEW: Final = 2
"""Up to this number of rows, numpy takes longer to prepare a read than a loop."""
_SIZE: Final = struct.Struct("=H")
_UNABLE: Final = frozenset({errno.EINVAL, errno.EIO, errno.ENOPROTOOPT, errno.EMSGSIZE, errno.EOPNOTSUPP})
"""Errnos of a kernel or route that cannot cut datagrams. Single datagrams may still be sent."""


def can_segment() -> bool:
    """Whether this system has UDP_SEGMENT (Linux 4.18 and later)."""
    if sys.platform != "linux":
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.getsockopt(SOL_UDP, UDP_SEGMENT)
        except OSError:
            return False
    return True


class Sender:
    """Sends runs of datagrams. One object serves all sockets of a worker."""

    __slots__ = ("segments",)

    def __init__(self, segments: bool) -> None:
        """segments: whether to use UDP_SEGMENT, see can_segment()."""
        self.segments = segments

    def send(
        self,
        sock: socket.socket,
        pieces: Sequence[memoryview],
        size: int,
        address: Address | None = None,
        control: Control = (),
    ) -> int:
        """Send each piece as a datagram, in order. Returns how many the socket took before it was full.

        All pieces have size bytes, except that the last may be shorter. Raises SendError if a datagram cannot
        be sent. Its ``sent`` is the number of datagrams sent before that one.
        """
        step = min(MAX_SEGMENTS, MAX_SEGMENTED // size) if size else 1
        sent = 0
        count = len(pieces)
        while sent < count:
            part = pieces[sent : sent + step]
            if len(part) == 1 or not self.segments:
                return self._one_by_one(sock, pieces, sent, address, control)
            try:
                _send_segments(sock, part, size, address, control)
            except BlockingIOError:
                return sent
            except OSError as error:
                if error.errno not in _UNABLE:
                    raise SendError(error, sent) from error
                return self._one_by_one(sock, pieces, sent, address, control)
            sent += len(part)
        return sent

    def _one_by_one(
        self,
        sock: socket.socket,
        pieces: Sequence[memoryview],
        sent: int,
        address: Address | None,
        control: Control,
    ) -> int:
        for piece in pieces[sent:]:
            try:
                if address is None:
                    sock.send(piece)
                elif control:
                    sock.sendmsg((piece,), control, 0, address)
                else:
                    sock.sendto(piece, address)
            except BlockingIOError:
                break
            except OSError as error:
                raise SendError(error, sent) from error
            sent += 1
        return sent


class SendError(OSError):
    """A datagram of a run could not be sent. ``sent`` datagrams were sent before it."""

    def __init__(self, error: OSError, sent: int) -> None:
        super().__init__(error.errno, error.strerror)
        self.sent = sent


def _send_segments(
    sock: socket.socket, pieces: Sequence[memoryview], size: int, address: Address | None, control: Control
) -> None:
    messages = [(SOL_UDP, UDP_SEGMENT, _SIZE.pack(size)), *control]
    if address is None:
        sock.sendmsg(pieces, messages)
    else:
        sock.sendmsg(pieces, messages, 0, address)


# --- recvmmsg -----------------------------------------------------------------------


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr of Linux."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iov_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr of Linux."""

    _fields_ = (("header", _Header), ("length", ctypes.c_uint))


def can_receive_many() -> bool:
    """Whether this system has recvmmsg."""
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "recvmmsg")


_NAME_BYTES: Final = 28
"""struct sockaddr_in6. struct sockaddr_in has 16."""


_POINTER: Final = struct.Struct("=Q" if ctypes.sizeof(ctypes.c_void_p) == 8 else "=I")
_LENGTH: Final = struct.Struct("=I")
_MESSAGE_BYTES: Final = ctypes.sizeof(_Message)


class Receiver:
    """Reads up to ``rows`` datagrams at once, each into a row of its own.

    Each row has ``chunk`` bytes. The caller chooses where the rows lie. The tail of a longer datagram goes to
    memory of this object. tail() returns it until the next read.
    """

    def __init__(self, rows: int, chunk: int, *, sources: bool = False) -> None:
        """Requires can_receive_many(). sources: read the source address of each datagram too."""
        libc = ctypes.CDLL(None, use_errno=True)
        self.rows = rows
        self.chunk = chunk
        self._call = libc.recvmmsg
        self._call.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
        self._tail_bytes = MAX_DATAGRAM - chunk
        # The system allocates these pages only when a long datagram needs them.
        self._tails = np.zeros((rows, self._tail_bytes), "u1")
        self._messages = (_Message * rows)()
        self._iovecs = (_Iovec * (2 * rows))()
        iovecs_at = ctypes.addressof(self._iovecs)
        for row, message in enumerate(self._messages):
            first, tail = self._iovecs[2 * row], self._iovecs[2 * row + 1]
            first.length = chunk
            tail.base = self._tails[row].ctypes.data
            tail.length = self._tail_bytes
            message.header.iov = iovecs_at + 2 * row * ctypes.sizeof(_Iovec)
            message.header.iov_count = 2
        self._names = np.zeros((rows if sources else 0, _NAME_BYTES), "u1")
        for message, name in zip(self._messages, self._names, strict=False):
            message.header.name = name.ctypes.data
            message.header.name_length = _NAME_BYTES
        self._address = ctypes.addressof(self._messages)
        word = np.dtype(f"u{ctypes.sizeof(ctypes.c_void_p)}")
        self._iovec_bytes = memoryview(self._iovecs).cast("B")
        self._iovec_step = 2 * ctypes.sizeof(_Iovec)
        self._message_bytes = memoryview(self._messages).cast("B")
        self._bases = np.ndarray((rows,), word, self._iovec_bytes, 0, (self._iovec_step,))
        self._lengths = np.ndarray(
            (rows,), "u4", self._message_bytes, _Message.length.offset, (_MESSAGE_BYTES,)
        )
        self._has_sources = sources
        self._name_lengths = np.ndarray(
            (rows,),
            "u4",
            self._message_bytes,
            _Header.name_length.offset,
            (_MESSAGE_BYTES,),
        )
        self._numbers = np.arange(rows, dtype=word)
        self._steps = self._numbers
        self._stride = 1
        self._origins: dict[int, int] = {}

    def receive(self, fd: int, view: memoryview, off: int, stride: int, rows: int) -> list[int]:
        """Read at most rows datagrams into view[off:], view[off + stride:] and so on. Returns their lengths.

        rows must be at most ``self.rows``. All rows must lie in view, and view must live as long as this
        object. Raises BlockingIOError if nothing is there, and OSError for an error of the socket.
        """
        origin = self._origins.get(id(view))
        if origin is None:
            self._origins[id(view)] = origin = np.frombuffer(view, "u1").ctypes.data
        if stride != self._stride:
            self._stride = stride
            self._steps = self._numbers * stride
        if rows <= FEW:
            for row in range(rows):
                _POINTER.pack_into(self._iovec_bytes, row * self._iovec_step, origin + off + row * stride)
        else:
            np.add(self._steps, origin + off, self._bases)
        if self._has_sources:
            # The last read may have been of a socket of the other family, and has left its lengths.
            self._name_lengths[:] = _NAME_BYTES
        count = self._call(fd, self._address, rows, socket.MSG_DONTWAIT, None)
        if count < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        if count <= FEW:
            return [
                _LENGTH.unpack_from(self._message_bytes, row * _MESSAGE_BYTES + _Message.length.offset)[0]
                for row in range(count)
            ]
        lengths: list[int] = self._lengths[:count].tolist()
        return lengths

    def sources(self, count: int) -> list[int]:
        """The sources of the first count datagrams of the last read, each as address << 16 | port."""
        names = self._names[:count]
        if names[0, :2].view("=u2")[0] == socket.AF_INET6:
            return [
                ip.of(IPv6Address(row[8:24].tobytes())) << 16 | int(row[2]) << 8 | int(row[3])
                for row in names
            ]
        ports = names[:, 2:4].view(">u2")[:, 0]
        addrs = names[:, 4:8].view(">u4")[:, 0]
        found: list[int] = ((addrs.astype("u8") | ip.MAPPED) << 16 | ports).tolist()
        return found

    def tail(self, row: int, length: int) -> memoryview:
        """The part of a datagram of length bytes that did not fit into its row."""
        return memoryview(self._tails[row])[: length - self.chunk]


def runs(lengths: list[int], limit: int) -> list[tuple[int, int]]:
    """Divide datagrams into runs of equal length, each as (first, count). The last of a run may be shorter.

    A datagram that is empty or longer than limit is a run of its own.
    """
    count = len(lengths)
    found = []
    begin = 0
    while begin < count:
        size = lengths[begin]
        end = begin + 1
        if 0 < size <= limit:
            while end < count and lengths[end] == size:
                end += 1
            if end < count and 0 < lengths[end] < size:
                end += 1
        found.append((begin, end - begin))
        begin = end
    return found
