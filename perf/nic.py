"""Plays a hypervisor's network card for measurements: it bridges a tap in the guest to a unix stream socket.

The socket uses QEMU's framing (4-byte big-endian length, then the Ethernet frame). So the same process serves
this program, gvproxy and passt, and their figures are comparable. Like a real virtual card, it has TSO: it
accepts TCP super-segments of up to 64 KiB from the guest's kernel, and cuts them to frames of the MTU. It
also has LRO: it merges consecutive frames of a burst before the guest gets them. With `--plain` it has no
offload, and moves one frame with each system call, as QEMU does for a back end without virtio headers.

Each direction is a process with blocking writes. So a peer that stops reading stops only what the guest
sends. If one end is closed, or a length is over MAX_FRAME, both processes end.

    python -m perf.nic --tap eth0 --socket /run/net.sock --mtu 1500 [--plain] [--ready-fd N]
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import time

import numpy as np

from perf.namespaces import die_with_parent
from perf.segmentation import (
    GSO_NONE,
    GSO_TCPV4,
    NEEDS_CSUM,
    PREFIX,
    VNET,
    VNET_HDR,
    complete_checksum,
    cut,
    merge,
)

MAX_FRAME = 131072
BURST = 128 * 1024  # bytes collected from the tap before they are sent
ROOM = 160 * 1024  # room after the burst: one more super-segment, cut to small frames
# A unix stream socket keeps the bytes of one send in buffers of up to 48 KiB. Each send here is at most one
# such buffer of whole frames (or one larger frame). Otherwise passt may read a part of a frame whose rest is
# in several buffers, and then loses its place in the stream.
SEND = 48_000
READ = 1024 * 1024  # bytes read from the socket at once

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_TUN_F_CSUM = 0x01
_TUN_F_TSO4 = 0x02
_NO_VNET = bytes(VNET_HDR)


def open_tap(name: str, offloads: int | None) -> int:
    """A non-blocking tap. With `offloads` (TUN_F_ bits, may be 0) each frame has a virtio-net header."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    flags = _IFF_TAP | _IFF_NO_PI | (0 if offloads is None else _IFF_VNET_HDR)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    if offloads is not None:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, offloads)
    return fd


def from_guest(tap: int, link: socket.socket) -> None:
    """Tap to socket, with TSO. Reads all that the tap has, and sends it with one call."""
    out = np.zeros(BURST + ROOM, np.uint8)
    out_view = memoryview(out)
    frame = np.zeros(ROOM, np.uint8)
    frame_view = memoryview(frame)
    header = bytearray(VNET_HDR)
    parts = [header, frame_view]
    poll = select.poll()
    poll.register(tap, select.POLLIN)
    while True:
        filled = sent = 0
        while filled < BURST:
            try:
                length = os.readv(tap, parts) - VNET_HDR
            except BlockingIOError:
                break
            if filled - sent + PREFIX + length > SEND and filled > sent:
                link.sendall(out_view[sent:filled])
                sent = filled
            flags, gso_type, _, gso_size, csum_start, csum_offset = VNET.unpack(header)
            if gso_type == GSO_NONE:
                if flags & NEEDS_CSUM:
                    complete_checksum(frame_view[:length], csum_start, csum_offset)
                out_view[filled : filled + PREFIX] = length.to_bytes(PREFIX, "big")
                filled += PREFIX
                out_view[filled : filled + length] = frame_view[:length]
                filled += length
            elif gso_type == GSO_TCPV4:
                start = filled
                filled, stride = cut(frame, length, gso_size, out, start)
                if filled - sent > SEND and start > sent:
                    link.sendall(out_view[sent:start])
                    sent = start
                step = SEND // stride * stride
                while filled - sent > SEND:
                    link.sendall(out_view[sent : sent + step])
                    sent += step
            else:
                raise RuntimeError(f"the tap gave an offload that was not asked for: gso_type {gso_type}")
        if not filled:
            poll.poll()
        elif filled > sent:
            link.sendall(out_view[sent:filled])


