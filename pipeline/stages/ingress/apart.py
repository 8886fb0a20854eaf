"""Guests that have the same address do not meet, with ``guests: apart`` (pipeline.engines.apart).

From a guest: GRO has verified the checksums of runs, so the key of a run alone gets the inner address, and
its first frame the inner MAC. Demux reads nothing else of a run. Single frames are rewritten in their slot.
To a guest: the headers of runs are made for the own address, and single frames are rewritten in a copy.

A capture shows frames as they are on the wire: ingress reads it before this, and writes it after this.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.config.model import Config
from pipeline.counters import INDEX
from pipeline.engines.apart.rewrite import NO_FIELD, rewrite, rewrite_dhcp
from pipeline.engines.apart.table import Claims, LinkNames, Renamed
from pipeline.engines.apart.translation import Translation
from pipeline.engines.offload import stripped
from pipeline.engines.offload.burst import Item
from pipeline.ipc import healing_messages
from pipeline.records import guests
from pipeline.records.addresses import Addr
from pipeline.records.flows import Ends, FlowKey, flow_key
from pipeline.records.frames import Frame
from pipeline.records.udp import UdpRange
from pipeline.stages import guest_addresses
from pipeline.stages.worker import Worker
from pipeline.wire import arp, dhcp, ethernet, icmpv6, ip, ipv6, virtio_net
from pipeline.wire.errors import WireError
from pipeline.wire.offload import VNET_LEN

_INNER: Final = INDEX["link_addresses_inner"]
_MAX_KNOWN: Final = 1024
_SRC_MAC: Final = 6
_CSUM_START: Final = 6
"""Offset of csum_start in a virtio-net header."""
_ARP_TARGET: Final = ethernet.HEADER_LEN + 24
_ND_KIND: Final = ethernet.HEADER_LEN + ipv6.HEADER_LEN
_ND_TARGET: Final = _ND_KIND + icmpv6.HEADER_LEN


class _Link:
    """One link: what it has, and both directions."""

    def __init__(self, names: LinkNames, claims: Claims) -> None:
        self.names = names
        self.inward = Translation(names, claims)
        self.outward = Translation(names)
        self.keys: dict[FlowKey, FlowKey] = {}
        """The keys of flows with an inner address, by those with the own address."""
        self.ends: dict[FlowKey, Ends] = {}
        """The ends on the wire, by the key with the inner address."""


class Apart:
    """Translates what comes from links and what goes to them."""

    def __init__(self, worker: Worker, config: Config) -> None:
        self._worker = worker
        self._counts = worker.counts
        self._slots = worker.ports.arena.slots
        self._demux = worker.ports.rings_out["demux"]
        self._ipv6 = config.network.ipv6_first != 0
        self._inner = guest_addresses.inner_of(config)
        self._claims = Claims(
            guest_addresses.of(config),
            self._inner,
            config.network.gateway_mac,
            config.limits.max_neighbors_per_guest,
        )
        self._links: dict[int, _Link] = {}

    def reload(self, config: Config) -> None:
        """Follow the limit on addresses."""
        self._claims.set_bound(config.limits.max_neighbors_per_guest)

    # --- links --------------------------------------------------------------------------

    def link_up(self, number: int, guest: int, places: Sequence[bytes] = ()) -> None:
        """A link of this guest is attached.

        places: what a predecessor has reported of it (healing_messages.InnerEvent).
        """
        self._claims.link_up(number, guest, places)
        names = self._claims.names(number)
        if names is not None:
            self._links[number] = _Link(names, self._claims)
        self._report(self._claims.take_renamed(), new=False)

    def link_down(self, number: int) -> None:
        """A link is gone."""
        self._links.pop(number, None)
        self._claims.link_down(number)
        self._count()

    def places(self, number: int) -> list[bytes]:
        """The own addresses and MACs of a link that have inner ones, in the order of their places."""
        link = self._links.get(number)
        return [] if link is None else [*link.names.places]

    def own_texts(self, guest_of: Mapping[int, int]) -> dict[str, dict[str, str]]:
        """By guest, what its inner addresses and MACs stand for. guest_of: the guest of each link."""
        found: dict[str, dict[str, str]] = {}
        for each in self._claims.all_renamed():
            of_guest = found.setdefault(str(guest_of.get(each.link, each.link)), {})
            of_guest[_text(each.inner)] = _text(each.own)
        return found

    def introduce(self) -> None:
        """Demux has died: tell its successor of all inner addresses."""
        self._report(self._claims.all_renamed(), new=False)

    def has(self, addr: Addr, number: int) -> None:
        """Demux says that the link has this address."""
        self._claims.has(addr, number)

    def has_not(self, addr: Addr) -> None:
        """Demux says that no link has this address."""
        self._claims.has_not(addr)

    # --- from guests ----------------------------------------------------------------------

    def receive(self, number: int, items: list[Item], drops: dict[str, int]) -> list[Item]:
        """The records that GRO made of a link's frames, with inner addresses. Adds to ``drops``."""
        link = self._links.get(number)
        if link is None:
            return items
        refused = False
        for index, item in enumerate(items):
            try:
                if isinstance(item, Frame):
                    self._on_frame(link, item)
                else:
                    self._on_run(link, item.off - item.header_len, item)
            except WireError as error:
                refused = True
                drops[error.reason] = drops.get(error.reason, 0) + 1
                self._worker.free(item.slot)
                items[index] = _NOTHING
        if renamed := self._claims.take_renamed():
            self._report(renamed, new=True)
        return [item for item in items if item is not _NOTHING] if refused else items

    def _on_run(self, link: _Link, begin: int, run: Item) -> None:
        """A run of segments or datagrams, whose first frame is at ``begin``."""
        assert not isinstance(run, Frame)
        view = self._slots[run.slot]
        own = bytes(view[begin + _SRC_MAC : begin + _SRC_MAC + ethernet.MAC_LEN])
        mac = link.inward.source_mac(own)
        if mac != own:
            view[begin + _SRC_MAC : begin + _SRC_MAC + ethernet.MAC_LEN] = mac
        if isinstance(run, UdpRange) and Ends.of(run.key).remote_port == dhcp.SERVER_PORT:
            for start, end in run.piece_bounds():
                rewrite_dhcp(view, start, end, link.inward)
        known = link.keys.get(run.key)
        if known is not None:
            run.key = known
            return
        ends = Ends.of(run.key)
        addr = link.inward.source(ends.guest_addr)
        if addr != ends.guest_addr:
            if len(link.keys) >= _MAX_KNOWN:
                link.keys.clear()
            key = flow_key(addr, ends.guest_port, ends.remote_addr, ends.remote_port)
            link.keys[run.key] = key
            run.key = key

    def _on_frame(self, link: _Link, frame: Frame) -> None:
        """A single frame. A checksum that lacks its payload must be known for what it is."""
        view = self._slots[frame.slot]
        partial = NO_FIELD
        if not frame.vnet:
            stripped.complete(view, frame.off, frame.length)
        elif view[frame.off - VNET_LEN] & virtio_net.NEEDS_CSUM:
            at = frame.off - VNET_LEN + _CSUM_START
            start, field = view[at] | view[at + 1] << 8, view[at + 2] | view[at + 3] << 8
            partial = frame.off + start + field
        end = frame.off + frame.length
        rewrite(view, frame.off, end, link.inward, partial, ipv6_on=self._ipv6)

    # --- to guests --------------------------------------------------------------------------

    def own_mac(self, number: int, mac: bytes) -> bytes:
        """The MAC on the wire of the guest that demux knows by this one."""
        link = self._links.get(number)
        return mac if link is None else link.names.own_macs.get(mac, mac)

    def own_ends(self, number: int, key: FlowKey) -> Ends:
        """The ends on the wire of a flow with the guest on this link."""
        ends = Ends.of(key)
        link = self._links.get(number)
        if link is None or ends.guest_addr not in link.names.own_addrs:
            return ends
        known = link.ends.get(key)
        if known is None:
            if len(link.ends) >= _MAX_KNOWN:
                link.ends.clear()
            own = link.names.own_addrs[ends.guest_addr]
            known = Ends(own, ends.guest_port, ends.remote_addr, ends.remote_port)
            link.ends[key] = known
        return known

    def link_asked(self, frame: memoryview | bytes) -> int:
        """The link whose inner address a question to all links is for; 0 for another frame.

        No other guest may see the inner address.
        """
        kind = int.from_bytes(frame[12:14], "big")
        if kind == ethernet.TYPE_ARP and len(frame) >= ethernet.HEADER_LEN + arp.LEN:
            bits = int.from_bytes(frame[_ARP_TARGET : _ARP_TARGET + 4], "big")
            return self._inner.link_of(ip.from_ipv4(bits))
        if kind != ethernet.TYPE_IPV6 or len(frame) < _ND_TARGET + 16:
            return 0
        if frame[_ND_KIND] != icmpv6.NEIGHBOR_SOLICITATION:
            return 0
        return self._inner.link_of(int.from_bytes(frame[_ND_TARGET : _ND_TARGET + 16], "big"))

    def frame_for(self, number: int, frame: memoryview | bytes) -> memoryview | bytes:
        """A frame of demux as the link gets it."""
        link = self._links.get(number)
        if link is None or not link.names.places:
            return frame
        made = bytearray(frame)
        rewrite(made, 0, len(made), link.outward, ipv6_on=self._ipv6)
        return bytes(made)

    # --- reports ----------------------------------------------------------------------------

    def _report(self, renamed: Sequence[Renamed], *, new: bool) -> None:
        """Tell demux, and what is new also the supervisor and the log."""
        for each in renamed:
            record = guests.Renamed(
                len(each.own) == ethernet.MAC_LEN, each.link, _number(each.inner), _number(each.own)
            )
            self._demux.push(record.pack())
            if new:
                self._worker.events.report(
                    "guest-renamed", link=each.link, address=_text(each.own), inner=_text(each.inner)
                )
        if new:
            for number in sorted({each.link for each in renamed}):
                event = healing_messages.InnerEvent(number, self.places(number))
                self._worker.send_event(event.encode())
        if renamed:
            self._count()

    def _count(self) -> None:
        self._counts[_INNER] = sum(len(link.names.places) for link in self._links.values())


def _number(name: bytes) -> int:
    return int.from_bytes(name, "big") if len(name) == ethernet.MAC_LEN else ip.of_packed(name)


def _text(name: bytes) -> str:
    return ethernet.mac_text(name) if len(name) == ethernet.MAC_LEN else ip.text(ip.of_packed(name))


_NOTHING: Final = Frame(0, 0, 0, 0, False)
"""Stands for a record that was dropped."""
