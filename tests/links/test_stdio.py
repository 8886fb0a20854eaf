"""A guest on two pipes, and the taking of the standard streams (in a process of its own)."""

import os
import subprocess
import sys

import pytest

from pipeline.links.stdio import StdioListener
from tests.support.owner import Owner

TAKE = """
import os, sys
from pipeline.links import stdio
read, write = stdio.take()
print("by mistake")
sys.stdout.flush()
os.write(write, b"frame:" + os.read(read, 100))
assert sys.stdin.read() == ""
"""


def test_frames_pass_both_ways_and_the_end_is_the_end(owner: Owner) -> None:
    (from_guest, guest_out), (guest_in, to_guest) = os.pipe(), os.pipe()
    owner.open(StdioListener(from_guest, to_guest))
    guest = owner.guest()
    assert guest.peer == "remote"
    assert guest.link.fileno() == from_guest
    assert guest.link.write_fileno() == to_guest
    os.write(guest_out, b"\5\0hello\3\0you")
    assert owner.frames(2) == [b"hello", b"you"]
    assert guest.link.send([b"\2\0", b"ok", b"\1\0x"])
    assert os.read(guest_in, 100) == b"\2\0ok\1\0x"
    os.close(guest_out)
    assert owner.end_of(guest) == "cannot read size from socket: EOF"
    os.close(guest_in)
    assert guest.link.fileno() == -1


def test_a_guest_that_does_not_read_blocks_the_link_and_gets_everything_later(owner: Owner) -> None:
    (from_guest, guest_out), (guest_in, to_guest) = os.pipe(), os.pipe()
    owner.open(StdioListener(from_guest, to_guest))
    link = owner.guest().link
    sent = b""
    while not link.blocked:
        frame = len(sent).to_bytes(4, "little") * 2048
        sent += frame
        assert link.send([memoryview(frame)])
    found = b""
    while len(found) < len(sent):
        found += os.read(guest_in, 1 << 20)
        link.flush()
    assert found == sent
    os.close(guest_in)
    os.close(guest_out)


def test_an_listener_that_was_never_opened_closes_its_descriptors() -> None:
    (read, other), (another, write) = os.pipe(), os.pipe()
    StdioListener(read, write).close()
    for fd in (read, write):
        with pytest.raises(OSError):
            os.fstat(fd)
    os.close(other)
    os.close(another)


def test_what_prints_by_mistake_does_not_reach_the_guest() -> None:
    done = subprocess.run([sys.executable, "-c", TAKE], input=b"hi", capture_output=True, timeout=20)
    assert done.stdout == b"frame:hi"
    assert done.stderr == b"by mistake\n"
    assert done.returncode == 0


def test_what_cannot_be_waited_for_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TAKE], stdin=subprocess.DEVNULL, capture_output=True, timeout=20
    )
    assert b"standard input is neither pipe nor socket" in done.stderr
