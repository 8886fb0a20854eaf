"""The ingress worker: it reads and writes the guests' links. It does the work of a network card.

From a guest: one system call reads into a slot all that a link has. The bytes are cut into frames, and GRO
merges TCP segments into runs (receiver.py). To a guest: TCP ranges get their headers and are cut into
segments (GSO); demux's frames go as they are (transmitter.py).
"""

import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Final

from pipeline.config.choices import APART
from pipeline.config.model import Config
from pipeline.ipc import fleet_messages, healing_messages, message_table, messages
from pipeline.ipc.channel import close_all
from pipeline.links.adopted import carried, carried_form, form_of
from pipeline.links.base import Link, LinkClosed
from pipeline.links.listener import Arrival, GatewayAddresses, LinkResources
from pipeline.links.offload import OffloadLink
from pipeline.links.places import Places
from pipeline.links.stream import StreamLink
from pipeline.stages import ipv6_addresses
from pipeline.stages.holdings import Holdings, count
from pipeline.stages.ingress.acceptors import Acceptors
from pipeline.stages.ingress.apart import Apart
from pipeline.stages.ingress.fairness import Fairness
from pipeline.stages.ingress.live import Captures
from pipeline.stages.ingress.offload import VnetOffload
from pipeline.stages.ingress.ports import Port, Ports
from pipeline.stages.ingress.receiver import Receiver
from pipeline.stages.ingress.steering import Steering
from pipeline.stages.ingress.transmitter import Transmitter
from pipeline.stages.losses import Losses
from pipeline.stages.worker import Message, Worker
from pipeline.system import peer
from pipeline.topology import DEMUX, EGRESS
from pipeline.wire import framing, ip, offload

TIMERS_EVERY_S: Final = 0.05
"""Seconds after which a worker that never sleeps looks at timers of listeners and at rows of traffic."""


