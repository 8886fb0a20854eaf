"""Slots that travel over three processes: each reference comes home once, and no bytes change in between."""

import os
import random
import signal
from struct import Struct

from pipeline.ipc.arena import SLOT_BYTES, Arena, Pool
from pipeline.ipc.ring import Consumer, Producer, SlotConsumer, SlotProducer, ring_bytes
from pipeline.ipc.segment import Segment
from pipeline.records.kinds import NO_SLOT

SLOTS = 16
BURSTS = 3000
RING = 64
RECORD = Struct("<IIQ48x")  # slot, offset, stamp
STAMP = Struct("<Q")
LAST = 0xFFFFFFFF


class Memory:
    """Three edges for records (home -> near, near -> far) and two free rings back home."""

    def __init__(self) -> None:
        ring, free = ring_bytes(RING, 64), ring_bytes(RING, 8)
        self.segment = Segment.create(2 * ring + 2 * free + SLOTS * SLOT_BYTES)
        buf = self.segment.buf
        self.near, self.far = buf[:ring], buf[ring : 2 * ring]
        self.free_near = buf[2 * ring : 2 * ring + free]
        self.free_far = buf[2 * ring + free : 2 * ring + 2 * free]
        self.arena = Arena(buf[2 * ring + 2 * free :], SLOTS)


def check(memory: Memory, slot: int, off: int, stamp: int) -> None:
    assert STAMP.unpack_from(memory.arena.slots[slot], off)[0] == stamp, "bytes changed under an owner"


def near(memory: Memory) -> None:
    """Frees some references itself and forwards the others."""
    come, go = Consumer(memory.near, RING), Producer(memory.far, RING)
    free = SlotProducer(memory.free_near, RING)
    rng = random.Random(1)
    running = True
    while running or go.backlog or free.backlog:
        burst = come.peek(rng.randrange(1, 20))
        for slot, off, stamp in RECORD.iter_unpack(burst):
            if slot == LAST:
                running = False
                go.push(RECORD.pack(LAST, 0, 0))
            elif rng.random() < 0.5:
                check(memory, slot, off, stamp)
                free.push(slot)
            else:
                go.push(RECORD.pack(slot, off, stamp))
        come.release(len(burst) // 64)
        go.publish()
        free.publish()
        if not len(burst):
            os.sched_yield()


def far(memory: Memory) -> None:
    """Keeps references for a while and frees them in another order."""
    come, free = Consumer(memory.far, RING), SlotProducer(memory.free_far, RING)
    rng = random.Random(2)
    held: list[tuple[int, int, int]] = []
    running = True
    while running or held or free.backlog:
        burst = come.peek(rng.randrange(1, 20))
        for slot, off, stamp in RECORD.iter_unpack(burst):
            if slot == LAST:
                running = False
            else:
                held.append((slot, off, stamp))
        come.release(len(burst) // 64)
        rng.shuffle(held)
        while held and (not running or not len(burst) or len(held) > 10):
            check(memory, *held[-1])
            free.push(held.pop()[0])
        free.publish()
        if not len(burst):
            os.sched_yield()


def test_all_references_come_home_and_no_slot_is_reused_before() -> None:
    memory = Memory()
    pids = []
    for role in (near, far):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                role(memory)
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    try:
        pool = Pool(0, SLOTS)
        out = Producer(memory.near, RING)
        back = [SlotConsumer(memory.free_near, RING), SlotConsumer(memory.free_far, RING)]
        rng = random.Random(3)
        stamp, sent = 0, 0
        while sent < BURSTS or pool.refs_out:
            for ring in back:
                for slot in ring.drain():
                    pool.unref(slot)
            if sent < BURSTS and out.room() > 16 and (slot := pool.alloc()) != NO_SLOT:
                frames = rng.randrange(1, 16)
                pool.ref(slot, frames - 1)
                for frame in range(frames):
                    stamp += 1
                    STAMP.pack_into(memory.arena.slots[slot], frame * 64, stamp)
                    out.push(RECORD.pack(slot, frame * 64, stamp))
                sent += 1
                if sent == BURSTS:
                    out.push(RECORD.pack(LAST, 0, 0))
            else:
                os.sched_yield()
            out.publish()
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
        pids.clear()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert pool.audit() is None
    assert pool.free_count == SLOTS
    for ring in back:
        assert ring.drain() == []
