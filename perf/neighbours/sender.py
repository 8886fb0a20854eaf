"""The attacker of perf.neighbours: bursts are made before, and sent as fast as the link takes them.

    python -m perf.neighbours.sender NAME --qemu PATH --connect PATH --sink PORT --stream PORT

It prints "ready", then obeys lines on standard input. `attack 0` opens the links and sends until the next
line. `control RATE` sends the same bursts at RATE frames a second to a socket that nobody reads: the kernel
copies and drops them. `stop` ends either, and one JSON object is printed: frames and frames_per_second that
were sent, cpu_percent of one core that it took.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import socket
import sys
import time
from collections.abc import Callable
from itertools import count

from guest import link as agent_link
from guest import offload as agent_offload
from perf.neighbours import frames
from perf.neighbours.attacks import BY_NAME, Attack, Burst, bursts
from perf.neighbours.frames import Ports
from pipeline.wire import ethernet, ipv4, tcp
from pipeline.wire.framing import QEMU, split

PATIENCE = 5.0  # seconds for an answer of the daemon
READ = 1 << 18
SEQ = 1000
FIRST_PORT = 4000  # of connections that are opened


class Place:
    """Where the daemon's sockets are."""

    def __init__(self, qemu: str, connect: str, ports: Ports) -> None:
        self.qemu = qemu
        self.connect = connect
        self.ports = ports
        self.own_ports = count(FIRST_PORT)
        """Each connection has another one: the daemon keeps those of links that are gone for a while."""

    def open(self, attack: Attack) -> socket.socket:
        """One link, non-blocking, ready for frames of the attack's framing."""
        if not attack.vnet:
            link = socket.socket(socket.AF_UNIX)
            link.connect(self.qemu)
            link.setblocking(False)
            return link
        dialled = agent_link.dial(f"unix://{self.connect}", agent_offload.HEADERS)
        if not agent_offload.negotiate(dialled, PATIENCE).vnet_len:
            raise SystemExit("the daemon does not offload")
        return socket.socket(fileno=dialled.read_fd)


class Outlet:
    """A socket, the bursts to send on it in turn, and what is left to send of the present one."""

    def __init__(self, sock: socket.socket, following: Callable[[], Burst]) -> None:
        self.sock = sock
        self._following = following
        self._left = memoryview(b"")

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self) -> int:
        """Send what there is, or the next burst; the frames of a burst that was begun."""
        began = 0
        if not self._left:
            burst = self._following()
            self._left = memoryview(burst.data)
            began = burst.frames
        # discard() finds out that a link is closed.
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            self._left = self._left[self.sock.send(self._left) :]
        return began

    def discard(self, room: bytearray) -> bool:
        """Read what came into room; whether the link is still open."""
        try:
            return self.sock.recv_into(room) > 0
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False


def unread() -> socket.socket:
    """A socket whose datagrams the kernel drops, because nobody reads what is bound there."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
    sock.bind(("127.0.0.1", 0))
    sock.connect(sock.getsockname())
    sock.setblocking(False)
    return sock


def rotation(ready: list[Burst]) -> Callable[[], Burst]:
    """Each burst in turn, renewed with a number of its own."""
    numbers = count(1)

    def following() -> Burst:
        number = next(numbers)
        burst = ready[number % len(ready)]
        burst.renew(number)
        return burst

    return following


def pump(outlets: list[Outlet], rate: float) -> int:
    """Send until standard input has a line, and read and discard answers; the frames sent.

    rate: frames a second, 0 for as many as the sockets take. The daemon may close links, but not all of them.
    """
    waste = bytearray(READ)
    sent = 0
    began = time.monotonic()
    while True:
        wait = max(sent / rate - (time.monotonic() - began), 0.0) if rate else 0.0
        wanted = [] if wait else outlets
        readable, writable, _ = select.select([sys.stdin, *outlets], wanted, [], wait or None)
        for each in readable:
            if not isinstance(each, Outlet):
                return sent
            if not each.discard(waste):
                outlets.remove(each)
                if not outlets:
                    raise SystemExit("the daemon closed every link")
        for outlet in writable:
            sent += outlet.send()


def reconnect(
    path: str | bytes, following: Callable[[], Burst], rate: float, listener: socket.socket | None = None
) -> int:
    """Connect, send one burst and close, `rate` times a second, until standard input has a line.

    listener: accept and close the other end too. Returns the number of connections.
    """
    made = 0
    began = time.monotonic()
    while True:
        wait = max(made / rate - (time.monotonic() - began), 0.0)
        if select.select([sys.stdin], [], [], wait)[0]:
            return made
        # A full queue of the listener, or a link that the daemon has closed already, is over like any other.
        over = contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError)
        with socket.socket(socket.AF_UNIX) as link, over:
            link.setblocking(False)
            link.connect(path)
            link.send(following().data)
        if listener is not None:
            listener.accept()[0].close()
        made += 1


def announce(link: socket.socket) -> None:
    """Let the daemon know the attacker's address before it answers it."""
    frame = frames.announcement()
    link.sendall(QEMU.prefix.pack(len(frame)) + frame)