def from_guest_plain(tap: int, link: socket.socket) -> None:
    """Tap to socket, with one send for each frame."""
    frame = bytearray(PREFIX + MAX_FRAME)
    view = memoryview(frame)
    parts = [view[PREFIX:]]
    poll = select.poll()
    poll.register(tap, select.POLLIN)
    while True:
        try:
            length = os.readv(tap, parts)
        except BlockingIOError:
            poll.poll()
            continue
        view[:PREFIX] = length.to_bytes(PREFIX, "big")
        link.sendall(view[: PREFIX + length])


def to_guest(tap: int, link: socket.socket, lro: bool) -> None:
    """Socket to tap. Reads all that the socket has, and writes each run of segments (or frame) at once."""
    data = np.zeros(READ + MAX_FRAME, np.uint8)
    view = memoryview(data)
    begin = end = 0
    while True:
        if begin == end:
            begin = end = 0
        elif begin > READ // 2:
            # Move the incomplete frame to the front, so that all of it has room.
            rest = bytes(view[begin:end])
            view[: len(rest)] = rest
            begin, end = 0, len(rest)
        got = link.recv_into(view[end:])
        if not got:
            return
        end += got
        while end - begin >= PREFIX:
            size = int.from_bytes(view[begin : begin + PREFIX], "big")
            if not 14 <= size <= MAX_FRAME:
                raise RuntimeError(f"a frame of {size} bytes: the peer lost the framing")
            if end - begin < PREFIX + size:
                break
            if lro:
                merged = merge(data, begin, end, size)
                if merged is not None:
                    parts, begin = merged
                    _write(tap, parts)
                    continue
                _write(tap, [_NO_VNET, view[begin + PREFIX : begin + PREFIX + size]])
            else:
                _write(tap, [view[begin + PREFIX : begin + PREFIX + size]])
            begin += PREFIX + size


def _write(tap: int, parts: list) -> None:  # type: ignore[type-arg]
    try:
        os.writev(tap, parts)
    except BlockingIOError:
        return  # the guest's queue is full: drop the frame, as a card does
    except OSError as problem:
        # EIO: the interface is not up. EINVAL: the kernel refused a malformed frame, as a guest would.
        if problem.errno not in (errno.EIO, errno.EINVAL, errno.ENOMEM, errno.ENOBUFS):
            raise


def connect(path: str, patience: float = 10.0) -> socket.socket:
    """Connect to the peer's socket. Waits until it exists."""
    deadline = time.monotonic() + patience
    while True:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            link.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return link


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Bridge a tap to a unix stream socket with QEMU framing.")
    parser.add_argument("--tap", required=True, help="name of the tap to make")
    parser.add_argument("--socket", required=True, help="path of the peer's listening socket")
    parser.add_argument("--mtu", type=int, default=1500)
    parser.add_argument("--plain", action="store_true", help="no offloads, one frame with a system call")
    parser.add_argument("--ready-fd", type=int, help="a line is written here when both ends are open")
    options = parser.parse_args(argv)
    if options.plain:
        offloads = None
    elif options.mtu >= 32768:
        offloads = 0  # a super-segment is one frame. The kernel computes its checksum while it copies
    else:
        offloads = _TUN_F_CSUM | _TUN_F_TSO4
    tap = open_tap(options.tap, offloads)
    link = connect(options.socket)
    if options.ready_fd is not None:
        os.write(options.ready_fd, b"ready\n")
        os.close(options.ready_fd)

    child = os.fork()
    other = child or os.getppid()
    try:
        if child == 0:
            die_with_parent()
            (from_guest if offloads is not None else from_guest_plain)(tap, link)
        else:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            to_guest(tap, link, lro=offloads is not None)
    except (BrokenPipeError, ConnectionResetError):
        return 0  # the peer has gone
    except OSError as problem:
        if problem.errno != errno.EBADFD:  # the interface has gone with its namespace
            raise
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        else:
            os.kill(other, signal.SIGTERM)
    return 0


if __name__ == "__main__":
    sys.exit(main())
