"""A guest that sends mutated frames: python -m tests.support.fuzz_guest SOCKET COUNT [flags]

The bursts are made once and sent again and again, so that the daemon is the bottleneck, not this program. The
bases are valid frames of every kind. A mutation changes a few bytes, or cuts or lengthens the frame. Half of
the mutations then repair the checksums, so that the frame gets further in. Frames of the daemon are ignored.
With -payload, the Ethernet addresses stay valid. With -ipv6, the frames are of IPv6, and of IPv4 too.

Prints {"frames": sent, "seconds": s} at the end, and then keeps the link until standard input ends.
"""

import argparse
import json
import random
import socket
import sys
import threading
import time

from pipeline.wire import arp, checksum, dhcp, ethernet, icmp, ip, ipv4, tcp, tcp_options
from pipeline.wire.framing import QEMU
from tests.support import fuzz_frames6
from tests.support.frames import tcp_frame
from tests.support.netns import INTERNET_ADDR
from tests.support.raw_guest import GATEWAY, RawGuest
from tests.support.servers import ECHO, UDP_ECHO

BURSTS = 64
BURST_FRAMES = 500
MAX_CHANGES = 4
_L4_SUM_AT = {ipv4.PROTO_TCP: 16, ipv4.PROTO_UDP: 6, ipv4.PROTO_ICMP: 2}


def bases(guest: RawGuest) -> list[bytes]:
    """Valid frames: one of each kind, and several of TCP."""
    internet = ip.parse_ipv4(INTERNET_ADDR)
    broadcast = ethernet.header(ethernet.BROADCAST, guest.mac, ethernet.TYPE_ARP)
    discover = dhcp.Message(dhcp.BOOT_REQUEST, 7, guest.mac, {dhcp.MESSAGE_TYPE: bytes([dhcp.DISCOVER])})
    question = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\3www\7example\4test\0\0\1\0\1"
    ping = icmp.build(icmp.ECHO_REQUEST, 0, 1, b"ping" * 8)
    syn = tcp_options.build_syn(1460, 7, True, True, 1, 0)
    sack = tcp_options.build(True, 1, 2, ((100, 200), (300, 400)))
    made = [
        broadcast + arp.build(arp.REQUEST, guest.mac, guest.addr, bytes(6), GATEWAY),
        guest.datagram(ip.BROADCAST, 68, 67, dhcp.build(discover)),
        guest.datagram(GATEWAY, 2000, 53, question),
        guest.datagram(internet, 2001, UDP_ECHO, b"echo" * 20),
        guest.packet(ipv4.PROTO_ICMP, GATEWAY, ping),
        guest.packet(ipv4.PROTO_ICMP, internet, icmp.build_error(icmp.Says(3, 3, 0), ping[:28])),
        guest.packet(ipv4.PROTO_UDP, internet, b"f" * 64, more=True),
        guest.packet(ipv4.PROTO_UDP, internet, b"f" * 64, frag=64),
        guest.packet(ipv4.PROTO_TCP, internet, b"o" * 20, options=b"\x01\x01\x01\x00"),
        guest.packet(47, internet, b"tunnel" * 5),
        guest.to_gateway[:12] + b"\x81\x00\x00\x01\x08\x00" + b"v" * 60,
        guest.to_gateway[:12] + b"\x86\xdd" + b"6" * 60,
    ]
    kinds = (
        (tcp.SYN, b"", syn),
        (tcp.ACK, b"", b""),
        (tcp.ACK, b"", sack),
        (tcp.ACK | tcp.PSH, b"data" * 50, b""),
        (tcp.FIN | tcp.ACK, b"", b""),
        (tcp.RST, b"", b""),
        (tcp.ACK | tcp.URG, b"u", b""),
    )
    for flags, payload, options in kinds:
        made.append(
            tcp_frame(
                1000, payload, flags=flags, options=options, src=guest.addr, dst=internet, dport=ECHO,
                eth_header=guest.to_gateway, ack=2000,
            )
        )  # fmt: skip
    return made


