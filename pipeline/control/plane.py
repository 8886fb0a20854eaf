"""The control plane: channels to the workers, front doors of the API, forwards and notifications."""

import asyncio
import pickle
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pipeline import logs
from pipeline.config.choices import UDP
from pipeline.config.model import Config
from pipeline.control import datagram_peers
from pipeline.control.approvals import Approvals
from pipeline.control.fleet import FleetSide
from pipeline.control.flows.flow_log import FlowLog
from pipeline.control.flows.live import LiveFlows
from pipeline.control.flows.question_log import QuestionLog
from pipeline.control.flows.reports import FlowEvents
from pipeline.control.forward_shares import ForwardShares
from pipeline.control.forward_sockets import ForwardSockets
from pipeline.control.forward_texts import ForwardError, advice
from pipeline.control.forwarder import Forwarder
from pipeline.control.guests import GuestSums
from pipeline.control.http.access import Access
from pipeline.control.http.fronts import Fronts
from pipeline.control.hub import Hub
from pipeline.control.lease_writer import LeaseWriter
from pipeline.control.limit_reports import LimitReports
from pipeline.control.memory import Memory
from pipeline.control.metrics.meter import Meter
from pipeline.control.notify import CONNECTION_CLOSED, CONNECTION_ESTABLISHED, WORKER_RESTARTED, Notifier
from pipeline.control.quotas.keeper import QuotaKeeper
from pipeline.control.reload import LiveSettings
from pipeline.control.repeated import Repeated
from pipeline.control.ssh.forwards import SocketForwards
from pipeline.control.succession import Succession
from pipeline.control.workers import Channel, Channels, Message, RefusedError, RequestError
from pipeline.events.flows import COMPLETED
from pipeline.events.kind import DEBUG
from pipeline.ipc import fleet_messages, healing_messages, message_table, messages
from pipeline.ipc.channel import HasFileno, close_all
from pipeline.ipc.fabric import Fabric
from pipeline.links import protocols
from pipeline.links.places import Places
from pipeline.topology import DEMUX, EGRESS, INGRESS, LISTEN, RESOLVER, TCP
from pipeline.wire import ip

if TYPE_CHECKING:
    from pipeline.control.http.api import Api

INGRESS_DIED: Final = "the worker of the link has died, and its successor cannot carry the link on"
"""Why a link has ended."""
WITHDRAW_TIMEOUT: Final = 0.2
"""Seconds that demux has to withdraw the default route at the end."""


