"""Puts the frames of trains together again (pipeline.wire.vxlan_train).

The sender is pipeline.engines.vxlan.train.

Usually the kernel hands over the datagrams of a train together (UDP_GRO). Then numpy compares the headers at
once, and one strided copy joins the chunks in the memory of the receiver. But datagrams may also come in
several pieces, alone, twice, in any order, mixed with others, or not at all. So chunks that are not a whole
train are copied into a *partial* train, which has the memory of one frame.

Memory is bounded. There are at most MAX_PARTIALS partial trains, and MAX_OF_HOST of one host. The oldest one
of the host that has most makes room for a new one, and counts as lost (``vxlan_frame_dropped_incomplete``). A
partial train that got nothing between two calls of age() is lost as well. Datagrams that contradict
themselves, their network or earlier ones of their train are dropped (``vxlan_datagram_dropped_malformed``).
"""

from collections import deque
from collections.abc import Callable
from typing import Final

import numpy as np

from pipeline.wire.virtio_net import LONG_LEN
from pipeline.wire.vxlan import VNI_SHIFT
from pipeline.wire.vxlan_train import (
    CHUNK,
    CHUNK_HEADER,
    HEADER_LEN,
    MALFORMED,
    MARK,
    MAX_CHUNK,
    MAX_TOTAL,
    MIN_CHUNK,
    MIN_TOTAL,
    chunks_of,
)

MAX_PARTIALS: Final = 32
MAX_OF_HOST: Final = 8

INCOMPLETE: Final = "vxlan_frame_dropped_incomplete"

_U1: Final = np.dtype("u1")
_BIG2: Final = np.dtype(">u2")
_WORDS: Final[int] = HEADER_LEN // 2
_MOST: Final = 128
"""Datagrams whose headers are compared at once, twice as many as Linux hands over together."""
_STEPS: Final = np.zeros((_MOST, _WORDS), dtype="u2")
"""What the headers of consecutive chunks have more than the first one: the number, in the second word."""
_STEPS[:, 1] = np.arange(0, _MOST, dtype="u2")

_ndarray = np.ndarray
_and = np.logical_and.reduce


def join(view: memoryview, begin: int, pitch: int, total: int, made: memoryview, at: int) -> None:
    """Copy the frame of a whole train to made[at:], and its virtio-net header before it.

    The train has ``total`` bytes, in datagrams of ``pitch`` bytes at view[begin:]. Both do not overlap.
    """
    chunk_len = pitch - HEADER_LEN
    full = total // chunk_len
    if full:
        rows = _ndarray((full, chunk_len), _U1, view, begin + HEADER_LEN, (pitch, 1))
        _ndarray((full, chunk_len), _U1, made, at)[:] = rows
    rest = total - full * chunk_len
    if rest:
        first = begin + full * pitch + HEADER_LEN
        made[at + total - rest : at + total] = view[first : first + rest]
    _lead(made, at, total)


def _lead(made: memoryview, at: int, total: int) -> None:
    """The virtio-net header follows the frame at ``at``: put it before the frame."""
    made[at - LONG_LEN : at] = made[at + total - LONG_LEN : at + total]


class Whole:
    """The bytes of a train that came in pieces."""

    __slots__ = ("_data", "host", "total")

    def __init__(self, host: int, data: bytearray) -> None:
        self.host = host
        self.total = len(data)
        self._data = data

    def put(self, made: memoryview, at: int) -> None:
        """Copy the frame to made[at:], and its virtio-net header before it."""
        made[at : at + self.total] = self._data
        _lead(made, at, self.total)


class _Partial:
    """A train of which chunks are missing."""

    __slots__ = ("chunk_len", "data", "here", "is_old", "missing")

    def __init__(self, total: int, chunk_len: int, count: int) -> None:
        self.data = bytearray(total)
        self.chunk_len = chunk_len
        self.here = bytearray(count)
        """1 for each chunk that has come."""
        self.missing = count
        self.is_old = False