def mutate(base: bytes, chance: random.Random, payload_only: bool = False) -> bytes:
    """A hostile frame. payload_only: its Ethernet addresses stay as they are."""
    frame = bytearray(base)
    what = chance.random()
    # Mostly after the Ethernet addresses, because frames to other MAC addresses go nowhere.
    first = 0 if what < 0.1 and not payload_only else 12
    for _ in range(chance.randint(1, MAX_CHANGES)):
        frame[chance.randrange(first, len(frame))] = chance.getrandbits(8)
    if what < 0.2:
        del frame[chance.randrange(len(frame)) :]
    elif what < 0.3:
        frame += chance.randbytes(chance.randrange(1, 1400))
    elif what > 0.6:
        repair(frame)
    return bytes(frame)


def repair(frame: bytearray) -> None:
    """Correct the checksums, as far as the lengths allow."""
    if frame[12:14] == b"\x86\xdd":
        fuzz_frames6.repair(frame)
        return
    if len(frame) < 34 or frame[12:14] != b"\x08\x00":
        return
    begin = 14 + (frame[14] & 15) * 4
    if not 34 <= begin <= len(frame):
        return
    frame[24:26] = b"\0\0"
    frame[24:26] = (0xFFFF - int.from_bytes(frame[14:begin], "big") % 0xFFFF).to_bytes(2, "big")
    proto = frame[23]
    end = min(14 + int.from_bytes(frame[16:18], "big"), len(frame))
    at = begin + _L4_SUM_AT.get(proto, 0)
    if proto not in _L4_SUM_AT or at + 2 > end:
        return
    frame[at : at + 2] = b"\0\0"
    words = checksum.word_sum(bytes(frame[begin:end]))
    if proto != ipv4.PROTO_ICMP:
        addrs = int.from_bytes(frame[26:30], "big") + int.from_bytes(frame[30:34], "big")
        words += addrs + proto + end - begin
    frame[at : at + 2] = (0xFFFF - words % 0xFFFF).to_bytes(2, "big")


def bursts(guest: RawGuest, seed: int, *, payload_only: bool, with_ipv6: bool) -> list[bytes]:
    """Bursts that are ready to send: BURST_FRAMES frames each, with their lengths."""
    chance = random.Random(seed)
    valid = bases(guest)
    if with_ipv6:
        valid += fuzz_frames6.bases(guest.mac)
    made = []
    for _ in range(BURSTS):
        frames = [mutate(chance.choice(valid), chance, payload_only) for _ in range(BURST_FRAMES)]
        made.append(b"".join(QEMU.prefix.pack(len(frame)) + frame for frame in frames))
    return made


def _throw_away(sock: socket.socket) -> None:
    while sock.recv(1 << 20):
        pass


def main() -> None:
    """Send COUNT frames, rounded to whole bursts."""
    parser = argparse.ArgumentParser(description="a guest that sends mutated frames")
    parser.add_argument("socket")
    parser.add_argument("count", type=int)
    parser.add_argument("-seed", type=int, default=1)
    parser.add_argument("-payload", action="store_true", help="leave Ethernet addresses alone")
    parser.add_argument("-ipv6", action="store_true", help="frames of both families")
    arguments = parser.parse_args()
    with RawGuest(arguments.socket, 200) as guest:
        ready = bursts(guest, arguments.seed, payload_only=arguments.payload, with_ipv6=arguments.ipv6)
        threading.Thread(target=_throw_away, args=(guest.sock,), daemon=True).start()
        sent = 0
        began = time.monotonic()
        while sent < arguments.count:
            guest.sock.sendall(ready[sent // BURST_FRAMES % BURSTS])
            sent += BURST_FRAMES
        json.dump({"frames": sent, "seconds": time.monotonic() - began}, sys.stdout)
        sys.stdout.write("\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
