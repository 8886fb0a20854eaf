"""The link to other hosts by VXLAN (RFC 7348): one UDP socket, behind which each host has many guests.

Towards the pipeline this is one link with virtio-net headers, like that of a guest with offload. Towards the
hosts each frame is a datagram. So the link does what a network card does. It cuts super-segments and
completes checksums before it sends (pipeline.engines.vxlan.segments), and merges segments that arrived
together (pipeline.engines.vxlan.merge).

The link learns from each frame which host has the sender's MAC address. A frame for a known one goes to that
host. All others go to each host (head-end replication). What arrives is never sent to another host, since the
switch sends no frame back to its link: all hosts must name each other (split horizon).

Between two hosts that both understand it, a super-segment travels in one piece, as a *train*
(pipeline.wire.vxlan_train). A link asks a host whether it does (pipeline.engines.vxlan.peers).

Only datagrams from the known hosts are read, whatever their port: those of the configuration, and the members
of a fleet, which come and go. Their number must be that of the network. What concerns a gateway stays on its
host (pipeline.engines.vxlan.stays). A fleet also says where stations are (pipeline.engines.vxlan.places).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pipeline.engines.vxlan import merge, trains
from pipeline.engines.vxlan.forwarding import ALL_HOSTS, ForwardingTable
from pipeline.engines.vxlan.peers import Peers
from pipeline.engines.vxlan.places import Places
from pipeline.engines.vxlan.segments import completed
from pipeline.engines.vxlan.stays import Gateway
from pipeline.links import vnet
from pipeline.links.base import MAX_BACKLOG, Buffer, Burst, Link, SlotPool
from pipeline.links.vxlan_output import DatagramSocket, VxlanOutput
from pipeline.links.vxlan_url import MAX_REMOTES, End, VxlanPlace, inner_mtu
from pipeline.records.kinds import NO_SLOT
from pipeline.system import path_mtu
from pipeline.wire import offload, virtio_net, vxlan, vxlan_train
from pipeline.wire.errors import WireError
from pipeline.wire.framing import Framing

MAX_TRAINS: Final = 64
"""The most reads of one burst."""
LONGEST_TRAIN: Final = 0xFFFF

_VNET_LEN: Final[int] = offload.VNET_LEN
_AHEAD: Final = _VNET_LEN - vxlan.HEADER_LEN
"""Bytes to leave free before a datagram, so that a virtio-net header fits before its frame."""
_ALIGN: Final = 8
_ROOM: Final = _AHEAD + LONGEST_TRAIN + 1 + merge.RESERVE
"""Bytes of a slot that a read needs."""
_ETHERNET_LEN: Final = 14
_MACS_LEN: Final = 12
_MAC_LEN: Final = 6
_HEAD_LEN: Final = vxlan.HEADER_LEN + _MACS_LEN
"""Bytes at the start of a datagram that decide whether it may pass, if it is for one station."""
_GROUP: Final = 1
_FEATURES: Final = offload.CSUM | offload.TSO4 | offload.TSO6
_LONG: Final = virtio_net.LONG
_MARK: Final = vxlan_train.MARK
_NONCE_LEN: Final = 8
_TRAIN_LEN: Final = 4

_UNKNOWN_SOURCE: Final = "vxlan_datagram_dropped_unknown_source"
_TRUNCATED: Final = "vxlan_datagram_dropped_truncated"
_NO_VNI: Final = "vxlan_datagram_dropped_no_vni"
_WRONG_VNI: Final = "vxlan_datagram_dropped_wrong_vni"
_GATEWAY: Final = "vxlan_frame_dropped_gateway"
_STAYS: Final = "vxlan_frame_dropped_stays_here"
_UNREACHABLE: Final = "vxlan_frame_dropped_unreachable"
_BACKLOG_FULL: Final = "vxlan_frame_dropped_backlog_full"
_EVICTED: Final = "vxlan_mac_evicted"
_TRAINS_IN: Final = "vxlan_trains_received"
_TRAINS_OUT: Final = "vxlan_trains_sent"


class VxlanLink(Link):
    """The guests of all other hosts. The link owns its socket."""

    def __init__(
        self,
        sock: DatagramSocket,
        place: VxlanPlace,
        gateway: Gateway,
        pool: SlotPool,
        slots: list[memoryview],
        path_mtu_of: Callable[[Sequence[str]], int] = path_mtu.shortest,
    ) -> None:
        """path_mtu_of(addresses): how long a packet to any of these hosts may be."""
        super().__init__(pool, slots)
        self.vnet_len = _VNET_LEN
        self.features = _FEATURES
        self.guest_features = _FEATURES
        self._sock = sock
        self._gateway = gateway
        self._vni = place.vni
        self._host_of: dict[str, int] = {}
        self._ports: dict[str, int] = {}
        self._place = place
        self._path_mtu_of = path_mtu_of
        self._peers = Peers()
        self._trains = trains.Trains(place.vni, self._drop)
        self._scratch = memoryview(bytearray(LONGEST_TRAIN + 1))
        self._expects_train = False
        """Whether the last read was of a train. So the next one goes to the scratch memory."""
        self._output = VxlanOutput(sock, place.vni, self._drop, _random(_TRAIN_LEN))
        self.table = ForwardingTable(0)
        self.places = Places()
        self.set_members(())
        self.measure()

    def set_members(self, members: Sequence[End]) -> None:
        """The hosts are those of the configuration and these. At most MAX_REMOTES are heard."""
        fixed = {remote.address: remote.port for remote in self._place.remotes}
        wanted = {member.address: member.port for member in members} | fixed
        wanted.pop(self._place.local.address, None)
        wanted = dict(list(wanted.items())[-MAX_REMOTES:])
        for address in [each for each, port in self._ports.items() if wanted.get(each) != port]:
            self._remove_host(address)
        for address, port in wanted.items():
            if address not in self._host_of:
                self._add_host(address, port)

    def _add_host(self, address: str, port: int) -> None:
        used = set(self._host_of.values())
        number = next(each for each in range(len(used) + 1) if each not in used)
        self._host_of[address] = number
        self._ports[address] = port
        self.table.add_host(number)
        self._peers.add(number)
        self._output.add_host(number, (address, port))

    def _remove_host(self, address: str) -> None:
        number = self._host_of.pop(address)
        del self._ports[address]
        self.table.remove_host(number)
        self.places.forget_host(number)
        self._peers.remove(number)
        self._trains.forget_host(number)
        self._output.remove_host(number)

    def set_places(self, macs: Mapping[bytes, str], addrs: Mapping[bytes, str]) -> None:
        """The fleet says at which hosts these MAC and packed IP addresses are; "" for none of them."""
        host_of = self._host_of
        numbers = {mac: host_of.get(host, ALL_HOSTS) for mac, host in macs.items()}
        for mac, host in numbers.items():
            if host == ALL_HOSTS:
                self.table.forget(mac)
            elif self.table.host_of(mac) != ALL_HOSTS:
                self.table.learn(mac, host)
        self.places.set(numbers, {addr: host_of.get(host, ALL_HOSTS) for addr, host in addrs.items()})

    @property
    def is_outdated(self) -> bool:
        """Whether a datagram was too long for the path. So the MTU has to be measured again."""
        return self._output.is_too_long

    def measure(self) -> bool:
        """Set ``tunnel_mtu`` by the MTU of the paths to all hosts. Returns whether it is another one now."""
        mtu = inner_mtu(self._place, self._path_mtu_of(list(self._host_of)))
        changed = mtu != self.tunnel_mtu
        self.tunnel_mtu = mtu
        self._output.set_longest(mtu + _ETHERNET_LEN + vxlan.HEADER_LEN)
        return changed

    def age(self) -> None:
        """Forget MAC addresses that were silent for long. The owner calls this every TICK_SECONDS."""
        self.table.age()
        self._trains.age()

    @property
    def has_questions(self) -> bool:
        """Whether hosts are to be asked whether they understand trains."""
        return self._peers.in_use

    def ask(self) -> None:
        """Ask them. The owner calls this once a second while has_questions is set."""
        nonce = _random(_NONCE_LEN) | 1
        for host in self._peers.questions(nonce):
            self._say(host, vxlan_train.QUESTION, nonce)

    def _say(self, host: int, kind: int, nonce: int) -> None:
        """Send a question or an answer, unless others wait for the socket."""
        if not self.blocked:
            self._output.add_control(host, vxlan_train.build_control(kind, self._vni, nonce))

    @property
    def framing(self) -> Framing | None:
        """A length before each frame and its virtio-net header, since it may come in several buffers."""
        return offload.FRAMING

    @property
    def blocked(self) -> bool:
        """Whether datagrams wait for the socket."""
        return bool(self._output.backlog)

    @property
    def backlog_bytes(self) -> int:
        """Bytes of these datagrams."""
        return self._output.backlog_bytes

    def fileno(self) -> int:
        """The socket's descriptor, -1 when closed."""
        return self._sock.fileno()

    def _drop(self, reason: str, count: int = 1) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + count

    # --- from other hosts ------------------------------------------------------------------

    def read_burst(self) -> Burst | None:
        """Read datagrams until none is left, or the slot has no room for a long train. See Link."""
        self.starved = False
        if self.drained:
            # Since that read there was no event: nothing has come.
            self.drained = False
            return None
        cursor = self._cursor
        if cursor.slot == NO_SLOT or len(cursor.view) - cursor.end < _ROOM:
            cursor.begin = cursor.end
            if not cursor.fresh():
                self.starved = True
                return None
        view = cursor.view
        end = cursor.end
        limit = min(len(view) - _ROOM, end + self.read_limit)
        frames: list[tuple[int, int]] = []
        reads = 0
        try:
            while end <= limit and reads < MAX_TRAINS and len(frames) < self.frame_limit:
                reads += 1
                if self._trains.whole:
                    end = self._put_whole(view, end, frames)
                else:
                    end = self._read_train(view, end, frames)
        except BlockingIOError:
            self.drained = True
        except OSError:
            # An ICMP error about an earlier datagram. UDP has no connection that could end.
            self._drop(_UNREACHABLE)
        cursor.begin = cursor.end = end
        if not frames and self.drained:
            self.drained = False
            return None
        return cursor.slot, frames

    def _read_train(self, view: memoryview, end: int, frames: list[tuple[int, int]]) -> int:
        """Read datagrams that arrived together, and add their frames. They lie in view[end:].

        Returns where the next ones may lie. Raises what the socket raises.
        """
        at = end + _AHEAD
        room, scratch = view[at : len(view) - merge.RESERVE], self._scratch
        in_scratch = self._expects_train
        count, size, sender = self._sock.receive(scratch if in_scratch else room)
        host = self._host_of.get(sender, ALL_HOSTS)
        if host < 0 or not size:
            self._drop(_TRUNCATED if host >= 0 else _UNKNOWN_SOURCE, -(-count // size) if size else 1)
            return end
        begin = 0
        self._expects_train = (scratch if in_scratch else room)[0] == _MARK
        if self._expects_train:
            if not in_scratch:
                scratch[:count] = room[:count]
            while begin < count and scratch[begin] == _MARK:
                begin, total = self._take(begin, count, size, host, view, end)
                if total and (place := self._passed(view, end + _VNET_LEN, total, host)):
                    frames.append(place)
                    end = _aligned(end + total)
            if begin == count:
                return end
            at = end + _AHEAD
        if in_scratch or begin:
            view[at : at + count - begin] = scratch[begin:count]
        merged, drops = merge.merge(view, self._train(view, at, count - begin, size, host))
        for reason, dropped in drops.items():
            self._drop(reason, dropped)
        if merged:
            frames += merged
            off, length = merged[-1]
            end = _aligned(off + length)
        return end

    def _take(
        self, begin: int, count: int, size: int, host: int, view: memoryview, end: int
    ) -> tuple[int, int]:
        """Take datagrams with the mark at scratch[begin:count], of ``size`` bytes each.

        A whole train is put to view[end:]. Returns where the next datagram is, and the bytes of that train.
        """
        scratch = self._scratch
        stop = min(begin + size, count)
        if stop - begin == vxlan_train.CONTROL_LEN:
            self._on_control(scratch[begin:stop], host)
            return stop, 0
        stop, total = self._trains.add(scratch, begin, count, size, host)
        if total:
            trains.join(scratch, begin, size, total, view, end + _VNET_LEN)
        return stop, total

    def _put_whole(self, view: memoryview, end: int, frames: list[tuple[int, int]]) -> int:
        """Add the frame of a train that came in pieces, at view[end:]. Returns where the next may lie."""
        whole = self._trains.whole.popleft()
        whole.put(view, end + _VNET_LEN)
        place = self._passed(view, end + _VNET_LEN, whole.total, whole.host)
        if place is None:
            return end
        frames.append(place)
        return _aligned(end + whole.total)

    def _passed(self, view: memoryview, off: int, total: int, host: int) -> tuple[int, int] | None:
        """The place of the frame of a train of ``total`` bytes, if it may pass."""
        length = total - _VNET_LEN
        self._drop(_TRAINS_IN)
        reason = self._refusal_of_frame(view, off, off + length, host)
        if reason:
            self._drop(reason)
            return None
        return off, length

    def _on_control(self, datagram: memoryview, host: int) -> None:
        """A host asks, or has answered."""
        try:
            kind, nonce = vxlan_train.parse_control(datagram, self._vni)
        except WireError as error:
            self._drop(error.reason)
            return
        if kind == vxlan_train.QUESTION:
            self._say(host, vxlan_train.ANSWER, nonce)
        else:
            self._peers.on_answer(host, nonce)

    def _train(self, view: memoryview, at: int, count: int, size: int, host: int) -> list[tuple[int, int]]:
        """The frames in datagrams of VXLAN that may pass, and learn where their senders are."""
        end = at + count
        places: list[tuple[int, int]] = []
        begin = at
        whole = count // size
        if whole > 1 and not view[at + vxlan.HEADER_LEN] & _GROUP:
            alike = merge.count_alike(view, at, size, whole, _HEAD_LEN)
            reason = self._refusal(view, at, at + size, host)
            if reason:
                self._drop(reason, alike)
            else:
                length = size - vxlan.HEADER_LEN
                first = at + vxlan.HEADER_LEN
                places = [(first + number * size, length) for number in range(alike)]
            begin += alike * size
        for each in range(begin, end, size):
            stop = min(each + size, end)
            if view[each] == _MARK:
                self._on_stray(view, each, stop, host)
                continue
            reason = self._refusal(view, each, stop, host)
            if reason:
                self._drop(reason)
            else:
                places.append((each + vxlan.HEADER_LEN, stop - each - vxlan.HEADER_LEN))
        return places

    def _on_stray(self, view: memoryview, begin: int, stop: int, host: int) -> None:
        """A datagram with the mark came after others without it."""
        if stop - begin == vxlan_train.CONTROL_LEN:
            self._on_control(view[begin:stop], host)
        else:
            self._trains.add_stray(view, begin, stop, host)

    def _refusal(self, view: memoryview, begin: int, stop: int, host: int) -> str:
        """Why the datagram in view[begin:stop] may not pass, as the name of a counter; "" if it may.

        Learns where its sender is.
        """
        off = begin + vxlan.HEADER_LEN
        if stop - off < _ETHERNET_LEN:
            return _TRUNCATED
        flags, vni = vxlan.HEADER.unpack_from(view, begin)
        if not flags & vxlan.VALID:
            return _NO_VNI
        if vni >> vxlan.VNI_SHIFT != self._vni:
            return _WRONG_VNI
        return self._refusal_of_frame(view, off, stop, host)

    def _refusal_of_frame(self, view: memoryview, off: int, stop: int, host: int) -> str:
        """The same for the frame in view[off:stop] alone."""
        if self._gateway.keeps(view, off, stop):
            return _GATEWAY
        self._learn(view[off + _MAC_LEN : off + _MACS_LEN].tobytes(), host)
        return ""

    def _learn(self, mac: bytes, host: int) -> None:
        table = self.table
        table.learn(mac, host)
        if table.evicted:
            self._drop(_EVICTED, table.evicted)
            table.evicted = 0

    # --- to other hosts ----------------------------------------------------------------------

    def send(self, buffers: Sequence[Buffer]) -> bool:
        """Send frames with their virtio-net headers and framing. See Link.send."""
        packets = vnet.packets(buffers)
        if self._output.backlog_bytes >= MAX_BACKLOG:
            self._drop(_BACKLOG_FULL, len(packets))
            return False
        for parts in packets:
            self._send_frame(parts)
        self._output.send()
        return True

    def _send_frame(self, parts: Sequence[Buffer]) -> None:
        """Send one frame, perhaps together with later ones."""
        header = _LONG.unpack_from(parts[0])
        body = [parts[0][_VNET_LEN:], *parts[1:]] if len(parts[0]) > _VNET_LEN else [*parts[1:]]
        frame: Buffer = body[0] if len(body) == 1 else b"".join(body)
        if self._gateway.keeps(frame, 0, len(frame)):
            self._drop(_STAYS)
            return
        host = self._host_for(frame)
        flags, gso_type = header[0], header[1]
        if gso_type:
            if host >= 0 and self._peers.takes_trains(host):
                self._drop(_TRAINS_OUT)
                self._output.add_train(host, frame, bytes(parts[0][:_VNET_LEN]))
            else:
                self._output.add_super(host, frame, virtio_net.Header(*header))
            return
        if flags & virtio_net.NEEDS_CSUM:
            frame = completed(frame, virtio_net.Header(*header))
        self._output.add(host, frame)

    def _host_for(self, frame: Buffer) -> int:
        """The host to which a frame goes, or ALL_HOSTS."""
        if frame[0] & _GROUP:
            return self.places.host_of_question(frame)
        mac = bytes(frame[:_MAC_LEN])
        host = self.table.host_of(mac)
        return self.places.host_of(mac) if host == ALL_HOSTS else host

    def flush(self) -> None:
        """Send what waits, until the socket is full again."""
        self._output.flush()

    def close(self) -> None:
        """Give back the slot, discard what waits, close the socket."""
        self._cursor.release()
        self._output.clear()
        self._sock.close()


def _random(length: int) -> int:
    """A random number of that many bytes."""
    return int.from_bytes(os.urandom(length), "big")


def _aligned(end: int) -> int:
    """Where the next frames may lie if the last one ends here."""
    return (end + _ALIGN - 1) // _ALIGN * _ALIGN