class Trains:
    """The trains of all hosts, which have numbers."""

    def __init__(self, vni: int, drop: Callable[[str, int], object]) -> None:
        """drop(counter, count): called for what is dropped."""
        self._network = vni << VNI_SHIFT
        self._drop = drop
        self._partials: dict[tuple[int, int], _Partial] = {}
        """By the number of the host and that of the train. The oldest come first."""
        self._of_host: dict[int, int] = {}
        """How many of these each host has."""
        self.whole: deque[Whole] = deque()
        """Trains that came in pieces and are complete. The owner takes them."""

    def __len__(self) -> int:
        return len(self._partials)

    def add(self, view: memoryview, begin: int, end: int, pitch: int, host: int) -> tuple[int, int]:
        """Take a datagram, and those after it that continue its train.

        The datagrams are in view[begin:end] and have ``pitch`` bytes each. The last may be shorter. Returns
        where the first one lies that was not taken, and the length of the train if those that were taken are
        all of it: then the caller has to join() it. Else the length is 0. Nothing is raised.
        """
        stop = min(begin + pitch, end)
        length = stop - begin - HEADER_LEN
        if length < 1:
            self._drop(MALFORMED, 1)
            return stop, 0
        mark, kind, number, network, train, total, chunk_len = CHUNK_HEADER.unpack_from(view, begin)
        if (
            mark != MARK
            or kind != CHUNK
            or network != self._network
            or not MIN_TOTAL <= total <= MAX_TOTAL
            or not MIN_CHUNK <= chunk_len <= MAX_CHUNK
        ):
            self._drop(MALFORMED, 1)
            return stop, 0
        count = chunks_of(total, chunk_len)
        last_len = total - (count - 1) * chunk_len
        if number >= count or length != (chunk_len if number < count - 1 else last_len):
            self._drop(MALFORMED, 1)
            return stop, 0
        taken = 1
        if length == chunk_len and number + 1 < count and stop < end:
            taken = self._run(view, begin, end, pitch, min(count - number, _MOST))
            stop = begin + taken * pitch
            if number + taken == count - 1 and last_len < chunk_len and stop + HEADER_LEN + last_len == end:
                head = CHUNK_HEADER.pack(mark, kind, count - 1, network, train, total, chunk_len)
                if view[stop : stop + HEADER_LEN] == head:
                    taken += 1
                    stop = end
        if taken == count and (host, train) not in self._partials and not self.whole:
            return stop, total
        self._keep(view, begin, pitch, taken, host, train, (number, total, chunk_len))
        return stop, 0

    def add_stray(self, view: memoryview, begin: int, end: int, host: int) -> None:
        """Take the datagram in view[begin:end], which came between others that are not of a train."""
        _, total = self.add(view, begin, end, end - begin, host)
        if total:
            first = begin + HEADER_LEN
            self.whole.append(Whole(host, bytearray(view[first : first + total])))

    def _run(self, view: memoryview, begin: int, end: int, pitch: int, most: int) -> int:
        """How many datagrams of ``pitch`` bytes at ``begin`` are consecutive chunks, at most ``most``."""
        count = min((end - begin) // pitch, most)
        heads = _ndarray((count, _WORDS), _BIG2, view, begin, (pitch, 2))
        same = heads - heads[0] == _STEPS[:count]
        if same.all():
            return count
        return int(_and(same, 1).argmin())

    def _keep(
        self,
        view: memoryview,
        begin: int,
        pitch: int,
        taken: int,
        host: int,
        train: int,
        place: tuple[int, int, int],
    ) -> None:
        """Copy consecutive chunks into their partial train. place: number of the first, total, chunk_len."""
        number, total, chunk_len = place
        key = host, train
        partial = self._partials.get(key)
        if partial is None:
            self._make_room(host)
            partial = self._partials[key] = _Partial(total, chunk_len, chunks_of(total, chunk_len))
            self._of_host[host] = self._of_host.get(host, 0) + 1
        here = partial.here
        if len(partial.data) != total or partial.chunk_len != chunk_len or any(here[number : number + taken]):
            # Another train has this number, or a chunk came twice.
            self._drop(MALFORMED, taken)
            return
        data = partial.data
        first = begin + HEADER_LEN
        at = number * chunk_len
        full = min(taken, (total - at) // chunk_len)
        if full:
            rows = _ndarray((full, chunk_len), _U1, view, first, (pitch, 1))
            _ndarray((full, chunk_len), _U1, data, at)[:] = rows
        if full < taken:
            at += full * chunk_len
            first += full * pitch
            data[at:total] = view[first : first + total - at]
        here[number : number + taken] = b"\1" * taken
        partial.is_old = False
        partial.missing -= taken
        if not partial.missing:
            self._forget(key)
            self.whole.append(Whole(host, data))

    def _make_room(self, host: int) -> None:
        """Make room for another partial train of the host."""
        if self._of_host.get(host, 0) < MAX_OF_HOST:
            if len(self._partials) < MAX_PARTIALS:
                return
            most = max(self._of_host.values())
            host = next(each for each, count in self._of_host.items() if count == most)
        self._lose(next(key for key in self._partials if key[0] == host))

    def _forget(self, key: tuple[int, int]) -> None:
        """There is no such partial train any more."""
        del self._partials[key]
        left = self._of_host[key[0]] - 1
        if left:
            self._of_host[key[0]] = left
        else:
            del self._of_host[key[0]]

    def _lose(self, key: tuple[int, int]) -> None:
        """The rest of a partial train will not come."""
        self._forget(key)
        self._drop(INCOMPLETE, 1)

    def age(self) -> None:
        """Forget partial trains that have got nothing since the call before the last one."""
        for key in [key for key, partial in self._partials.items() if partial.is_old]:
            self._lose(key)
        for partial in self._partials.values():
            partial.is_old = True

    def forget_host(self, host: int) -> None:
        """The host is gone, and so is what came from it."""
        for key in [key for key in self._partials if key[0] == host]:
            self._lose(key)
        self.whole = deque([each for each in self.whole if each.host != host])
