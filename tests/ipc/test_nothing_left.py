"""kill -9 of every process that uses the shared memory leaves /dev/shm as it was."""

import os
import signal
import subprocess
import sys

PROGRAM = """
import os, sys
from pipeline.ipc.ring import Consumer, Producer, ring_bytes
from pipeline.ipc.segment import Segment
from pipeline.ipc.wake import Bell, EventfdWaiter, SemaphoreWaiter

segment = Segment.create(1 << 20)
bells = [Bell(segment.buf[:64], SemaphoreWaiter()), Bell(segment.buf[64:128], EventfdWaiter())]
pids = [os.getpid()]
for role in (0, 1):
    pid = os.fork()
    if pid == 0:
        ring = segment.buf[4096:4096 + ring_bytes(64, 64)]
        producer, consumer = Producer(ring, 64), Consumer(ring, 64)
        while True:
            if role == 0:
                producer.push(bytes(64))
                producer.publish()
                bells[1].ring()
                bells[0].waiter.wait(0.001)
            else:
                consumer.release(len(consumer.peek()) // 64)
                bells[1].announce()
                bells[1].waiter.wait(0.01)
                bells[1].awake()
    pids.append(pid)
print(*pids, flush=True)
while True:
    bells[0].waiter.wait(1)
"""


def mapped_shared_memory(pid: int) -> list[str]:
    with open(f"/proc/{pid}/maps") as maps:
        return [line for line in maps if "/dev/shm/" in line]


def test_killed_processes_leave_no_name_behind() -> None:
    root = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    assert root.stdout is not None
    pids = [int(word) for word in root.stdout.readline().split()]
    assert len(pids) == 3
    try:
        for pid in pids:
            mappings = mapped_shared_memory(pid)
            assert mappings, "the processes do share memory"
            assert all("(deleted)" in line for line in mappings)
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGKILL)
        root.wait()
        root.stdout.close()
    assert not [name for name in os.listdir("/dev/shm") if f"gvtap-{root.pid}-" in name]
