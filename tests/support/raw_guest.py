"""A guest without a kernel. It sends and receives frames on the daemon's QEMU socket, with a minimal TCP."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from pipeline.wire import ethernet, framing, ip, ipv4, tcp, tcp_options, udp
from pipeline.wire.framing import QEMU
from tests.support import frames
from tests.support.ready import readable

GATEWAY = ip.parse_ipv4("192.168.127.1")
QUIET_SECONDS = 0.3


class Received(NamedTuple):
    """One TCP segment from the daemon."""

    header: tcp.Header
    payload: bytes
    options: tcp_options.Options


def _connected_by_another_process(path: Path) -> socket.socket:
    """A connection to a unix socket. All links that one process opens are one guest to the daemon."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
                socket.send_fds(theirs, [b"x"], [sock.fileno()])
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    os.waitpid(child, 0)
    assert fds, f"nobody listens on {path}"
    return socket.socket(fileno=fds[0])


class RawGuest:
    """Connects as a guest with the address 192.168.127.<number>."""

    def __init__(self, path: Path, number: int) -> None:
        self.mac = bytes((0x5A, 0x94, 0xEF, 0, 0, number))
        self.addr = ip.parse_ipv4(f"192.168.127.{number}")
        self.to_gateway = ethernet.header(frames.GATEWAY_MAC, self.mac, ethernet.TYPE_IPV4)
        self.sock = _connected_by_another_process(path)
        self._received = bytearray()

    # --- frames -----------------------------------------------------------------------

    def send(self, *sent: bytes) -> None:
        """Send frames in one burst. It does not read meanwhile."""
        self.sock.sendall(b"".join(QEMU.prefix.pack(len(frame)) + frame for frame in sent))

    def receive(self, quiet: float = QUIET_SECONDS) -> list[bytes]:
        """Receive frames until none has come for ``quiet`` seconds; after the first one, a fifth of that."""
        found: list[bytes] = []
        while readable(self.sock, quiet if not found else quiet / 5):
            data = self.sock.recv(1 << 20)
            if not data:
                break
            self._received += data
            places, rest = framing.split(memoryview(bytes(self._received)), 0, len(self._received), QEMU)
            found += [bytes(self._received[off : off + length]) for off, length in places]
            del self._received[:rest]
        return found

    def packet(
        self,
        proto: int,
        dst: int,
        payload: bytes,
        *,
        frag: int = 0,
        more: bool = False,
        ident: int = 1,
        options: bytes = b"",
    ) -> bytes:
        """An IPv4 frame to the gateway. options: IP options, a multiple of 4 bytes."""
        flags = ipv4.FLAG_MF if more else 0
        total = ipv4.HEADER_LEN + len(options) + len(payload)
        header = bytearray(ipv4.build(total, ident, 64, proto, self.addr, dst, flags=flags, frag_off=frag))
        if options:
            header[0] = 0x45 + len(options) // 4
            header += options
            header[10:12] = b"\0\0"
            header[10:12] = (0xFFFF - int.from_bytes(header, "big") % 0xFFFF).to_bytes(2, "big")
        return self.to_gateway + bytes(header) + payload

    def datagram(self, dst: int, sport: int, dport: int, payload: bytes = b"x") -> bytes:
        """A UDP frame with a right checksum."""
        words = int.from_bytes(payload + b"\0" * (len(payload) % 2), "big") % 0xFFFF
        header = udp.build_checked(self.addr, dst, sport, dport, len(payload), words)
        return self.packet(ipv4.PROTO_UDP, dst, header + payload)

    def segment(
        self, dst: int, sport: int, dport: int, seq: int, payload: bytes = b"", **fields: int
    ) -> bytes:
        """A TCP frame. fields: flags, ack and wnd."""
        return frames.tcp_frame(
            seq, payload, src=self.addr, dst=dst, sport=sport, dport=dport, eth_header=self.to_gateway,
            flags=fields.get("flags", tcp.ACK), ack=fields.get("ack", 0), wnd=fields.get("wnd", 65535),
        )  # fmt: skip

    def tcp(self, received: list[bytes], sport: int = 0) -> Iterator[Received]:
        """The TCP segments among frames. sport: only those to this port."""
        for frame in received:
            if frame[12:14] != b"\x08\x00" or frame[23] != ipv4.PROTO_TCP:
                continue
            header = ipv4.parse(frame, 14, len(frame))
            begin, end = 14 + header.ihl, 14 + header.total_len
            segment = tcp.parse(frame, begin, end)
            tcp.verify(frame, begin, end, header.src, header.dst)
            if sport and segment.dst_port != sport:
                continue
            at = begin + segment.header_len
            options = tcp_options.parse(frame, begin + tcp.HEADER_LEN, at)
            yield Received(segment, frame[at:end], options)

    # --- one connection -----------------------------------------------------------------

    def connect(self, dst: int, sport: int, dport: int, wnd: int = 65535, iss: int = 1000) -> "Stream":
        """Open a connection. AssertionError without a SYN-ACK within some seconds."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            self.send(self.segment(dst, sport, dport, iss, flags=tcp.SYN, wnd=wnd))
            for got in self.tcp(self.receive(0.2), sport):
                assert got.header.flags & (tcp.SYN | tcp.ACK) == tcp.SYN | tcp.ACK, got
                stream = Stream(self, dst, sport, dport, iss + 1, got.header.seq + 1 & 0xFFFFFFFF, wnd)
                self.send(stream.segment())
                return stream
        raise AssertionError("no SYN-ACK")

    def close(self) -> None:
        """Close the link."""
        self.sock.close()

    def __enter__(self) -> "RawGuest":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Stream:
    """The guest's end of one connection. It acknowledges only when the test says so."""

    def __init__(
        self, guest: RawGuest, dst: int, sport: int, dport: int, seq: int, ack: int, wnd: int
    ) -> None:
        self.guest = guest
        self.way = (dst, sport, dport)
        self.seq = seq
        self.ack = ack
        self.wnd = wnd
        self.data = bytearray()

    def segment(self, payload: bytes = b"", *, at: int = 0, flags: int = tcp.ACK, ack: int = 0) -> bytes:
        """A segment ``at`` bytes after the next sequence number. ack: added to the acknowledgment number."""
        seq = self.seq + at & 0xFFFFFFFF
        acked = self.ack + ack & 0xFFFFFFFF
        return self.guest.segment(*self.way, seq, payload, flags=flags, ack=acked, wnd=self.wnd)

    def send(self, payload: bytes) -> None:
        """Send in order."""
        self.guest.send(self.segment(payload, flags=tcp.ACK | tcp.PSH))
        self.seq = self.seq + len(payload) & 0xFFFFFFFF

    def receive(self, wanted: int, seconds: float = 10.0) -> bytes:
        """Receive and acknowledge in-order segments, until ``wanted`` bytes are there. Returns all bytes."""
        deadline = time.monotonic() + seconds
        while len(self.data) < wanted and time.monotonic() < deadline:
            for got in self.guest.tcp(self.guest.receive(0.05), self.way[1]):
                assert not got.header.flags & tcp.RST, "reset"
                skip = self.ack - got.header.seq
                if 0 <= skip < len(got.payload):
                    self.data += got.payload[skip:]
                    self.ack = self.ack + len(got.payload) - skip & 0xFFFFFFFF
            self.guest.send(self.segment())
        return bytes(self.data)

    def echoes(self, payload: bytes) -> bool:
        """Whether the server's echo of payload comes back, after all earlier bytes."""
        before = len(self.data)
        self.send(payload)
        return self.receive(before + len(payload))[before:] == payload

    def reset(self) -> None:
        """Reset the connection."""
        self.guest.send(self.segment(flags=tcp.RST | tcp.ACK))
