"""What a fleet's agent tells the workers of this host.

=========  ============================================================================
ingress    the other hosts, and where their stations are: the link to other hosts has both
demux      stations that have moved to another host, the address of this host as a station, and the MAC
           addresses of other hosts as stations
tcp        the same: their connections through this host are reset
resolver   answers to clients of DHCP, and host names of guests of other hosts
=========  ============================================================================

A worker that has just died gets nothing. Its successor asks for everything (Agent.introduce).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from pipeline.control.workers import Channels, RequestError
from pipeline.engines.fleet.grants import Answer
from pipeline.engines.fleet.members import Members
from pipeline.engines.fleet.places import Changes
from pipeline.ipc import fleet_messages, messages
from pipeline.links.vxlan_url import MAX_REMOTES
from pipeline.topology import DEMUX, INGRESS, RESOLVER
from pipeline.wire import ip

PLACES_A_MESSAGE: Final = 4096


class Hands:
    """The ways to the workers."""

    def __init__(self, channels: Channels, tcp: Sequence[str]) -> None:
        """tcp: names of the tcp workers."""
        self._channels = channels
        self._tcp = tcp

    def _send(self, worker: str, message: messages.Request) -> None:
        with suppress(RequestError):
            self._channels.channels[worker].send(message)

    def members(self, members: Members) -> None:
        """Tell ingress who the other hosts are."""
        hosts = [f"{host.address} {host.port}" for host in members.linked(MAX_REMOTES)]
        self._send(INGRESS, fleet_messages.Members(hosts))

    def places(self, changes: Changes, members: Members) -> None:
        """Tell ingress where stations are."""
        hosts = {*changes.macs.values(), *changes.addrs.values()}
        addresses = {name: members.address_of(name) for name in hosts}
        macs = {mac: addresses[host] for mac, host in changes.macs.items()}
        addrs = {addr: addresses[host] for addr, host in changes.addrs.items()}
        for part in _parts(macs):
            self._send(INGRESS, fleet_messages.Places(part, {}))
        for part in _parts(addrs):
            self._send(INGRESS, fleet_messages.Places({}, part))

    def away(self, stations: Mapping[bytes, tuple[bytes, ...]]) -> None:
        """These stations have moved to another host, with these addresses."""
        addrs = [addr for of_station in stations.values() for addr in of_station]
        message = fleet_messages.StationsAway(list(stations), addrs)
        for worker in (DEMUX, *self._tcp):
            self._send(worker, message)

    def granted(self, answer: Answer) -> None:
        """Tell the DHCP server what a client gets."""
        grant = answer.grant
        addr = ip.packed(grant.addr) if grant is not None else b""
        seconds = float(grant.seconds) if grant is not None else 0.0
        self._send(RESOLVER, fleet_messages.LeaseGranted(answer.mac, addr, seconds))

    def names(self, names: Mapping[str, bytes], *, complete: bool) -> None:
        """Tell the name server names of other hosts' guests. complete: all of them; else what changed."""
        self._send(RESOLVER, fleet_messages.NamesAway(dict(names), complete))

    def station(self, addr: bytes) -> None:
        """Tell demux the packed address that this host has among guests; empty for none."""
        self._send(DEMUX, fleet_messages.Station(addr))

    def far_stations(self, macs: Collection[bytes]) -> None:
        """Tell demux the MAC addresses of all other hosts' stations."""
        self._send(DEMUX, fleet_messages.FarStations(sorted(macs)))

    def ask_for_stations(self) -> None:
        """Have demux report all guests of this host."""
        self._send(DEMUX, fleet_messages.Stations())


def _parts(rows: Mapping[bytes, str]) -> Iterator[dict[bytes, str]]:
    items = list(rows.items())
    for begin in range(0, len(items), PLACES_A_MESSAGE):
        yield dict(items[begin : begin + PLACES_A_MESSAGE])
