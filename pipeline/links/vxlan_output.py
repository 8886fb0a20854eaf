"""What a VXLAN link sends: frames become datagrams, for one host or for each, many with one system call.

Datagrams of equal length to the same host wait for each other, until one of another length comes or the link
has no more. The kernel gets them as one piece, and cuts it (pipeline.links.vxlan_socket).
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from pipeline.engines.vxlan.forwarding import ALL_HOSTS
from pipeline.engines.vxlan.segments import Cutter
from pipeline.engines.vxlan.train import Packer
from pipeline.links import vxlan_socket
from pipeline.links.base import Buffer
from pipeline.links.vxlan_socket import MAX_BYTES, MAX_SEGMENTS
from pipeline.wire import virtio_net, vxlan, vxlan_train

MAX_TRAIN_BYTES: Final = 65450
"""Bytes of a train in one call. With the outer headers these are below 64 KiB, so the card cuts them."""

_TOO_LONG: Final = "vxlan_frame_dropped_too_long"
_UNREACHABLE: Final = "vxlan_frame_dropped_unreachable"


class DatagramSocket(Protocol):
    """What a link needs of its socket. VxlanSocket has it."""

    can_cut: bool

    def fileno(self) -> int: ...
    def receive(self, room: memoryview) -> tuple[int, int, str]: ...
    def send(self, parts: Sequence[Buffer], size: int, is_one: bool, where: tuple[str, int]) -> int: ...
    def close(self) -> None: ...


class VxlanOutput:
    """Sends frames to hosts by their numbers, or to ALL_HOSTS."""

    def __init__(
        self,
        sock: DatagramSocket,
        vni: int,
        drop: Callable[[str], object],
        last_train: int = 0,
    ) -> None:
        """vni: of the network. drop(counter): called for each datagram that is lost.

        last_train: see Packer.
        """
        header = vxlan.build(vni)
        self._sock = sock
        self._remotes: dict[int, tuple[str, int]] = {}
        self._header = header
        self._drop = drop
        self._cutter = Cutter(header)
        self._packer = Packer(vni, last_train)
        self._pitch = 0
        self.backlog: deque[tuple[int, bytes, int]] = deque()
        """What waits for the socket: host, datagrams, length of one."""
        self.backlog_bytes = 0
        self._parts: list[Buffer] = []
        """Datagrams of equal length to one host, which are not sent yet."""
        self._host = ALL_HOSTS
        self._size = 0
        self._count = 0
        self._bytes = 0
        self.is_too_long = False
        """Whether a datagram was too long for the path."""

    def add_host(self, host: int, where: tuple[str, int]) -> None:
        """There is a host with this number at this address and port."""
        self._remotes[host] = where

    def remove_host(self, host: int) -> None:
        """The host is gone. What waits for it is lost."""
        self.send()
        del self._remotes[host]
        kept = [each for each in self.backlog if each[0] != host]
        self.backlog = deque(kept)
        self.backlog_bytes = sum(len(data) for _, data, _ in kept)

    def set_longest(self, size: int) -> None:
        """The path to all hosts takes datagrams of that many bytes."""
        self.is_too_long = False
        most = vxlan_train.HEADER_LEN + vxlan_train.MAX_CHUNK
        self._pitch = min(max(size, vxlan_train.HEADER_LEN + vxlan_train.MIN_CHUNK), most)

    def add_control(self, host: int, datagram: bytes) -> None:
        """Send a question or an answer about trains."""
        self.send()
        self._send_to(host, [datagram], len(datagram), True)

    def add_train(self, host: int, frame: Buffer, header: bytes) -> None:
        """Send a frame with its virtio-net header as a train."""
        self.send()
        size = self._pitch
        made = self._packer.pack(frame, header, size)
        step = MAX_SEGMENTS * size
        if step > MAX_TRAIN_BYTES:
            # The last datagram of a train may be shorter. So one more may fit.
            step = len(made) if len(made) <= MAX_TRAIN_BYTES else MAX_TRAIN_BYTES // size * size
        for begin in range(0, len(made), step):
            self._send_to(host, [made[begin : begin + step]], size, len(made) - begin <= size)

    def add_super(self, host: int, frame: Buffer, header: virtio_net.Header) -> None:
        """Send a super-segment of TCP as the datagrams that it stands for."""
        self.send()
        made, size = self._cutter.cut(frame, header)
        step = max(min(MAX_SEGMENTS, MAX_BYTES // size), 1) * size
        for begin in range(0, len(made), step):
            self._send_to(host, [made[begin : begin + step]], size, len(made) - begin <= size)

    def add(self, host: int, frame: Buffer) -> None:
        """Add a frame to those of equal length that are sent together."""
        size = vxlan.HEADER_LEN + len(frame)
        if self._parts and (
            host != self._host
            or size > self._size
            or self._count >= MAX_SEGMENTS
            or self._bytes + size > MAX_BYTES
            or not self._sock.can_cut
        ):
            self.send()
        if not self._parts:
            self._host, self._size = host, size
        self._parts.append(self._header)
        self._parts.append(frame)
        self._count += 1
        self._bytes += size
        if size < self._size:
            self.send()

    def send(self) -> None:
        """Send the datagrams that wait for others."""
        if self._parts:
            parts, self._parts = self._parts, []
            count, self._count = self._count, 0
            self._bytes = 0
            self._send_to(self._host, parts, self._size, count == 1)

    def _send_to(self, host: int, parts: Sequence[Buffer], size: int, is_one: bool) -> None:
        """Send datagrams of size bytes to a host, or to all. The last one may be shorter."""
        for each in list(self._remotes) if host < 0 else [host]:
            if self.backlog or not self._put(each, parts, size, is_one):
                data = b"".join(parts)
                self.backlog.append((each, data, size))
                self.backlog_bytes += len(data)

    def _put(self, host: int, parts: Sequence[Buffer], size: int, is_one: bool) -> bool:
        """Send datagrams, or drop those that cannot be sent. False: the socket is full, nothing was sent."""
        where = self._remotes[host]
        result = vxlan_socket.CUT_YOURSELF
        if is_one or self._sock.can_cut:
            result = self._sock.send(parts, size, is_one, where)
        if result == vxlan_socket.FULL:
            return False
        if result == vxlan_socket.CUT_YOURSELF:
            data = b"".join(parts)
            for begin in range(0, len(data), size):
                one = data[begin : begin + size]
                self._judge(self._sock.send([one], size, True, where))
        else:
            self._judge(result)
        return True

    def _judge(self, result: int) -> None:
        """Count a datagram that could not be sent."""
        if result == vxlan_socket.TOO_LONG:
            self._drop(_TOO_LONG)
            self.is_too_long = True
        elif result != vxlan_socket.SENT:
            self._drop(_UNREACHABLE)

    def flush(self) -> None:
        """Send what waits, until the socket is full again."""
        backlog = self.backlog
        while backlog:
            host, data, size = backlog[0]
            if not self._put(host, [data], size, len(data) <= size):
                return
            backlog.popleft()
            self.backlog_bytes -= len(data)

    def clear(self) -> None:
        """Forget what waits."""
        self.backlog.clear()
        self.backlog_bytes = 0