class ControlPlane:
    """The part of the supervisor that talks to workers, to API clients and to the notification socket."""

    def __init__(
        self,
        config: Config,
        fabric: Fabric,
        controls: Mapping[str, socket.socket],
        on_guest: Callable[[messages.GuestEvent], None],
        meter: Meter,
        token: str,
        flow_log: FlowLog | None = None,
    ) -> None:
        """controls: the supervisor's ends of the control sockets by worker. Needs a running event loop.

        on_guest: called with ingress' events about the listeners of accept_guests(). meter: gets a way to the
        workers. token: what endpoints on the host ask for, "" for nothing. flow_log: stays the caller's.
        """
        self._config = config
        self._on_guest = on_guest
        self._log = logs.logger("supervisor")
        self._fabric = fabric
        self._memory = self.memory = Memory()
        self._moved_log = -1
        """The descriptor of the log, if it was opened again."""
        self._places = Places(fabric.places())
        self._channels = Channels({name: self._channel(name, sock) for name, sock in controls.items()})
        self.hub = Hub(self._channels.send_all, self._log)
        request = self._channels.request
        self._sockets = SocketForwards(request, self._log)
        self._meter = self.meter = meter
        self._shares = ForwardShares(config.limits, meter.count)
        udp = UDP not in config.access.disable
        self._leases = LeaseWriter(config.network.state_file, self._log)
        self._forward_sockets = ForwardSockets(request, self._log)
        self._forwarder = Forwarder(self._forward_sockets, self._sockets, self.hub, self._shares, udp=udp)
        quotas = lambda: self.config.access.egress_policy.quotas  # noqa: E731
        parts = (self.hub, self._log, config.access.quota_file)
        self.quotas = QuotaKeeper(request, list(fabric.layout.names), quotas, *parts)
        """What guests have used."""
        self._live = LiveSettings(
            config, self._channels, self._forwarder, self._sockets, self._log, self.quotas.wake
        )
        sockets = (self._forward_sockets, self._sockets)
        self.succession = Succession(
            self._channels, self._memory, self._forwarder, sockets, self._live, self._leases, self._log
        )
        """What a successor of this program gets, or what this one gets from a predecessor."""
        egress = fabric.layout.shards(EGRESS)
        self._approvals = Approvals(request, egress, self._live, self.hub, self._log, self._memory.is_up)
        self.succession.lasting = self._approvals.lasting
        self.succession.used = self.quotas.saved
        self._not_handed_over = Repeated(self._log, "a guest's DNS connection cannot be handed over")
        meter.connect(request)
        self._limits = LimitReports(meter.counters, self.hub)
        self._notifier = Notifier(config.links.notification, self._log, meter.count)
        self._access = Access(self._log, token=token, guests=config.access.guest_api, count=meter.count)
        make_api = partial(self._make_api, token=bool(token))
        self.fronts = Fronts(request, make_api, self._access, self._log, meter.count)
        """The endpoints of the API."""
        workers = [name for name in fabric.layout.names if name != LISTEN]
        own = {"forwards": self._forwarder.sums, "api_connections": self.fronts.guest_connections}
        self._sums = GuestSums(request, workers, own)
        self._flow_events = FlowEvents(request, self.hub, self._log)
        self._flow_events.log_each(on=self._log.is_enabled_for(DEBUG))
        if flow_log is not None:
            # Flows that open are needed too: when a flow ends its guest may be gone, with its MAC address.
            self.hub.subscribe(COMPLETED, flow_log.write)
            meter.include("flow_log_lines_dropped", lambda: flow_log.lost)
        self.restart: Callable[[], Awaitable[int]] | None = None
        """Replaces the program for a client of the API, see http/restart.py."""
        self._questions = QuestionLog(self.hub, flow_log)
        self._questions.follow(config.access.egress_policy)
        self._flows = LiveFlows(request, fabric.layout.shards(TCP), fabric.layout.shards(EGRESS))
        self._fleet: FleetSide | None = None

    def join_fleet(self, fleet: FleetSide) -> None:
        """Other hosts have guests in this network, and this object knows them."""
        self._fleet = fleet

    @property
    def live(self) -> LiveSettings:
        """The settings that change while the program runs."""
        return self._live

    def shards(self, stage: str) -> list[str]:
        """The names of the workers of a stage that may have several."""
        return list(self._fabric.layout.shards(stage))

    def _make_api(self, *, token: bool) -> "Api":
        from pipeline.control.http import openapi  # noqa: PLC0415  see servers.py
        from pipeline.control.http.api import Api  # noqa: PLC0415
        from pipeline.control.http.approvals import ApprovalPaths  # noqa: PLC0415
        from pipeline.control.http.explainer import Explainer  # noqa: PLC0415
        from pipeline.control.http.observation import Observation  # noqa: PLC0415
        from pipeline.control.http.policy import PolicyPaths  # noqa: PLC0415
        from pipeline.control.http.quotas import QuotaPaths  # noqa: PLC0415
        from pipeline.control.http.restart import RestartPath  # noqa: PLC0415

        explainer = Explainer(self._channels.request, self._sums)
        return Api(
            self._forwarder,
            self._request_of_api,
            self._meter,
            Observation(self.hub, self._flows, self._sums),
            self._log,
            access=self._access,
            description=openapi.document(self._meter.build.version, token=token),
            policy=(
                PolicyPaths(self._live, explainer, self.hub),
                ApprovalPaths(self._approvals),
                QuotaPaths(self.quotas, self.hub),
                RestartPath(lambda: self.restart),
            ),
        )

    async def _request_of_api(
        self, worker: str, op: messages.Request, fds: Sequence[int | HasFileno] = ()
    ) -> Message:
        answer = await self._channels.request(worker, op, fds)
        if isinstance(op, messages.DnsAdd):
            self._memory.zones.append(op)
        return answer

    def _channel(self, name: str, sock: socket.socket) -> Channel:
        notify = self._fabric.bell(name).notify_control
        return Channel(name, sock, self._on_event, self._log, notify=notify)

    async def start(self) -> None:
        """Start to notify, and open the configured forwards. Raises ForwardError, which names the forward."""
        self._notifier.start()
        self._limits.start()
        await self.quotas.start()
        self.fronts.open_to_guests()
        for forward in self._config.access.forwards:
            if self._forwarder.is_open(forward):
                continue
            try:
                await self._forwarder.expose_configured(forward)
            except ForwardError as error:
                error.advice = advice(forward, str(error), ip.text(self._config.network.device_ip))
                raise

    @property
    def forwarder(self) -> Forwarder:
        """The forwards, for a program with a way of its own to open them."""
        return self._forwarder

    async def accept_guests(
        self, ask: messages.Open, fds: Sequence[socket.socket | int], url: str = ""
    ) -> None:
        """Have ingress accept guests on bound sockets. The caller keeps its own. Raises RequestError.

        url: where they arrive, for a successor of this program.
        """
        self._memory.opens(ask, fds, url)
        await self._channels.request(INGRESS, ask, fds)

    async def forward_sockets(self) -> None:
        """Open the configured forwards over ssh. Raises SocketError, SshError."""
        for forward in self._config.access.socket_forwards:
            await self._live.open_socket(forward)

    async def reload(self, config: Config) -> None:
        """Give all workers and the API these settings. Raises ReloadError if they are refused."""
        await self._live.change(config, self._access, self._shares)
        self._flow_events.log_each(on=config.logging.log_level == "debug")
        self._questions.follow(config.access.egress_policy)

    def accept(self, *, on: bool) -> None:
        """Accept connections of API clients, or let them wait. Not on: a fleet is told nothing either."""
        sides = (self.fronts, self._fleet) if self._fleet is not None else (self.fronts,)
        for side in sides:
            (side.go_on if on else side.pause)()

    async def capture(self, fd: int) -> None:
        """Have all frames written to a capture file, whose descriptor stays the caller's."""
        self._memory.captures(fd)
        await self._channels.request(INGRESS, messages.Capture(), [fd])

    # --- workers that die -----------------------------------------------------------------

    @property
    def channels(self) -> Channels:
        """The ways to all workers."""
        return self._channels

    @property
    def config(self) -> Config:
        """The settings that the workers have now."""
        return self._live.config

    def forget_worker(self, name: str) -> None:
        """A worker has died: handle what it has still sent. Every pending request to it fails."""
        self._channels.channels[name].finish()

    def adopt_worker(self, name: str, sock: socket.socket, config: Config) -> None:
        """A worker that died has a successor, at the other end of this socket.

        config: the settings that it has. If others have come since, it gets them before anything else. So it
        does with a log that was opened again.
        """
        channel = self._channel(name, sock)
        self._channels.replace(channel)
        with suppress(RequestError):  # it has died, too
            if config is not self.config:
                channel.send(messages.Reload(pickle.dumps(self.config)))
            if self._moved_log >= 0:
                channel.send(messages.LogFile(), [self._moved_log])

    def on_restart(self, process: str, pid: int) -> None:
        """A process that died has a successor with this id."""
        self._meter.restarted(process, pid)
        self._notifier.notify(WORKER_RESTARTED)

    async def prepare_worker(self, name: str) -> None:
        """Tell a successor what it has to know before it serves guests. Raises RequestError.

        All is sent at once: then it reads it in order, even if nobody waits for the answers any more.
        """
        request = self._channels.request
        asks: list[messages.Request] = []
        if self.hub.wanted:
            asks.append(messages.Watch(sorted(self.hub.wanted)))
        if (counted := self.quotas.for_worker(name)) is not None:
            asks.append(counted)
        asks += self._memory.first_for(name)
        telling: list[Awaitable[object]] = [request(name, ask) for ask in asks]
        if name == INGRESS:
            adoptions = self._memory.adoptions(self._places, self._fabric.arena.slots)
            telling += [self._hand_over(adopt, fd) for adopt, fd in adoptions]
        answers = await asyncio.gather(*telling, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer

    def links_that_go_on(self) -> dict[int, int]:
        """Ingress is dead: the links that its successor carries on, with their guests. Ends the others."""
        links = self._memory.links_that_go_on(self._places, self._fabric.arena.slots)
        for link in self._memory.end_others(self._places, links):
            self._link_ended(link, INGRESS_DIED)
        return links

    async def _hand_over(self, adopt: healing_messages.Adopt, fd: int) -> None:
        try:
            await self._channels.request(INGRESS, adopt, [fd])
        except RefusedError as error:
            self._log.warning("a link cannot go on", link=adopt.number, error=str(error))
            if (link := self._memory.link_down(adopt.number)) is not None:
                self._link_ended(link, str(error))

    def _link_ended(self, link: healing_messages.LinkUpEvent, error: str) -> None:
        """A link has ended with its ingress worker, which cannot say so any more."""
        more: dict[str, Any] = {"opened_by": link.identity} if link.identity else {}
        more |= {"protocol": link.protocol, "peer": link.peer, "error": error}
        self.hub.report("guest-gone", operator=False, guest=link.guest, link=link.number, **more)
        self._link_gone(link.number)
        if link.protocol == protocols.STDIO:
            # Others come back, or their listener brings them back.
            self._on_guest(messages.GuestEvent("left", link.protocol, error, link.peer))

    def _link_gone(self, link: int) -> None:
        """Nothing is about the guest of this link any more: another one may get its number."""
        self._approvals.link_gone(link)
        self.quotas.link_gone(link)

    async def introduce_worker(self, name: str) -> None:
        """Give a successor the sockets that its predecessor had. Raises RequestError."""
        if name == LISTEN:
            await self._forwarder.open_again()
        for ask, fds in self._memory.for_successor(name):
            await self._channels.request(name, ask, fds)
        if self._fleet is not None:
            await self._fleet.introduce(name)

    def notify(self, kind: str) -> None:
        """Send a notification that is not about a guest."""
        self._notifier.notify(kind)

    async def withdraw_route(self) -> bool:
        """Tell guests that the gateway is no default router of IPv6 any more. Returns whether demux did."""
        try:
            await self._channels.request(DEMUX, messages.WithdrawRoute(), timeout=WITHDRAW_TIMEOUT)
        except RequestError:
            return False
        return True

    def move_log(self, fd: int) -> None:
        """Have all workers write their log to this file, which stays the caller's."""
        self._moved_log = fd
        self._channels.send_all(messages.LogFile(), [fd])

    async def stop_workers(self) -> None:
        """Ask all workers to end, except those that are gone already."""
        await self.quotas.settle()
        self._channels.send_all(messages.Stop())

    async def close(self) -> None:
        """End every connection of the API and the channels to the workers, after their last messages."""
        self._channels.receive()
        await self.quotas.stop()
        await self._leases.close()
        await self.succession.stop()
        self._limits.stop()
        await self._flow_events.stop()
        await self._approvals.stop()
        await self.fronts.close()
        await self._sockets.close_all()
        self._forward_sockets.close()
        await self._notifier.stop()
        await self.fronts.close_servers()
        self._channels.close()
        self._memory.close()
        self._meter.close()

    def _on_event(self, worker: str, event: Message, fds: list[int]) -> None:
        match message_table.event_of(event):
            case messages.ServiceEvent(name="api") as service if self.fronts.is_open_to_guests:
                self.fronts.serve_guest(socket.socket(fileno=fds[0]), service.guest, service.number)
            case messages.ServiceEvent(name="dns") as service:
                try:
                    request = messages.ServeTcp(service.guest, service.link)
                    self._channels.channels[RESOLVER].send(request, fds)
                except RequestError as error:
                    self._not_handed_over.warning(asyncio.get_running_loop().time(), error=str(error))
                finally:
                    close_all(fds)
            case messages.MacEvent(change="seen") as seen:
                self._notifier.notify(CONNECTION_ESTABLISHED, seen.mac)
            case messages.MacEvent(change="gone") as gone:
                self._notifier.notify(CONNECTION_CLOSED, gone.mac)
            case messages.MacEvent():
                return
            case messages.HappenedEvent() as happened:
                self.hub.on_worker(worker, happened)
            case messages.GuestEvent() as guest:
                self._on_guest(guest)
            case healing_messages.LinkUpEvent() as link:
                self._memory.link_up(link, fds)
                self._link_gone(link.number)
            case healing_messages.InnerEvent() as inner:
                self._memory.has_inner(inner.number, inner.places)
            case healing_messages.LinkEvent() as carried:
                self.succession.on_link(carried, fds)
            case healing_messages.ConnectionsEvent() | healing_messages.KnowledgeEvent() as told:
                self.succession.on_told(told)
            case healing_messages.LinkDownEvent() as link_down:
                self._memory.link_down(link_down.number)
                self._link_gone(link_down.number)
            case healing_messages.LeasesEvent() as leases:
                self._memory.leases = leases
            case messages.ConnectEvent() as ask if fds:
                datagram_peers.connect(self._channels.channels[worker], ask, socket.socket(fileno=fds[0]))
            case messages.FilesEvent() if fds:
                self._meter.watch_files(worker, fds[0])
            case messages.StateFileEvent() as leases:
                self._leases.put(leases.content)
            case (
                fleet_messages.StationsEvent()
                | fleet_messages.NamesEvent()
                | fleet_messages.LeaseWantedEvent()
                | fleet_messages.LeaseOverEvent()
            ) as report:
                if self._fleet is not None:
                    self._fleet.on_event(report)
            case _:
                close_all(fds)
                self._log.warning("unknown event", worker=worker, name=event.get("event"))
