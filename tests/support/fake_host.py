"""A host for tests of the agent. It accepts /connect on a unix socket and answers DHCP, nothing else."""

import contextlib
import socket
import threading
from pathlib import Path
from types import TracebackType

from pipeline.wire import dhcp, ethernet, framing, ip, ipv4, udp
from pipeline.wire.checksum import word_sum
from pipeline.wire.dhcp import Message
from pipeline.wire.framing import LE16

GATEWAY_MAC = bytes.fromhex("5a94efe40cdd")
GATEWAY = ip.parse_ipv4("192.168.127.1")
ADDRESS = ip.parse_ipv4("192.168.127.2")


class FakeHost:
    """Accepts one link after the other. ``requests`` and ``frames`` have what it received."""

    def __init__(self, path: Path, mtu: int = 1500, lease_seconds: int = 3600) -> None:
        self.path = path
        self.mtu = mtu
        self.lease_seconds = lease_seconds
        self.requests: list[bytes] = []
        self.frames: list[bytes] = []
        self.messages: list[Message] = []
        self._link: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def hang_up(self) -> None:
        """Close the present link."""
        if self._link is not None:
            with contextlib.suppress(OSError):
                self._link.shutdown(socket.SHUT_RDWR)

    def send(self, frame: bytes) -> None:
        """Send a frame to the guest."""
        assert self._link is not None
        self._link.sendall(LE16.prefix.pack(len(frame)) + frame)

    def __enter__(self) -> "FakeHost":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        self._thread.join(5)

    def _serve(self) -> None:
        # OSError comes from the shutdown of the listener, and from a guest that leaves.
        with contextlib.suppress(OSError):
            while True:
                self._link, _ = self._listener.accept()
                with self._link, contextlib.suppress(ConnectionError):
                    self._serve_link(self._link)

    def _serve_link(self, link: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += link.recv(4096)
        head, _, data = data.partition(b"\r\n\r\n")
        self.requests.append(head + b"\r\n\r\n")
        while True:
            whole, rest = framing.split(data, 0, len(data), LE16)
            for off, size in whole:
                self._take(data[off : off + size])
            data = data[rest:]
            more = link.recv(65536)
            if not more:
                return
            data += more

    def _take(self, frame: bytes) -> None:
        self.frames.append(frame)
        _, src, ethertype = ethernet.parse_header(frame, 0, len(frame))
        if ethertype != ethernet.TYPE_IPV4:
            return
        at = ethernet.HEADER_LEN
        ip = ipv4.parse(frame, at, len(frame))
        if ip.proto != ipv4.PROTO_UDP:
            return
        header = udp.parse(frame, at + ip.ihl, at + ip.total_len)
        udp.verify(memoryview(frame), at + ip.ihl, header, ip.src, ip.dst)
        if header.dst_port == dhcp.SERVER_PORT:
            payload = at + ip.ihl + udp.HEADER_LEN
            self._answer(dhcp.parse(frame, payload, payload + header.length - udp.HEADER_LEN), src)

    def _answer(self, request: Message, client: bytes) -> None:
        self.messages.append(request)
        kind = dhcp.OFFER if request.kind == dhcp.DISCOVER else dhcp.ACK
        gateway = ip.ipv4_bytes(GATEWAY)
        options = {
            dhcp.MESSAGE_TYPE: bytes((kind,)),
            dhcp.SUBNET_MASK: bytes((255, 255, 255, 0)),
            dhcp.ROUTER: gateway,
            dhcp.DNS_SERVER: gateway,
            dhcp.INTERFACE_MTU: self.mtu.to_bytes(2, "big"),
            dhcp.LEASE_TIME: self.lease_seconds.to_bytes(4, "big"),
            dhcp.SERVER_ID: gateway,
            dhcp.DOMAIN_SEARCH: dhcp.build_search_list(["example.test"]),
        }
        payload = dhcp.build(
            Message(
                dhcp.BOOT_REPLY, request.xid, request.chaddr, options, yiaddr=ADDRESS, ciaddr=request.ciaddr
            )
        )
        target, mac = (request.ciaddr, client) if request.ciaddr else (ip.BROADCAST, ethernet.BROADCAST)
        header = udp.build_checked(
            GATEWAY, target, dhcp.SERVER_PORT, dhcp.CLIENT_PORT, len(payload), word_sum(payload)
        )
        total = ipv4.HEADER_LEN + len(header) + len(payload)
        packet = ipv4.build(total, 0, ipv4.DEFAULT_TTL, ipv4.PROTO_UDP, GATEWAY, target) + header + payload
        self.send(ethernet.header(mac, GATEWAY_MAC, ethernet.TYPE_IPV4) + packet)