class IngressStage:
    """All guest links of the daemon."""

    def __init__(self, worker: Worker, config: Config) -> None:
        ipv6 = config.network.ipv6_first != 0
        """Whether IPv6 packets for the gateway become ranges, as those of IPv4 do."""
        self._worker = worker
        self._timers_at = 0.0
        self._handed_over = False
        """Whether another supervisor's ingress may carry the links on, unless this one breathes again."""
        self.apart = Apart(worker, config) if config.access.guests == APART else None
        """None unless several guests may have the same address."""
        self.steering = Steering(worker, config, self.apart)
        self._places = Places(worker.ports.places)
        self.fairness = Fairness(worker.pool, worker.counts, config.limits.max_bad_frames_per_second)
        self.ports = Ports(worker, self.fairness, self._on_detached)
        self.ports.rates.set_rate(config.limits.max_bytes_from_guest_per_second)
        self._vnet = VnetOffload(worker, config.network.mtu, ipv6=ipv6)
        self.captures = Captures(worker, config.network.mtu, self.ports.by_number, self.steering, ipv6=ipv6)
        self._receiver = Receiver(
            worker,
            self.ports,
            self.steering,
            self.fairness,
            self._vnet,
            self.captures,
            self._report_shared,
            self.apart,
            ipv6=ipv6,
        )
        self._transmitter = Transmitter(
            worker, config, self.ports, self.steering, self._vnet, self.captures, self.apart
        )
        resources = LinkResources(worker.pool, worker.ports.arena.slots, config.network.mtu)
        self._acceptors = Acceptors(
            worker,
            resources,
            self._attach,
            self.ports.hang_up,
            self.ports.wake,
            self._mtu_changed,
            _gateway_of(config),
        )

    def step(self, now: float) -> int:
        """Links -> rings, then rings -> links. Returns the number of bursts and records."""
        if now >= self._timers_at:
            self._timers_at = now + TIMERS_EVERY_S
            self._handed_over = False
            self.ports.traffic.write(now)
            self.ports.await_rooms()
            if self._acceptors.deadline() <= now:
                self._acceptors.on_timer(now)
        work = self._receiver.read(now) + self._transmitter.send()
        if not work:
            self._vnet.release_idle()
            for port in self.ports.by_number.values():
                port.link.release_idle()
        return work

    def deadline(self) -> float:
        """When a listener's timer is due or a waiting guest may be read; 0 if a link has more to read."""
        self._timers_at = 0.0
        if self._receiver.more:
            return 0.0
        return min(self._acceptors.deadline(), self._receiver.deadline())

    def on_control(self, message: Message, fds: list[int]) -> Message:
        """Requests of the supervisor.

        ``attach``: a stream that /connect has taken over, with the bytes after the request's head.
        ``adopt``: a link of a predecessor that has died.
        ``know``: up to which number a former daemon has numbered links.
        ``open``: sockets on which guests arrive, see pipeline.stages.ingress.acceptors.
        ``guests``: the guests with links.
        ``capture``: a file with the head of a capture. Every frame is written to it from now on.
        ``connected``: the supervisor has connected a socket for a listener.
        ``live_capture``: the socket of a client that wants a capture with a filter.
        ``members``, ``places``: the other hosts of a fleet, and where stations are.
        """
        match message_table.request_of(message):
            case messages.Attach() as ask if fds:
                self._connect(socket.socket(fileno=fds[0]), ask.name or "", ask.head, ask.offload or "")
                return {}
            case healing_messages.Adopt() as ask if fds:
                return self._adopt(ask, fds)
            case healing_messages.Know(last_link=int() as last):
                self.ports.number_from(last)
                return {}
            case messages.Open() as ask if fds:
                return self._acceptors.open(ask, fds)
            case messages.Capture() if fds:
                self.captures.file.start(fds[0])
                return {}
            case messages.Guests():
                sums = {"links": self.ports.guests.links(), **self.ports.bytes_of_guests()}
                found = messages.GuestsAnswer.of(sums, self.ports.guests.peers())
                own = self.apart.own_texts(self.links_up()) if self.apart is not None else None
                return replace(found, own=own).encode()
            case messages.Connected() as answer:
                self._acceptors.on_connected(answer)
                return {}
            case fleet_messages.Members() as ask:
                return self._acceptors.set_members(ask)
            case fleet_messages.Places() as ask:
                return self._acceptors.set_places(ask)
            case messages.LiveCapture() as ask if fds:
                close_all(fds[1:])
                return self.captures.live.start(ask, fds[0]).encode()
        close_all(fds)
        return {"error": f"ingress knows no request {message.get('op')!r}"}

    def reload(self, config: Config) -> None:
        """See Stage.reload: rates of bad frames and of bytes, and which segments pass demux."""
        self.steering.reload(config)
        if self.apart is not None:
            self.apart.reload(config)
        self.fairness.set_rate(config.limits.max_bad_frames_per_second)
        self.ports.rates.set_rate(config.limits.max_bytes_from_guest_per_second)

    def on_released(self, source: str, tags: list[int]) -> None:
        """Nothing to do: ingress puts no tags on its slots."""

    def slots_held(self) -> Holdings:
        """See Stage.slots_held."""
        found: Holdings = {}
        count(found, self._vnet.slots_held())
        count(found, self._transmitter.slots_held())
        for port in self.ports.by_number.values():
            count(found, port.link.slots_held())
        return found

    def on_workers_lost(self, losses: Losses, now: float) -> None:
        """See Stage.on_workers_lost: stop steering to dead workers, and tell successors of all links."""
        steering = self.steering
        if losses.has(DEMUX):
            steering.on_demux_lost()
        for egress in losses.shards(EGRESS):
            steering.on_egress_lost(egress)
        shared, drops = self.ports.shares.several, self.captures.live.dropping
        steering.introduce(losses, self.links_up(), shared=shared, drops=drops)
        if losses.has(DEMUX) and self.apart is not None:
            self.apart.introduce()
        if losses.has(DEMUX):
            for port in self.ports.by_number.values():
                if port.link.tunnel_mtu:
                    steering.report_tunnel(port.number, port.link.tunnel_mtu)
        self._receiver.more = True

    def links_up(self) -> dict[int, int]:
        """The links that are up, each with the number of its guest."""
        return {port.number: port.guest_number for port in self.ports.by_number.values()}

    def hand_over(self) -> None:
        """Report how each link is now: another supervisor's ingress will carry it on (Worker, HandOver)."""
        self._handed_over = True
        self._worker.send_event(healing_messages.KnowledgeEvent(last_link=self.ports.last_number).encode())
        self._timers_at = 0.0
        for port in self.ports.by_number.values():
            places = self.apart.places(port.number) if self.apart is not None else None
            if (found := carried(port.number, port.guest_number, port.arrival, places)) is not None:
                event, fds = found
                # Without a descriptor for the message the guest has to connect again.
                with suppress(OSError):
                    self._worker.send_event(event.encode(), fds)

    def held(self) -> dict[str, int]:
        """What ingress holds for guests; all zero when no guest has a link and all flows are over."""
        return {
            "links": len(self.ports.by_number),
            "links_readable": len(self.ports.readable),
            "links_paused": self.fairness.paused(),
            "neighbors": len(self.steering.neighbors),
            "udp_routes": len(self.steering.routes),
        }

    def close(self) -> None:
        """Close all links and listeners."""
        self._acceptors.close()
        self.ports.close()
        self.captures.file.close()
        self.captures.live.close()
        self._vnet.close()

    # --- guests -----------------------------------------------------------------------

    def _connect(self, sock: socket.socket, name: str, head: bytes, versions: str) -> None:
        """Attach a guest of /connect. versions: those of the offload extension in the request's header."""
        pool, slots = self._worker.pool, self._worker.ports.arena.slots
        offered = OffloadLink(sock, pool, slots, head) if offload.choose(versions) else None
        link = offered or StreamLink(sock, framing.LE16, pool, slots, head)
        attached = self._attach(Arrival(link, "connect", name, peer.identity(sock)))
        if attached and offered is not None:
            try:
                offered.offer()
            except LinkClosed as error:
                self.ports.hang_up(offered, error)

    def _attach(self, arrival: Arrival) -> bool:
        """Attach a link. False, and the link is closed, if its guest may not have another one now."""
        port = self.ports.attach(arrival)
        if port is None:
            return False
        self._enter(port, (), keep_place=True)
        self._worker.events.report(
            "guest-connected",
            guest=port.guest_number,
            link=port.number,
            protocol=arrival.protocol,
            peer=arrival.peer,
            **arrival.opened_by(),
        )
        return True

    def _adopt(self, ask: healing_messages.Adopt, fds: list[int]) -> Message:
        """Carry on a link of a predecessor. If that has died, the other workers know the link."""
        try:
            arrival = self._acceptors.adopt(ask, fds, self._places.take(ask.number))
        except (OSError, ValueError) as error:
            self._places.free(ask.number)
            self.steering.link_down(ask.number, ask.guest)
            return {"error": str(error)}
        self._enter(self.ports.adopt(arrival, ask.number, ask.guest), ask.places or (), keep_place=False)
        return {}

    def _enter(self, port: Port, names: Sequence[bytes], *, keep_place: bool) -> None:
        """A link is attached. names: see Apart.link_up. keep_place: it does not write down its place yet."""
        self.steering.link_up(port.number, port.guest_number)
        if self.apart is not None:
            self.apart.link_up(port.number, port.guest_number, names)
            # Demux may have reported its addresses before.
            self.steering.learn_again(port.number)
        if port.link.tunnel_mtu:
            self.steering.report_tunnel(port.number, port.link.tunnel_mtu)
        self.captures.live.link_up(port)
        if keep_place:
            self._report_up(port, form_of(port.arrival))

    def _report_up(self, port: Port, form: str) -> None:
        """Tell the supervisor of a link. form: in which a successor can carry it on; "" if it cannot."""
        link, arrival = port.link, port.arrival
        if form and isinstance(link, StreamLink):
            link.keep_place(self._places.take(port.number))
        up = healing_messages.LinkUpEvent(
            port.number,
            port.guest_number,
            arrival.protocol,
            arrival.peer,
            arrival.identity,
            form,
            link.guest_features if link.vnet_len else None,
        )
        try:
            self._worker.send_event(up.encode(), [link.fileno()] if form else [])
        except OSError:
            # Without a descriptor for the message, the link just cannot outlive this worker.
            self._worker.send_event(replace(up, form="").encode())

    def _mtu_changed(self, link: Link) -> None:
        """A link to other hosts can carry longer packets than before, or no such long ones any more."""
        for port in self.ports.by_number.values():
            if port.link is link:
                self.steering.report_tunnel(port.number, link.tunnel_mtu)
                self._worker.log.info("tunnel mtu", link=port.number, mtu=link.tunnel_mtu)

    def _on_detached(self, port: Port, error: LinkClosed) -> None:
        """A link has ended and is closed."""
        if self._handed_over and carried_form(port.arrival):
            # Its guest is not gone.
            return
        self._places.free(port.number)
        self._worker.send_event(healing_messages.LinkDownEvent(port.number).encode())
        self.steering.link_down(port.number, port.guest_number)
        if self.apart is not None:
            self.apart.link_down(port.number)
        self.captures.live.link_down(port.number)
        shares = self.ports.shares
        if not shares.linked and shares.meet((), monotonic()):
            self._report_shared()
        self._acceptors.on_left(port.number, port.guest_number, port.arrival, error)

    def _report_shared(self) -> None:
        """With a second active guest, the workers begin to measure what each costs. With one they stop."""
        self.steering.report_shared(self.ports.shares.several)
        # A guest that had to wait for others is alone now, and no event says so.
        self._receiver.more = True


def _gateway_of(config: Config) -> GatewayAddresses:
    """What the gateway has, so that a link to other hosts keeps it on this one."""
    network = config.network
    v6 = ipv6_addresses.of(config)
    own = {network.gateway_ip, *network.reserved, *(v6.own if v6 is not None else ())}
    return GatewayAddresses(network.gateway_mac, frozenset(own), ip.of(network.subnet.broadcast_address))
