"""Receive steering: packets whose kind demux has judged before go past demux, as with a network card's flow
rules.

Demux reports the address and MAC of each guest (NEIGHBOR), and UDP flows that may be steered (STEER_UDP). A
run with exactly that Ethernet header and source address needs no judging. TCP goes to the shard that RSS
names. Datagrams of a known flow go to the egress worker that has its socket. Everything else goes to demux,
and so does a run for a destination that is refused without an answer.

Demux does not see steered packets, and must not take their guest for silent or their flow for idle. So
steering reports each guest and each flow in use, once in REPORT_EVERY_S.
"""

from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Final

from pipeline.config import fleet
from pipeline.config.choices import APART
from pipeline.config.model import Config
from pipeline.counter_block import add
from pipeline.counters import INDEX
from pipeline.engines import policy
from pipeline.engines.flows import rss_hash
from pipeline.engines.offload.burst import Item
from pipeline.ipc.ring import Producer
from pipeline.records import kinds, udp
from pipeline.records.addresses import Addr
from pipeline.records.flows import Ends, FlowKey
from pipeline.records.frames import NO_LINK, Frame, WatchDrops
from pipeline.records.guests import LinkNotice, Neighbor, Shared, Tunnel
from pipeline.records.tcp import TcpRange
from pipeline.records.udp import UdpData, UdpNotice, UdpRange
from pipeline.stages.ingress.apart import Apart
from pipeline.stages.losses import Losses
from pipeline.stages.worker import Worker
from pipeline.topology import DEMUX, EGRESS, TCP
from pipeline.wire import ethernet, ip, ipv4, tcp

MAX_FRAGMENTED: Final = 256
"""The most flows with fragments that are remembered, since demux may allow steering after the fragments."""

_PACKETS: Final = INDEX["ipv4_packets_received"]
_PACKETS6: Final = INDEX["ipv6_packets_received"]
_DATAGRAMS: Final = INDEX["udp_datagrams_from_guest"]
_STEERED: Final = INDEX["link_runs_steered"]

_IPV4: Final = b"\x08\x00"
_IPV6: Final = b"\x86\xdd"
_MAX_HEADERS: Final = 14 + 60 + 8
"""Bytes of Ethernet, the longest IPv4 header, and UDP. IPv6 and a Fragment header take less."""
_IPV6_END: Final = 14 + 40
_FRAGMENT_HEADER: Final = 44
_FRAG_OFF6: Final = 0xFFF8
_FRAG_OFF: Final = 0x1FFF
_ADDRESSES: Final = Struct("!II")
_PORTS: Final = Struct("!HH")
_MACS: Final = Struct("<III")
NO_FRAME: Final[tuple[int, int, int]] = (-1, -1, -1)
"""What no frame begins with."""
_FIRST_GROUP: Final = ip.MAPPED | 0xE0000000
"""Multicast, reserved and broadcast addresses of IPv4 begin here."""
_FIRST_IPV6: Final = ip.BROADCAST + 1
_FIRST_LINK_LOCAL: Final = 0xFE80 << 112
"""Link-local and multicast addresses of IPv6 begin here."""


class Whereabouts:
    """The MAC and the link of an address of the virtual network, as demux has reported them."""

    __slots__ = ("header", "link", "mac", "report_at", "sends")

    def __init__(self, mac: bytes, link: int, gateway_mac: bytes, ethertype: int) -> None:
        self.mac = mac
        self.link = link
        self.header = ethernet.header(mac, gateway_mac, ethertype)
        """The Ethernet header of frames to this guest."""
        self.sends: tuple[int, int, int] = _MACS.unpack(gateway_mac + mac)
        """The first bytes of frames from this guest to the gateway, as three numbers."""
        self.report_at = 0.0

    def stop_steering(self) -> None:
        """Frames from this guest go to demux until it reports the guest again."""
        self.sends = NO_FRAME


class Route:
    """A UDP flow of a guest, and the ring that leads to its socket."""

    __slots__ = ("number", "report_at", "ring", "wait_for")

    def __init__(self, number: int, ring: Producer, wait_for: int) -> None:
        self.number = number
        self.ring = ring
        self.wait_for = wait_for
        """To keep the order of datagrams, they go past demux only once demux has taken this many records in
        all. 0 if it has."""
        self.report_at = 0.0


