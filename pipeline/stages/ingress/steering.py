"""Receive steering: what demux has judged once goes past it, as with the flow rules of a network card.

Demux says which guest has which address and MAC (NEIGHBOR), and which UDP flows there are (STEER_UDP).
A run whose Ethernet header and source address are exactly those has nothing left to be judged: TCP
goes to the shard that RSS names, datagrams of a known flow to the egress worker that has its socket.
Everything else goes to demux, as does a run for a destination that is refused without an answer.

Demux must not believe that a guest is silent, or a flow idle, because it sees nothing of them: once in
d.TELL_EVERY_S it is told about each that is in use.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Final

from pipeline.config.model import Config
from pipeline.counters import INDEX
from pipeline.engines import policy
from pipeline.engines.flows import rss_hash
from pipeline.engines.offload.gro import Item
from pipeline.ipc.ring import Producer
from pipeline.records import descriptor as d
from pipeline.stages.worker import Worker
from pipeline.wire import ethernet, ipv4, tcp

MAX_FRAGMENTED: Final = 256
"""Flows with fragments that are remembered, for when demux says only then that they may go past it."""

_PACKETS: Final = INDEX["ipv4_packets_received"]
_DATAGRAMS: Final = INDEX["udp_datagrams_from_guest"]
_STEERED: Final = INDEX["link_runs_steered"]

_RUNS: Final = frozenset((d.TCP_RANGE, d.UDP_RANGE))
_IPV4: Final = b"\x08\x00"
_UDP_FRAME: Final = 42
_UDP_HEADERS: Final = 14 + 60 + 8
_FRAG_OFF: Final = 0x1FFF
_FLOW: Final = Struct("!III")
_ADDRESSES: Final = 12
"""Bytes of the two addresses at the begin of an Ethernet header."""
_FIRST_GROUP: Final = 0xE0000000
"""Multicast, reserved and broadcast addresses are from here on."""


class Neighbor:
    """Where an address of the virtual network is, as demux has said."""

    __slots__ = ("address", "header", "link", "sends", "tell_at")

    def __init__(self, record_address: tuple[int, int], link: int, gateway_mac: bytes) -> None:
        mac = d.mac_of(*record_address)
        self.address = record_address
        self.link = link
        self.header = ethernet.header(mac, gateway_mac, ethernet.TYPE_IPV4)
        """Ethernet header of what goes there."""
        self.sends = gateway_mac + mac
        """How the Ethernet header of what comes from there begins."""
        self.tell_at = 0.0


class Route:
    """A UDP flow of a guest, and the ring that leads to its socket."""

    __slots__ = ("behind", "number", "ring", "tell_at")

    def __init__(self, number: int, ring: Producer, behind: int) -> None:
        self.number = number
        self.ring = ring
        self.behind = behind
        """Datagrams may go past demux when it has taken all that was pushed before: they stay in order."""
        self.tell_at = 0.0


class Steering:
    """The rules, and the runs of all links."""

    def __init__(self, worker: Worker, config: Config) -> None:
        rings = worker.ports.rings_out
        self.worker = worker
        self.counts = worker.counts
        self.gateway_mac = config.gateway_mac
        self.broadcast = int(config.subnet.broadcast_address)
        self.demux_out = rings["demux"]
        self.tcp_out = [rings[f"tcp{i}"] for i in range(config.tcp_workers)]
        self.egress_out = [rings[f"egress{i}"] for i in range(config.egress_workers)]
        self.rings = [self.demux_out, *self.tcp_out, *self.egress_out]
        self.neighbors: dict[int, Neighbor] = {}
        self.fragmented: dict[tuple[int, ...], None] = {}
        self.routes: dict[tuple[int, ...], Route] = {}
        # With names in the policy a SYN must not overtake what demux tells egress about a name.
        self._not_past = tcp.SYN if policy.patterns(config.egress_policy) else 0

    def room(self) -> int:
        """Records that every ring still takes (see Producer.room)."""
        return min([ring.room() for ring in self.rings])

    # --- runs ---------------------------------------------------------------------------

    def pass_on(self, view: memoryview, items: Sequence[Item], now: float) -> None:
        """Push what GRO has made of the frames in the slot ``view``, each to whom it is for."""
        pack = d.DESCRIPTOR.pack
        push = self.demux_out.push
        neighbors = self.neighbors
        past = packets = 0
        for item in items:
            kind = item[0]
            neighbor = neighbors.get(item[15])
            if neighbor is not None and kind in _RUNS:
                begin = item[6] - (item[18] & d.RUN_HEADER_MASK)
                remote = item[16]
                if (
                    view[begin : begin + _ADDRESSES] == neighbor.sends
                    and neighbor.link == item[2]
                    and remote < _FIRST_GROUP
                    and not ipv4.is_loopback(remote)
                    and remote != self.broadcast
                    and (self._to_tcp(item) if kind == d.TCP_RANGE else self._to_socket(item, now))
                ):
                    past += 1
                    packets += item[9]
                    if now >= neighbor.tell_at:
                        self._tell(item[15], neighbor, now)
                    continue
            if kind == d.FRAME:
                self._keep_order(view, item[2], item[6], item[7])
            elif (
                kind == d.UDP_RANGE
                and (neighbor is None or neighbor.link == item[2])
                and (route := self.routes.get(item[15:18]))
            ):
                # When demux has learned again where the guest is, or its new MAC, this has to be taken first.
                route.behind = self.demux_out.push_idx() + 1
            push(pack(*item))
        if past:
            self.counts[_STEERED] += past
            self.counts[_PACKETS] += packets

    def _to_tcp(self, item: Item) -> bool:
        """Push a run to its shard; False if it must not go past demux."""
        if item[1] & self._not_past:
            return False
        shards = self.tcp_out
        if len(shards) == 1:
            (ring,) = shards
        else:
            ports = item[17]
            ring = shards[rss_hash(item[15], ports >> 16, item[16], ports & 0xFFFF) % len(shards)]
        ring.push(d.DESCRIPTOR.pack(*item))
        return True

    def _to_socket(self, item: Item, now: float) -> bool:
        """Push datagrams to the worker that has their socket; False if there is none that demux knows of."""
        route = self.routes.get(item[15:18])
        if route is None:
            return False
        if route.behind:
            if self.demux_out.cons_idx() < route.behind:
                # So this goes there as well, and has to be taken first.
                route.behind = self.demux_out.push_idx() + 1
                return False
            route.behind = 0
        _, _, link, stride, size, slot, off, length, _, count, *_ = item
        src, dst, ports = item[15:18]
        route.ring.push(
            d.DESCRIPTOR.pack(
                d.UDP_DATA, 0, link, stride, size, slot, off, length, 0, route.number,
                0, 0, 0, 0, 0, src, dst, ports, 0,
            )
        )  # fmt: skip
        self.counts[_DATAGRAMS] += count
        if now >= route.tell_at:
            route.tell_at = now + d.TELL_EVERY_S
            self.demux_out.push(d.record(d.UDP_USED, guest_addr=src, remote_addr=dst, ports=ports))
        return True

    def _keep_order(self, view: memoryview, link: int, off: int, length: int) -> None:
        """A frame that demux has to judge: what belongs to its UDP flow stays behind it from now on.

        So fragments do not lose their place: the first of them says which flow it is. (UDP_RANGE has none.)
        A frame with an address that another link's guest has is no reason: anybody can make up such.
        """
        frame = bytes(view[off : off + min(length, _UDP_HEADERS)])
        if len(frame) >= _UDP_FRAME and frame[12:14] == _IPV4 and frame[23] == ipv4.PROTO_UDP:
            ports = 14 + (frame[14] & 15) * 4
            if not (frame[20] << 8 | frame[21]) & _FRAG_OFF and ports + 4 <= len(frame):
                flow = _FLOW.unpack(frame[26:34] + frame[ports : ports + 4])
                neighbor = self.neighbors.get(flow[0])
                if neighbor is not None and neighbor.link != link:
                    return
                self.fragmented[flow] = None
                if len(self.fragmented) > MAX_FRAGMENTED:
                    del self.fragmented[next(iter(self.fragmented))]
                if self.routes.pop(flow, None) is not None:
                    src, dst, both = flow
                    self.demux_out.push(
                        d.record(d.UDP_FRAGMENTED, guest_addr=src, remote_addr=dst, ports=both)
                    )

    def _tell(self, addr: int, neighbor: Neighbor, now: float) -> None:
        neighbor.tell_at = now + d.TELL_EVERY_S
        seq, ack = neighbor.address
        self.demux_out.push(d.record(d.HEARD, link=neighbor.link, guest_addr=addr, seq=seq, ack=ack))

    # --- rules --------------------------------------------------------------------------

    def learn(self, addr: int, mac: tuple[int, int], link: int) -> None:
        """addr is at a MAC (as in a record) of link."""
        self.neighbors[addr] = Neighbor(mac, link, self.gateway_mac)

    def forget(self, addr: int) -> None:
        """addr has no neighbour any more."""
        self.neighbors.pop(addr, None)

    def steer(self, flow: tuple[int, int, int], number: int, egress: int) -> None:
        """Datagrams of (guest_addr, remote_addr, ports) may go straight to a socket of that egress worker."""
        if flow not in self.fragmented:
            self.routes[flow] = Route(number, self.egress_out[egress], self.demux_out.push_idx())

    def unsteer(self, flow: tuple[int, int, int], number: int) -> None:
        """The flow with that number is over; there may be another one between the same ends."""
        route = self.routes.get(flow)
        if route is not None and route.number == number:
            del self.routes[flow]

    def link_up(self, link: int) -> None:
        """A guest is there."""
        self.demux_out.push(d.record(d.LINK_UP, link=link))

    def link_down(self, link: int) -> None:
        """A guest is gone: nothing goes to it any more, and those who may hear of it are told."""
        for addr in [addr for addr, neighbor in self.neighbors.items() if neighbor.link == link]:
            del self.neighbors[addr]
        down = d.record(d.LINK_DOWN, link=link)
        for ring in (*self.tcp_out, self.demux_out):
            ring.push(down)
