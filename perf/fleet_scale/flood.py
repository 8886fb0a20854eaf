"""What a broadcast costs its host: one datagram to each other host (head-end replication).

The real output of the link and a real socket. All hosts are addresses of the loopback, and one socket gets
what is sent to all of them, until its buffer is full. So the receiver's part of the kernel counts too.
"""

from __future__ import annotations

import socket
import time

from pipeline.links.vxlan_output import VxlanOutput
from pipeline.links.vxlan_socket import VxlanSocket

FRAME = b"\xff" * 6 + bytes(94)
"""A frame of 100 bytes, as of mDNS or ARP with some more."""
ROUNDS = 20
PORT = 4788


def loopback(number: int) -> str:
    """An address of the loopback for each host."""
    return f"127.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def seconds_a_broadcast(hosts: int) -> float:
    """Seconds that a host with so many others needs for one broadcast: the best of some rounds."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        receiver.bind(("0.0.0.0", PORT))
        sender.bind(("127.0.0.1", 0))
        output = VxlanOutput(VxlanSocket(sender), 7, lambda _: None)
        for number in range(hosts):
            output.add_host(number, (loopback(number), PORT))
        best = float("inf")
        for _ in range(ROUNDS):
            began = time.perf_counter()
            output.add(-1, FRAME)
            output.send()
            output.flush()
            best = min(best, time.perf_counter() - began)
        return best
    finally:
        receiver.close()
        sender.close()