def open_connection(link: socket.socket, place: Place) -> list[bytes]:
    """Open a connection to a server that sends for ever. Returns an ACK of nothing that it sends."""
    ends = (next(place.own_ports), place.ports.stream)
    link.setblocking(True)
    link.settimeout(PATIENCE)
    first = frames.syn(frames.HOST, ends, SEQ)
    link.sendall(QEMU.prefix.pack(len(first)) + first)
    ack = _syn_ack(link, ends[0]).seq + 1 & 0xFFFFFFFF
    request = frames.segment(frames.HOST, ends, SEQ + 1, ack, tcp.ACK | tcp.PSH, payload=b"x")
    link.sendall(QEMU.prefix.pack(len(request)) + request)
    link.setblocking(False)
    return frames.duplicate_acks(place.ports, SEQ + 2, ack, ends)


def _syn_ack(link: socket.socket, port: int) -> tcp.Header:
    received = bytearray()
    while True:
        piece = link.recv(READ)
        if not piece:
            raise SystemExit("the daemon closed the link")
        received += piece
        places, rest = split(bytes(received), 0, len(received), QEMU)
        for off, length in places:
            frame = bytes(received[off : off + length])
            if ethernet.parse_header(frame, 0, length)[2] != ethernet.TYPE_IPV4:
                continue
            header = ipv4.parse(frame, ethernet.HEADER_LEN, length)
            if header.proto == ipv4.PROTO_TCP:
                found = tcp.parse(frame, ethernet.HEADER_LEN + header.ihl, length)
                if found.dst_port == port and found.flags & tcp.SYN:
                    return found
        del received[:rest]


def attack_once(attack: Attack, place: Place, ready: list[list[Burst]]) -> int:
    """Be the attacker until the next line. ready: the bursts of each link."""
    if attack.reconnects:
        return reconnect(place.qemu, rotation(ready[0]), attack.rate)
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(place.open(attack)) for _ in ready]
        if not attack.vnet:
            announce(links[0])
        if attack.connection:
            made = open_connection(links[0], place)
            ready = [bursts(attack._replace(make=lambda _: made), place.ports)]
        outlets = [Outlet(link, rotation(each)) for link, each in zip(links, ready, strict=True)]
        return pump(outlets, attack.rate)


def control_once(attack: Attack, rate: float, ready: list[Burst]) -> int:
    """Do the same work without a daemon until the next line."""
    if attack.reconnects:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("")
            listener.listen()
            return reconnect(listener.getsockname(), rotation(ready), rate, listener)
    with unread() as sock:
        return pump([Outlet(sock, rotation(ready))], rate)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="One attacker of perf.neighbours.")
    parser.add_argument("name", choices=BY_NAME)
    parser.add_argument("--qemu", required=True, help="the daemon's socket with QEMU's framing")
    parser.add_argument("--connect", required=True, help="the daemon's socket with /connect")
    parser.add_argument("--sink", type=int, required=True, help="UDP port on the host's loopback")
    parser.add_argument("--stream", type=int, required=True, help="TCP port whose server sends for ever")
    options = parser.parse_args(argv)
    attack = BY_NAME[options.name]
    place = Place(options.qemu, options.connect, Ports(options.sink, options.stream))
    ready = [bursts(attack, place.ports, number) for number in range(attack.links)]
    print("ready", flush=True)
    while words := sys.stdin.readline().split():
        if words[0] == "stop":
            continue
        began, cpu = time.monotonic(), time.process_time()
        if words[0] == "attack":
            sent = attack_once(attack, place, ready)
        else:
            sent = control_once(attack, float(words[1]), ready[0])
        seconds = time.monotonic() - began
        percent = 100 * (time.process_time() - cpu) / seconds
        outcome = {"frames": sent, "frames_per_second": sent / seconds, "cpu_percent": percent}
        print(json.dumps(outcome), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