class Steering:
    """The rules for steering, and the distribution of the runs of all links."""

    def __init__(self, worker: Worker, config: Config, apart: Apart | None = None) -> None:
        rings = worker.ports.rings_out
        self._counts = worker.counts
        self._apart = apart
        self._gateway_mac = config.network.gateway_mac
        self._station_mac = fleet.station_mac(config.fleet) or self._gateway_mac
        self._tunnel = NO_LINK
        self._broadcast = ip.of(config.network.subnet.broadcast_address)
        self._demux = rings["demux"]
        self._shards = [rings[f"tcp{i}"] for i in range(config.workers.tcp_workers)]
        self._egress = [rings[f"egress{i}"] for i in range(config.workers.egress_workers)]
        self._rings = [self._demux, *self._shards, *self._egress]
        self.neighbors: dict[Addr, Whereabouts] = {}
        self.routes: dict[FlowKey, Route] = {}
        self.fragmented: dict[FlowKey, None] = {}
        self._not_past = _not_past(config)

    def reload(self, config: Config) -> None:
        """Follow a new egress policy."""
        self._not_past = _not_past(config)

    def has_room(self) -> bool:
        """Whether every ring has room for a record (see Producer.has_room)."""
        found = True
        for ring in self._rings:
            # Each ring that is nearly full must learn it, so that the worker wakes when there is room.
            if not ring.has_room():
                found = False
        return found

    # --- runs ---------------------------------------------------------------------------

    def pass_on(self, view: memoryview, items: Sequence[Item], now: float) -> None:
        """Push the records that GRO made of the frames in the slot ``view``, each to its worker."""
        push = self._demux.push
        neighbors = self.neighbors
        past = packets = packets6 = 0
        for item in items:
            if isinstance(item, TcpRange):
                ends = Ends.of(item.key)
                neighbor = neighbors.get(ends.guest_addr)
                if (
                    neighbor is not None
                    and neighbor.link == item.link
                    and self._is_judged(view, item.off - item.header_len, neighbor, ends.remote_addr)
                    and not item.flags & self._not_past
                ):
                    self._shard(ends).push(item.pack())
                    past += 1
                    if ends.remote_addr < _FIRST_IPV6:
                        packets += item.segments
                    else:
                        packets6 += item.segments
                    if now >= neighbor.report_at:
                        self._report(ends.guest_addr, neighbor, now)
                    continue
            elif isinstance(item, UdpRange):
                ends = Ends.of(item.key)
                neighbor = neighbors.get(ends.guest_addr)
                if neighbor is None or neighbor.link == item.link:
                    if (
                        neighbor is not None
                        and self._is_judged(view, item.off - item.header_len, neighbor, ends.remote_addr)
                        and self._to_socket(item, now)
                    ):
                        past += 1
                        if ends.remote_addr < _FIRST_IPV6:
                            packets += item.piece_count()
                        else:
                            packets6 += item.piece_count()
                        if now >= neighbor.report_at:
                            self._report(ends.guest_addr, neighbor, now)
                        continue
                    self._hold_back(item.key)
            else:
                self._keep_order(view, item)
            push(item.pack())
        if past:
            add(self._counts, _STEERED, past)
            add(self._counts, _PACKETS, packets)
            add(self._counts, _PACKETS6, packets6)

    def _is_judged(self, view: memoryview, begin: int, neighbor: Whereabouts, remote: Addr) -> bool:
        """Whether demux need not judge the frame at ``begin``: the MACs are known, the destination is one
        host."""
        first, second, third = _MACS.unpack_from(view, begin)
        known_first, known_second, known_third = neighbor.sends
        return (
            first == known_first
            and second == known_second
            and third == known_third
            and (remote < _FIRST_GROUP or _FIRST_IPV6 <= remote < _FIRST_LINK_LOCAL)
            and not ip.is_loopback(remote)
            and remote != self._broadcast
        )

    def _shard(self, ends: Ends) -> Producer:
        """The ring of the tcp shard for a flow."""
        shards = self._shards
        if len(shards) == 1:
            return shards[0]
        flow = rss_hash(ends.guest_addr, ends.guest_port, ends.remote_addr, ends.remote_port)
        return shards[flow % len(shards)]

    def _to_socket(self, run: UdpRange, now: float) -> bool:
        """Push datagrams to the egress worker that has their socket. False if they have to go to demux."""
        route = self.routes.get(run.key)
        if route is None or (route.wait_for and self._demux.cons_idx() < route.wait_for):
            return False
        route.wait_for = 0
        route.ring.push(UdpData.pack(route.number, run.key, run, link=run.link))
        add(self._counts, _DATAGRAMS, run.piece_count())
        if now >= route.report_at:
            route.report_at = now + kinds.REPORT_EVERY_S
            self._demux.push(UdpNotice.pack(kinds.UDP_USED, run.key))
        return True

    def _hold_back(self, key: FlowKey) -> None:
        """Datagrams of a flow go to demux now. Later ones may go past demux only when it has taken these."""
        route = self.routes.get(key)
        if route is not None:
            route.wait_for = self._demux.push_idx() + 1

    def _keep_order(self, view: memoryview, frame: Frame) -> None:
        """Demux has to judge this frame. If it is of a UDP flow, the whole flow goes to demux from now on.

        So fragments stay in order with other datagrams. The first fragment has the ports of the flow. A frame
        with the address of another link's guest has no effect, since any guest can forge such frames.
        """
        ends = _ends_of(bytes(view[frame.off : frame.off + min(frame.length, _MAX_HEADERS)]))
        if ends is None:
            return
        neighbor = self.neighbors.get(ends.guest_addr)
        if neighbor is not None and neighbor.link != frame.link:
            return
        key = ends.key()
        self.fragmented[key] = None
        if len(self.fragmented) > MAX_FRAGMENTED:
            del self.fragmented[next(iter(self.fragmented))]
        if self.routes.pop(key, None) is not None:
            self._demux.push(UdpNotice.pack(kinds.UDP_FRAGMENTED, key))

    def _report(self, addr: Addr, neighbor: Whereabouts, now: float) -> None:
        """Report to demux that a guest is active."""
        neighbor.report_at = now + kinds.REPORT_EVERY_S
        self._demux.push(Neighbor.pack(kinds.HEARD, addr, neighbor.mac, neighbor.link))

    # --- rules --------------------------------------------------------------------------

    def learn(self, addr: Addr, mac: bytes, link: int) -> None:
        """The guest with this address has this MAC, and is on this link."""
        found = Whereabouts(mac, link, self.sender_on(link), ethernet.type_of(addr))
        if self._apart is not None:
            self._apart.has(addr, link)
            own = self._apart.own_mac(link, mac)
            found.header = ethernet.header(own, self._gateway_mac, ethernet.type_of(addr))
        if link == self._tunnel:
            # Demux judges what guests of other hosts send to this one (demux/own_station.py).
            found.stop_steering()
        self.neighbors[addr] = found

    def learn_again(self, link: int) -> None:
        """Make the headers of the guests on a link anew."""
        for addr, found in [*self.neighbors.items()]:
            if found.link == link:
                self.learn(addr, found.mac, link)

    def sender_on(self, link: int) -> bytes:
        """The MAC address from which this host sends to guests on a link: the gateway's, or its own."""
        return self._station_mac if link == self._tunnel else self._gateway_mac

    def forget(self, addr: Addr) -> None:
        """No guest has this address any more."""
        self.neighbors.pop(addr, None)
        if self._apart is not None:
            self._apart.has_not(addr)

    def steer(self, key: FlowKey, number: int, egress: int) -> None:
        """Datagrams of a flow, which demux has numbered, may go straight to that egress worker."""
        if key not in self.fragmented:
            self.routes[key] = Route(number, self._egress[egress], self._demux.push_idx())

    def unsteer(self, key: FlowKey, number: int) -> None:
        """The flow with that number is over. There may be another one between the same ends."""
        route = self.routes.get(key)
        if route is not None and route.number == number:
            del self.routes[key]

    def report_shared(self, shared: bool) -> None:
        """Tell the other workers whether several guests are active. If so, they measure what each costs."""
        for ring in self._rings:
            ring.push(Shared.pack(shared))

    def watch_drops(self, on: bool) -> None:
        """A capture of drops is running now, or none is: demux hands over what it drops, or not."""
        self._demux.push(WatchDrops.pack(on))

    def link_up(self, link: int, guest: int) -> None:
        """Report a new link of that guest, to each worker before its first record about the link."""
        up = LinkNotice.pack(kinds.LINK_UP, link, guest)
        for ring in (*self._shards, self._demux):
            ring.push(up)

    def report_tunnel(self, link: int, mtu: int) -> None:
        """The link leads to other hosts, and carries packets of this length."""
        self._demux.push(Tunnel.pack(link, mtu))
        if link != self._tunnel:
            self._tunnel = link
            # Demux may have reported its stations before.
            self.learn_again(link)

    def link_down(self, link: int, guest: int) -> None:
        """The link is gone. Forget its addresses, and report it to all workers that may know it."""
        for addr in [addr for addr, neighbor in self.neighbors.items() if neighbor.link == link]:
            del self.neighbors[addr]
        if link == self._tunnel:
            self._tunnel = NO_LINK
        down = LinkNotice.pack(kinds.LINK_DOWN, link, guest)
        for ring in (*self._shards, self._demux):
            ring.push(down)

    # --- successors of workers that died -----------------------------------------------------

    def on_demux_lost(self) -> None:
        """Demux has died: its successor judges every packet anew. Frames still find their guests."""
        for neighbor in self.neighbors.values():
            neighbor.stop_steering()
        self.routes.clear()

    def on_egress_lost(self, egress: int) -> None:
        """An egress worker has died, with the sockets of these flows."""
        lost = self._egress[egress]
        self.routes = {key: route for key, route in self.routes.items() if route.ring is not lost}

    def introduce(self, losses: Losses, links: Mapping[int, int], *, shared: bool, drops: bool) -> None:
        """Tell successors what they have to know from the start. links: as in Losses.

        shared: as for report_shared(). drops: as for watch_drops().
        """
        tcp = [self._shards[shard] for shard in losses.shards(TCP)]
        demux = [self._demux] if losses.has(DEMUX) else []
        for ring in (*tcp, *demux):
            for link, guest in links.items():
                ring.push(LinkNotice.pack(kinds.LINK_UP, link, guest))
        if shared:
            for ring in (*tcp, *demux, *(self._egress[shard] for shard in losses.shards(EGRESS))):
                ring.push(Shared.pack(shared))
        if drops and demux:
            self.watch_drops(drops)


