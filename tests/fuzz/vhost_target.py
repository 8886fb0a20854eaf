"""What the vhost-user fuzzer calls with any bytes: a frontend's messages, and rings in a guest's memory.

Messages may only be refused with SessionError, and rings with RingError, whose reasons have counters. The
device stays inside of its slot and of the guest's memory (tests.support.vhost_memory asserts that).
"""

import random
import struct

from pipeline.counters import INDEX
from pipeline.engines.virtio.from_guest import ROOM, FrameReader
from pipeline.engines.virtio.memory import RingError
from pipeline.engines.virtio.session import FEATURES, PROTOCOL_FEATURES, Session, SessionError
from pipeline.engines.virtio.to_guest import FrameWriter
from pipeline.wire import vhost_user as vu
from pipeline.wire import virtio
from pipeline.wire.errors import WireError
from tests.support.vhost_memory import AVAIL, BUFFERS, GUEST, SIZE, TABLE, Guest

KINDS = 3
SLOT = memoryview(bytearray(2 * ROOM))
_REQUESTS = tuple(range(45))
_SIZES = (0, 4, 8, 8, 8, 12, 20, 24, 40, 40, 296)
_FLAGS = (0, 1, 2, 3, 4, 4, 4, 5, 6, 0x80, 0xFFFF)
_DROPS = {"link_frame_dropped_oversized", "link_frame_dropped_bad_vnet_header"}


def one_input(data: bytes) -> None:
    """The first byte chooses messages or a direction. All others are the seed of what comes."""
    if not data:
        return
    rng = random.Random(data[1:])
    reason = ""
    try:
        (_messages, _from_guest, _to_guest)[data[0] % KINDS](rng)
    except (SessionError, RingError, WireError) as error:
        reason = error.reason
    assert not reason or reason in INDEX


def _number(rng: random.Random) -> int:
    """A number as a message has it: small, at a limit, or anything."""
    return rng.choice(
        (0, 1, 2, rng.randrange(300), 1 << rng.randrange(64), (1 << 64) - 1, rng.getrandbits(64))
    )


def _handshake(rng: random.Random) -> list[tuple[int, bytes, int]]:
    """The messages of an honest frontend: request, payload and number of descriptors."""
    index = rng.randrange(16)
    region = vu.Region(rng.getrandbits(40), 4096 << rng.randrange(20), rng.getrandbits(46), 0)
    return [
        (vu.GET_FEATURES, b"", 0),
        (vu.SET_OWNER, b"", 0),
        (vu.SET_FEATURES, vu.U64.pack(FEATURES & (rng.getrandbits(64) | virtio.F_PROTOCOL_FEATURES)), 0),
        (vu.SET_PROTOCOL_FEATURES, vu.U64.pack(PROTOCOL_FEATURES), 0),
        (vu.SET_MEM_TABLE, vu.build_memory_table((region,)), 1),
        (vu.ADD_MEM_REG, vu.build_region(region), 1),
        (vu.SET_VRING_NUM, vu.VRING_STATE.pack(index, 1 << rng.randrange(12)), 0),
        (vu.SET_VRING_BASE, vu.VRING_STATE.pack(index, rng.getrandbits(16)), 0),
        (vu.SET_VRING_ADDR, vu.VRING_ADDR.pack(index, 0, 0x1000, 0x2000, 0x3000, 0), 0),
        (vu.SET_VRING_KICK, vu.U64.pack(index), 1),
        (vu.SET_VRING_CALL, vu.U64.pack(index | vu.NO_FD), 0),
        (vu.SET_VRING_ENABLE, vu.VRING_STATE.pack(index, 1), 0),
        (vu.GET_CONFIG, vu.CONFIG.pack(0, 12, 0) + bytes(12), 0),
        (vu.GET_INFLIGHT_FD, vu.INFLIGHT.pack(0, 0, 2, 256), 0),
        (vu.GET_VRING_BASE, vu.VRING_STATE.pack(index, 0), 0),
    ]


