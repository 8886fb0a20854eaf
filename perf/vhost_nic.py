"""Plays a machine's network card over vhost-user: it bridges a tap in the guest to a backend's socket.

The tap has the offloads that the backend offers. So one program serves this daemon, which takes and gives
frames of 64 KiB, and passt, which does neither. Each direction is a process. The bytes pass from the tap to
shared memory with one system call a frame, and from there to the tap in the same way. A receive buffer has
a page, as those of Linux' driver have when frames are large. 256 buffers of 1.5 KB hold six frames of 64 KiB.

    python -m perf.vhost_nic --tap eth0 --socket /run/net.sock [--ready-fd N] [--reconnect]
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import select
import signal
import struct
import sys
import time

from perf.namespaces import die_with_parent
from perf.vhost_frontend import (
    CSUM,
    HEADER,
    HOST_TSO4,
    HOST_TSO6,
    HOST_USO,
    PLAIN,
    WANTED,
    Frontend,
    FrontendError,
)

NEEDS_CSUM, DATA_VALID = 1, 2
BURST = 32  # frames that are queued before the device is told
IOV_MAX = 1024

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6, _TUN_F_USO4, _TUN_F_USO6 = 0x01, 0x02, 0x04, 0x20, 0x40


def open_tap(name: str) -> int:
    """A non-blocking tap whose frames have a virtio-net header of 12 bytes."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", HEADER))
    return fd


def set_offloads(tap: int, features: int) -> None:
    """Let the guest's kernel leave to the device what this accepts."""
    offloads = 0
    for feature, offload in (
        (CSUM, _TUN_F_CSUM),
        (HOST_TSO4, _TUN_F_TSO4),
        (HOST_TSO6, _TUN_F_TSO6),
        (HOST_USO, _TUN_F_USO4 | _TUN_F_USO6),
    ):
        if features & feature:
            offloads |= offload
    try:
        fcntl.ioctl(tap, _TUNSETOFFLOAD, offloads)
    except OSError:  # a kernel without USO
        fcntl.ioctl(tap, _TUNSETOFFLOAD, offloads & ~(_TUN_F_USO4 | _TUN_F_USO6))


def from_guest(tap: int, card: Frontend) -> None:
    """Tap to transmit queue."""
    ring = card.transmit
    tap_poll = select.poll()
    tap_poll.register(tap, select.POLLIN)
    while True:
        queued = 0
        while queued < BURST:
            number = card.free_buffer()
            if number < 0:
                break
            try:
                length = os.readv(tap, [card.buffer(number)])
            except BlockingIOError:
                card.give_back(number)
                break
            card.queue(number, length)
            queued += 1
        ring.publish()
        if queued:
            continue
        if number >= 0:
            tap_poll.poll()
        elif not ring.want_call():
            ring.wait(1.0)


def to_guest(tap: int, card: Frontend) -> None:
    """Receive queue to tap. Ends with FrontendError when the backend has left."""
    ring = card.receive
    poll = select.poll()
    poll.register(ring.call, select.POLLIN)
    poll.register(card.sock.fileno(), select.POLLIN | select.POLLHUP)
    while True:
        frames = card.received()
        for parts in frames:
            if parts[0][0] == DATA_VALID:
                _vouch(parts[0])
            _write(tap, parts)
        if frames:
            card.refill()
        elif not ring.want_call():
            for fd, _ in poll.poll():
                if fd == ring.call:
                    os.eventfd_read(fd)
                else:
                    raise FrontendError("the backend has left")


def _vouch(part: memoryview) -> None:
    """Have the kernel take the checksum as right. A card's driver says so of a frame, but a tap cannot.

    The kernel does not verify a checksum that has yet to be completed: the field may have any content.
    """
    header_len = 14 + (part[HEADER + 14] & 15) * 4
    offset = {6: 16, 17: 6}.get(part[HEADER + 23])
    if part[HEADER + 12 : HEADER + 14] == b"\x08\0" and offset is not None:
        struct.pack_into("<BBHHHH", part, 0, NEEDS_CSUM, 0, 0, 0, header_len, offset)


def _write(tap: int, parts: list[memoryview]) -> None:
    try:
        os.writev(tap, parts if len(parts) <= IOV_MAX else [b"".join(parts)])
    except BlockingIOError:
        return  # the guest's queue is full: drop the frame, as a card does
    except OSError as problem:
        # EIO: the interface is not up. EINVAL: the kernel refused a malformed frame, as a guest would.
        if problem.errno not in (errno.EIO, errno.EINVAL, errno.ENOMEM, errno.ENOBUFS):
            raise


def connect(card: Frontend, path: str, patience: float = 10.0, again: bool = False) -> None:
    """Have a running card. Waits until the backend's socket exists."""
    deadline = time.monotonic() + patience
    while True:
        try:
            (card.reopen if again else card.open)(path)
        except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, FrontendError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def serve(tap: int, card: Frontend) -> None:
    """Move frames until the backend leaves."""
    child = os.fork()
    if child == 0:
        die_with_parent()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            from_guest(tap, card)
        finally:
            os._exit(1)
    try:
        to_guest(tap, card)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Bridge a tap to a vhost-user backend.")
    parser.add_argument("--tap", required=True, help="name of the tap to make")
    parser.add_argument("--socket", required=True, help="path of the backend's listening socket")
    parser.add_argument("--ready-fd", type=int, help="a line is written here when both ends are open")
    parser.add_argument("--plain", action="store_true", help="a driver that accepts no offloads")
    parser.add_argument("--reconnect", action="store_true", help="connect again when the backend has left")
    parser.add_argument("--buffer-bytes", type=int, default=4096, help="bytes of a receive buffer")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    tap = open_tap(options.tap)
    card = Frontend(buffer_bytes=options.buffer_bytes, wanted=PLAIN if options.plain else WANTED)
    connect(card, options.socket)
    set_offloads(tap, card.features)
    if options.ready_fd is not None:
        os.write(options.ready_fd, b"ready\n")
        os.close(options.ready_fd)
    while True:
        try:
            serve(tap, card)
        except (FrontendError, BrokenPipeError, ConnectionResetError):
            if not options.reconnect:
                return 0
        except OSError as problem:
            if problem.errno != errno.EBADFD:  # the interface has gone with its namespace
                raise
            return 0
        # The process for the other direction has gone, and with it which buffers are free. So the driver
        # resets its rings, as that of a guest does that restarts.
        for ring in (card.receive, card.transmit):
            ring.close()
        connect(card, options.socket, patience=60.0)


if __name__ == "__main__":
    sys.exit(main())
