"""Plays a machine monitor: it reads the monitor's command line, and its guest asks for an address.

    python -m tests.support.played_monitor krunkit --device virtio-net,type=unixgram,path=...
    python -m tests.support.played_monitor firecracker --no-api --config-file FILE

It prints the address that DHCP offers, and ends.
"""

import json
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from guest import link
from pipeline.wire import dhcp, ethernet, ip, ipv4, udp
from pipeline.wire.errors import WireError
from pipeline.wire.framing import LE16
from tests.support.frames import udp_frame

MAC = bytes.fromhex("5a94efe40cee")
SECONDS = 10.0
_EVERYONE = 0xFFFFFFFF


def discover() -> bytes:
    """The frame of a DHCPDISCOVER."""
    message = dhcp.Message(dhcp.BOOT_REQUEST, 7, MAC, {dhcp.MESSAGE_TYPE: bytes((dhcp.DISCOVER,))})
    head = ethernet.header(ethernet.BROADCAST, MAC, ethernet.TYPE_IPV4)
    return udp_frame(dhcp.build(message), sport=68, dport=67, src=0, dst=_EVERYONE, eth_header=head)


def offered(frames: Iterator[bytes]) -> str:
    """The address of the first DHCPOFFER. Other frames do not count."""
    start = ethernet.HEADER_LEN + ipv4.HEADER_LEN + udp.HEADER_LEN
    for frame in frames:
        try:
            message = dhcp.parse(frame, start, len(frame))
        except WireError:
            continue
        if message.kind == dhcp.OFFER:
            return ip.text(message.yiaddr)
    raise SystemExit("no DHCPOFFER")


def krunkit(words: list[str]) -> str:
    """The device virtio-net of libkrun: a datagram for each frame, after VFKT."""
    devices = [words[at + 1].split(",") for at, word in enumerate(words) if word == "--device"]
    (given,) = (dict(pair.split("=", 1) for pair in rest) for kind, *rest in devices if kind == "virtio-net")
    if given["type"] != "unixgram" or given["mac"] != MAC.hex(":"):
        raise SystemExit(f"unexpected: {given}")
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SECONDS)
        sock.bind(str(Path(directory, "krun.sock")))
        sock.connect(given["path"])
        if given["vfkitMagic"] == "on":
            sock.send(b"VFKT")
        sock.send(discover())
        return offered(iter(lambda: sock.recv(65536), b""))


def firecracker(words: list[str]) -> str:
    """The vsock of Firecracker: the agent's connection to port 1024 goes to the socket of that name."""
    config = json.loads(Path(words[words.index("--config-file") + 1]).read_text())
    made = link.dial(f"unix://{Path(config['vsock']['uds_path']).absolute()}_1024")
    with socket.socket(fileno=made.read_fd) as sock:
        sock.settimeout(SECONDS)
        frame = discover()
        sock.sendall(LE16.prefix.pack(len(frame)) + frame)
        reader = sock.makefile("rb")

        def next_frame() -> bytes:
            (length,) = LE16.prefix.unpack(reader.read(LE16.prefix_len))
            return reader.read(length)

        return offered(iter(next_frame, b""))


MONITORS: dict[str, Callable[[list[str]], str]] = {"krunkit": krunkit, "firecracker": firecracker}

if __name__ == "__main__":
    print("offered", MONITORS[sys.argv[1]](sys.argv[2:]), flush=True)
