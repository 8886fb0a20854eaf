"""Cuts a frame into the datagrams of a train, as one piece of memory (pipeline.wire.vxlan_train).

The kernel sends equally long datagrams with one system call (UDP_SEGMENT). They are the rows of an array that
stays from train to train. Its headers are written once for each length of datagrams. So a train costs one
copy of its frame with numpy, and 8 bytes in each row::

    header | chunk 0
    header | chunk 1
    ...
    header | rest of the frame | virtio-net header      may be shorter

This is the sender. pipeline.engines.vxlan.trains is the receiver.
"""

from struct import Struct
from typing import Final

import numpy as np

from pipeline.wire.vxlan import VNI_SHIFT
from pipeline.wire.vxlan_train import (
    CHUNK,
    CHUNK_HEADER,
    HEADER_LEN,
    MARK,
    MAX_CHUNK,
    MAX_TOTAL,
    MIN_CHUNK,
    NUMBER_OFF,
    TRAIN_OFF,
    chunks_of,
)

SCRATCH_BYTES: Final = MAX_TOTAL + chunks_of(MAX_TOTAL, MIN_CHUNK) * HEADER_LEN + MAX_CHUNK
"""The most bytes of a train, whose last datagram may be as long as the others."""

_NUMBERS: Final = Struct("!II")
_U1: Final = np.dtype("u1")
_BIG2: Final = np.dtype(">u2")

_ndarray = np.ndarray


class Packer:
    """Makes trains. The memory that it returns is valid until the next call."""

    def __init__(self, vni: int, last_train: int = 0) -> None:
        """last_train: the number before that of the first train. A link chooses it at random.

        A receiver may still have chunks of an earlier run of this host. No checksum would notice that a train
        was completed with them.
        """
        self._vni = vni
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._pitch = 0
        self._rows = _ndarray((0, 0), _U1, self._scratch)
        self._train = last_train

    def pack(self, frame: memoryview | bytes, header: bytes, pitch: int) -> memoryview:
        """The datagrams of a frame, one after another. All but the last have ``pitch`` bytes.

        header: the virtio-net header of the frame. Both have at most MAX_TOTAL bytes together.
        pitch: at least HEADER_LEN + MIN_CHUNK, at most HEADER_LEN + MAX_CHUNK.
        """
        if pitch != self._pitch:
            self._lay_out(pitch)
        chunk_len = pitch - HEADER_LEN
        frame_len = len(frame)
        total = frame_len + len(header)
        count = chunks_of(total, chunk_len)
        rows = self._rows
        scratch = self._scratch
        self._train = self._train + 1 & 0xFFFFFFFF
        numbers = _ndarray((8,), _U1, _NUMBERS.pack(self._train, total))
        rows[:count, TRAIN_OFF : TRAIN_OFF + 8] = numbers
        full = frame_len // chunk_len
        if full:
            rows[:full, HEADER_LEN:] = _ndarray((full, chunk_len), _U1, frame)
        # The rest of the frame, and its header, which may end in another row.
        rest = bytes(frame[full * chunk_len :]) + header
        at = full * pitch
        while rest:
            part = rest[:chunk_len]
            scratch[at + HEADER_LEN : at + HEADER_LEN + len(part)] = part
            rest = rest[chunk_len:]
            at += pitch
        return scratch[: total + count * HEADER_LEN]

    def _lay_out(self, pitch: int) -> None:
        """Write what the headers of all trains with datagrams of this length have in common."""
        self._pitch = pitch
        count = min(chunks_of(MAX_TOTAL, pitch - HEADER_LEN), len(self._scratch) // pitch)
        self._rows = rows = _ndarray((count, pitch), _U1, self._scratch)
        head = CHUNK_HEADER.pack(MARK, CHUNK, 0, self._vni << VNI_SHIFT, 0, 0, pitch - HEADER_LEN)
        rows[:, :HEADER_LEN] = _ndarray((HEADER_LEN,), _U1, head)
        numbers = _ndarray((count,), _BIG2, self._scratch, NUMBER_OFF, (pitch,))
        numbers[:] = np.arange(0, count, dtype="u2")