def _ends_of(head: bytes) -> Ends | None:
    """The flow of a datagram or of its first fragment. head: the first _MAX_HEADERS bytes of its frame."""
    if len(head) < udp.HEADERS_LEN:
        return None
    if head[12:14] == _IPV4 and head[23] == ipv4.PROTO_UDP:
        src, dst = map(ip.from_ipv4, _ADDRESSES.unpack_from(head, 26))
        ports = 14 + (head[14] & 15) * 4
        frag_off = (head[20] << 8 | head[21]) & _FRAG_OFF
    elif head[12:14] == _IPV6 and len(head) >= _IPV6_END + 8:
        src, dst = (int.from_bytes(head[begin : begin + 16], "big") for begin in (22, 38))
        ports, proto, frag_off = _IPV6_END, head[20], 0
        if proto == _FRAGMENT_HEADER:
            proto, frag_off = head[_IPV6_END], (head[_IPV6_END + 2] << 8 | head[_IPV6_END + 3]) & _FRAG_OFF6
            ports += 8
        if proto != ipv4.PROTO_UDP:
            return None
    else:
        return None
    if frag_off or ports + 4 > len(head):
        return None
    src_port, dst_port = _PORTS.unpack_from(head, ports)
    return Ends(src, src_port, dst, dst_port)


def _not_past(config: Config) -> int:
    """The flags of segments that go through demux.

    If the policy has names, proxies or stations, a SYN must not overtake the record of a name or a neighbour
    that demux passes to egress. With inner addresses, each rule may be about a station.
    """
    rules = config.access.policy
    if config.access.guests == APART and (rules.rules or rules.quotas):
        return tcp.SYN
    judges = policy.has_names(rules) or policy.has_proxies(rules) or policy.has_stations(rules)
    return tcp.SYN if judges else 0