def _messages(rng: random.Random) -> None:
    session = Session(1500)
    messages = _handshake(rng)
    for _ in range(rng.randrange(4)):
        # Lies: another order, another request, other bytes, another number of descriptors.
        at = rng.randrange(len(messages))
        request, payload, fds = messages[at]
        match rng.randrange(4):
            case 0:
                messages.insert(rng.randrange(len(messages)), messages.pop(at))
            case 1:
                messages[at] = rng.choice(_REQUESTS), payload, fds
            case 2:
                size = rng.choice((len(payload), len(payload), *_SIZES))
                whole = b"".join(_number(rng).to_bytes(8, "little") for _ in range(size // 8 + 1))
                messages[at] = request, whole[:size], fds
            case _:
                messages[at] = request, payload, rng.choice((0, 1, 2, 8))
    for request, payload, fds in messages:
        data = vu.build(request, payload, 9 if rng.random() < 0.98 else rng.getrandbits(32))
        answer = session.on_message(vu.parse_header(data[: vu.HEADER_LEN]), payload, fds)
        assert answer.reply is None or len(answer.reply) <= vu.MAX_PAYLOAD
        assert all(region.size for region in answer.regions)
        session.runs(rng.randrange(8))
        for settings in session.rings:
            assert not settings.started or settings.place is not None


def _fill(guest: Guest, rng: random.Random, write: int) -> None:
    """A driver's rings, in which any field may be a lie."""
    for number in range(guest.size):
        addr = GUEST + BUFFERS + rng.randrange(0x10000)
        length = rng.choice((60, 100, 1526, rng.randrange(4000)))
        flags, following = write, rng.randrange(guest.size)
        if rng.random() < 0.1:
            flags = rng.choice(_FLAGS)
        if rng.random() < 0.01:
            addr = rng.choice((0, GUEST + SIZE - 1, (1 << 64) - 1, rng.getrandbits(64), GUEST + TABLE))
        if rng.random() < 0.01:
            length = rng.choice((0, 1, 16, 48, 65536, 0xFFFFFFFF))
        if rng.random() < 0.01:
            following = rng.getrandbits(16)
        if rng.random() < 0.2:
            flags |= virtio.NEXT
        if flags & virtio.INDIRECT:
            flags = virtio.INDIRECT if rng.random() < 0.9 else flags
            _fill_table(guest, rng, addr, write)
            length = 16 * rng.randrange(1, 6)
        struct.pack_into("<QIHH", guest.bytes, TABLE + 16 * number, addr, length, flags, following)
    for at in range(guest.size):
        head = rng.randrange(guest.size) if rng.random() < 0.995 else rng.getrandbits(16)
        struct.pack_into("<H", guest.bytes, AVAIL + 4 + 2 * at, head)


def _fill_table(guest: Guest, rng: random.Random, addr: int, write: int) -> None:
    for number in range(5):
        at = addr - GUEST + 16 * number
        if 0 <= at <= SIZE - 16:
            flags = rng.choice((write, *[write | 1] * 3)) if rng.random() < 0.95 else rng.choice(_FLAGS)
            following = rng.choice((number + 1, number + 1, rng.randrange(6)))
            where = GUEST + BUFFERS + rng.randrange(0x10000)
            struct.pack_into("<QIHH", guest.bytes, at, where, rng.randrange(2000), flags, following)


def _guest(rng: random.Random, write: int) -> Guest:
    features = rng.choice((0, virtio.F_EVENT_IDX)) | rng.choice((0, *[virtio.F_INDIRECT_DESC] * 3))
    guest = Guest(1 << rng.randrange(6), features, ring=False)
    begin = rng.choice((0, 0xFFF0, rng.getrandbits(16)))
    struct.pack_into("<H", guest.bytes, 0x5000 + 2, begin)
    _fill(guest, rng, write)
    index = begin + rng.choice((1, guest.size // 2, guest.size, guest.size, rng.getrandbits(6)))
    struct.pack_into("<H", guest.bytes, AVAIL + 2, index & 0xFFFF)
    return guest


def _from_guest(rng: random.Random) -> None:
    guest = _guest(rng, 0)
    drops: list[str] = []
    ring = guest.start()
    reader = FrameReader(ring, guest.memory, rng.choice((10, 12)), drops.append)
    end = 256
    for _ in range(4):
        frames, end = reader.read(SLOT, end, end + rng.choice((1, 4096, 1 << 17)))
        for off, length in frames:
            assert off >= 268
            assert length > 0
            assert off + length <= end <= len(SLOT)
        ring.publish()
        ring.want_kick()
        if end > ROOM:
            end = 256
    assert set(drops) <= _DROPS


def _to_guest(rng: random.Random) -> None:
    guest = _guest(rng, virtio.WRITE)
    drops: list[str] = []
    buffers: list[bytes] = []
    for _ in range(rng.randrange(1, 6)):
        head = bytes(12) + rng.randbytes(rng.choice((14, 60, 1514)))
        payload = b"" if rng.random() < 0.5 else bytes(rng.randrange(1, 65536))
        buffers.append(struct.pack("<I", len(head) + len(payload)) + head)
        buffers += [payload] if payload else []
    ring = guest.start()
    writer = FrameWriter(ring, guest.memory, rng.choice((10, 12)), rng.random() < 0.7, drops.append)
    before = ring.index
    number, off = writer.write(buffers)
    assert 0 <= number <= len(buffers)
    assert off == 0
    assert ring.index - before & 0xFFFF <= guest.size
    ring.publish()
    writer.want_kick()
    writer.write(buffers[number:])
    assert set(drops) <= _DROPS
