"""Connections and datagrams of several guests, from both sides and in any order, through all shards together.

Workers breathe in an order drawn anew each time, and not all equally often; guests go deaf, stop reading,
reset, and so do hosts. What was not reset must arrive to the last byte, and all must be home at the end.
"""

import random
import socket
import struct

import pytest

from pipeline.wire.tcp import ACK, RST
from tests.support.network import Network
from tests.support.played_guests import Guest, GuestStream

SEEDS = 2
STEPS = 250
MOST_OPEN = 40
SIZES = (1, 1460, 20_000, 20_000, 150_000, 4_000_000)


class Pair:
    """One connection: what each end has said, and heard."""

    def __init__(self, stream: GuestStream | None, sock: socket.socket | None) -> None:
        self.stream = stream
        self.sock = sock
        self.from_guest = bytearray()
        self.from_host = bytearray()
        self.heard = bytearray()
        self.unsent = b""
        self.host_done = False
        """The host says no more."""
        self.shut = False
        self.guest_done = False
        self.host_eof = False
        self.host_reads = True
        self.broken = False
        """Somebody has reset it, or may have by closing: bytes may be missing at the end."""

    def host_send(self) -> None:
        """What the host's kernel takes now of what its program says."""
        if self.sock is None or self.sock.fileno() == -1:
            self.unsent = b""
        while self.unsent and self.sock is not None:
            try:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]
            except BlockingIOError:
                return
            except OSError:
                assert self.broken
                self.unsent = b""
        if self.host_done and not self.shut and self.sock is not None and self.sock.fileno() != -1:
            self.shut = True
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError:
                assert self.broken

    def host_receive(self) -> None:
        """What has come for the host."""
        if self.sock is None or self.sock.fileno() == -1 or self.host_eof:
            return
        if not self.host_reads:
            return
        try:
            while data := self.sock.recv(1 << 20):
                self.heard += data
            self.host_eof = True
        except BlockingIOError:
            return
        except OSError:
            assert self.broken
            self.host_eof = True

    def over(self) -> bool:
        """Whether both ends have seen their end."""
        if self.stream is None:
            return self.broken and (self.host_eof or self.sock is None or self.sock.fileno() == -1)
        there = self.stream.gone or (self.stream.eof and self.guest_done)
        return there and (self.host_eof or self.sock is None or self.sock.fileno() == -1)

    def check(self) -> None:
        """What was heard is the front of what was said; all of it unless somebody broke the connection."""
        said_by_host = bytes(self.from_host)
        received = bytes(self.stream.received) if self.stream is not None else b""
        assert said_by_host.startswith(received)
        assert bytes(self.from_guest).startswith(bytes(self.heard))
        if not self.broken:
            assert received == said_by_host
            assert self.heard == self.from_guest
            assert self.stream is not None
            assert self.stream.eof
            assert not self.stream.failed


class Run:
    """One random run."""

    def __init__(self, net: Network, seed: int) -> None:
        self.net = net
        self.rng = random.Random(seed)
        self.guests = [net.card.guest(number) for number in (1, 2, 3)]
        self.pairs: list[Pair] = []
        self.dialled: dict[int, Pair] = {}
        """By the port of the guest that was dialled, each used once."""
        self.waiting: dict[int, tuple[socket.socket, Pair]] = {}
        """By the port of the host's listener, each used once."""
        self.serial = 0
        self.udp = net.udp_server()

    # --- what may happen --------------------------------------------------------------------

    def guest_opens(self) -> None:
        """A guest connects to a listener that only this connection has."""
        listener = self.net.keep(socket.create_server(("127.0.0.1", 0)))
        listener.setblocking(False)
        port = listener.getsockname()[1]
        pair = Pair(self.rng.choice(self.guests).connect(port), None)
        self.pairs.append(pair)
        self.waiting[port] = listener, pair

    def host_opens(self) -> None:
        """A host client comes to a forwarded port; sometimes nobody listens behind it."""
        guest = self.rng.choice(self.guests)
        self.serial += 1
        port = 1000 + self.serial
        pair = Pair(None, None)
        if self.rng.random() < 0.9:
            guest.listens.add(port)
            self.dialled[port] = pair
        else:
            pair.broken = True
        egress = self.rng.choice(self.net.layout.shards("egress"))
        pair.sock = self.net.accept(egress, guest.addr, port)
        self.pairs.append(pair)

    def guest_sends(self, pair: Pair) -> None:
        """Some bytes that no other connection has."""
        if pair.stream is not None and not pair.guest_done:
            data = self.rng.randbytes(self.rng.choice(SIZES))
            pair.from_guest += data
            pair.stream.send(data)

    def host_sends(self, pair: Pair) -> None:
        """The same from the host."""
        if pair.sock is not None and not pair.host_done:
            data = self.rng.randbytes(self.rng.choice(SIZES))
            pair.from_host += data
            pair.unsent += data
            pair.host_send()

    def guest_finishes(self, pair: Pair) -> None:
        """Its half ends."""
        if pair.stream is not None and not pair.guest_done:
            pair.guest_done = True
            pair.stream.finish()

    def host_finishes(self, pair: Pair) -> None:
        """Its half ends behind all that it has said."""
        if pair.sock is not None:
            pair.host_done = True
            if not pair.unsent:
                pair.host_send()

    def guest_resets(self, pair: Pair) -> None:
        """All ends at once."""
        if pair.stream is not None:
            pair.broken = pair.guest_done = True
            pair.stream.reset()

    def host_resets(self, pair: Pair) -> None:
        """The same from the host."""
        if pair.sock is not None and pair.sock.fileno() != -1:
            pair.broken = pair.host_done = True
            pair.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            pair.sock.close()

    def host_closes(self, pair: Pair) -> None:
        """Both halves, whatever the guest still says."""
        if pair.sock is not None:
            pair.broken = pair.host_done = True
            pair.sock.close()

    def guest_turns_deaf(self, pair: Pair) -> None:
        """Or hears again."""
        if pair.stream is not None:
            pair.stream.deaf = not pair.stream.deaf

    def guest_turns_idle(self, pair: Pair) -> None:
        """Its program stops reading, or goes on."""
        if pair.stream is None:
            return
        if pair.stream.reads:
            pair.stream.reads = False
        else:
            pair.stream.read()

    def host_turns_idle(self, pair: Pair) -> None:
        """The host's program does the same."""
        pair.host_reads = not pair.host_reads

    def datagrams(self) -> None:
        """Some to a host that answers, one to a port that nobody has."""
        guest: Guest = self.rng.choice(self.guests)
        for _ in range(self.rng.randrange(5)):
            guest.datagram(self.udp.getsockname()[1], self.rng.randbytes(self.rng.choice((0, 10, 1400))))
        guest.datagram(1, b"refused")
        while True:
            try:
                words, address = self.udp.recvfrom(2000)
            except BlockingIOError:
                return
            self.udp.sendto(words, address)

    # --- the run ------------------------------------------------------------------------------

    def step(self) -> None:
        """Something happens, then some workers breathe."""
        rng = self.rng
        self.meet()
        kinds = (
            self.guest_sends, self.guest_sends, self.host_sends, self.host_sends, self.guest_finishes,
            self.host_finishes, self.guest_turns_deaf, self.guest_turns_idle, self.host_turns_idle,
            self.guest_resets, self.host_resets, self.host_closes,
        )  # fmt: skip
        weights = (6, 6, 6, 6, 2, 2, 5, 3, 3, 1, 1, 1)
        if self.pairs:
            for kind in rng.choices(kinds, weights, k=rng.randrange(4)):
                kind(rng.choice(self.pairs))
        if len(self.pairs) < MOST_OPEN:
            rng.choice((self.guest_opens, self.host_opens))()
        if rng.random() < 0.1:
            self.datagrams()
        names = list(self.net.layout.names)
        for _ in range(rng.randrange(12)):
            self.net.breathe(rng.choice(names))
        if rng.random() < 0.3:
            self.net.now += rng.choice((0.001, 0.05, 0.3, 1.0))

    def meet(self) -> None:
        """Match the two ends of connections that have come about; read what has come for hosts."""
        for port, (listener, pair) in list(self.waiting.items()):
            try:
                pair.sock = self.net.keep(listener.accept()[0])
            except BlockingIOError:
                assert pair.stream is not None
                if pair.broken and pair.stream.gone:
                    del self.waiting[port]
                continue
            pair.sock.setblocking(False)
            del self.waiting[port]
        for guest in self.guests:
            for stream in guest.accepted:
                self.dialled.pop(stream.port).stream = stream
                guest.listens.discard(stream.port)
            guest.accepted.clear()
        for pair in self.pairs:
            pair.host_send()
            pair.host_receive()

    def end(self) -> None:
        """Everybody hears and reads again and ends what he has open."""
        for pair in self.pairs:
            if pair.broken and pair.stream is not None:
                # The other end's reset may have come while it was deaf; its own is none in LAST-ACK.
                self.guest_resets(pair)
                pair.stream.say(RST | ACK)

        def all_over() -> bool:
            self.meet()
            for pair in self.pairs:
                pair.host_reads = True
                if pair.stream is not None:
                    pair.stream.deaf = False
                    if not pair.stream.reads:
                        pair.stream.read()
                self.guest_finishes(pair)
                self.host_finishes(pair)
            # A guest that was deaf for long is tried again after minutes.
            self.net.advance(1.0)
            return not self.waiting and all(pair.over() for pair in self.pairs)

        self.net.until(all_over, "the end of all connections")
        for pair in self.pairs:
            pair.check()


NETWORKS: dict[str, dict[str, int]] = {
    "few slots": {"slots": 64},
    "two and two": {"slots": 96, "tcp_workers": 2, "egress_workers": 2},
    "three and two": {"slots": 512, "tcp_workers": 3, "egress_workers": 2},
    "little memory": {
        "slots": 64,
        "egress_workers": 2,
        "max_receive_memory": 1 << 20,
        "max_receive_memory_per_guest": 1 << 19,
        "max_out_of_order_slots": 4,
        "max_slots_per_flow": 2,
    },
}


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("kind", NETWORKS)
def test_everything_arrives_and_everything_is_home(kind: str, seed: int) -> None:
    with Network(seed=seed, **NETWORKS[kind]) as net:
        run = Run(net, seed)
        for _ in range(STEPS):
            run.step()
        run.end()
        net.everybody_leaves()
