"""The agent of a fleet: a task of the supervisor that keeps this host in touch with the others.

It owns a session with a NATS server (store.py), opens another one when that ends, and moves what is written
and reported between the store, the engines (pipeline.engines.fleet.view) and the workers (hands.py). No
worker waits for it, and nothing here waits for the store: while it is away, hosts know each other as before,
and guests get addresses from the reserve.

::

    away --a server answers, all keys reported--> online --the session ends--> away
      ^                                                                         |
      +------------- the next server, after 0.1 s and more (MAX_BACKOFF_S) -----+

Each wait for the network has a bound, and so has stop(). An error of this program ends the session or the
round in which it happens. It is logged, and the task goes on.

A daemon that is replaced (pipeline.daemon.restart) has the same name as its successor. So it writes nothing
from the handover on (pause), and leaves the fleet only if its row is still its own.
"""

import asyncio
import secrets
import time
from collections.abc import Coroutine, Set
from contextlib import suppress
from typing import Final

import structlog

from pipeline.config.fleet import station_mac_of
from pipeline.control.hub import Hub
from pipeline.engines.fleet import mirror, names, places, values
from pipeline.engines.fleet.grants import Answer
from pipeline.engines.fleet.mirror import Entry, Mirror
from pipeline.engines.fleet.view import FleetView, StoreWrite, store_write
from pipeline.fleet.feed import EventFeed
from pipeline.fleet.forwards import SharedForwards
from pipeline.fleet.hands import Hands
from pipeline.fleet.settings import SharedSettings
from pipeline.fleet.station import FarStations, OwnStation
from pipeline.fleet.store import ERRORS, Access, Session
from pipeline.ipc import fleet_messages, messages
from pipeline.links.vxlan_url import MAX_REMOTES
from pipeline.topology import DEMUX, INGRESS, RESOLVER
from pipeline.wire import ip

FIRST_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 1.0
"""The most seconds between two servers, on average. A user expects a host back soon after a repair."""
OPEN_S: Final = 10.0
"""Seconds that a server has to accept a session. Each step has its own bound (store.TIMEOUT)."""
SNAPSHOT_S: Final = 10.0
"""Seconds that a server may be silent while it reports all keys. It may have to report them to many hosts."""
MAX_FAILED: Final = 3
"""Writes one after the other that had no answer. Then another server may be better, and the session ends."""
MAX_UNANSWERED: Final = 3
"""Beats of this host that did not come back. Then the watch does not work, and the session ends."""
LOOK_EVERY_S: Final = 1.0
"""The most seconds between two looks at what is due."""
SHORTEST_WAIT_S: Final = 0.01
MAX_WRITING: Final = 256
"""Writes under way at the same time, over all kinds."""
CLEAN_EVERY_S: Final = 3600.0
FIRST_CLEAN_S: Final = 300.0
"""Seconds after the start. Until then other hosts may be about to join, after a loss of power."""
LEAVE_S: Final = 0.7
"""Seconds that the end of the program waits until the store knows that this host has left."""
CANCEL_S: Final = 0.2
"""Seconds for a task to end that was cancelled. The NATS client swallows some cancellations."""


class Agent:
    """The fleet, as the supervisor has it."""

    def __init__(
        self,
        access: Access,
        view: FleetView,
        hands: Hands,
        hub: Hub,
        settings: SharedSettings,
        forwards: SharedForwards,
        feed: EventFeed,
        log: structlog.typing.FilteringBoundLogger,
        addr6: bytes = b"",
    ) -> None:
        """addr6: the packed IPv6 address of this host as a station; empty for none."""
        self._access = access
        self.view = view
        self._hands = hands
        self._hub = hub
        self._settings = settings
        self._forwards = forwards
        self._station = OwnStation(station_mac_of(access.bucket, access.name), view, hands, addr6)
        self._far_stations = FarStations(access.bucket)
        self._feed = feed
        self._log = log
        self._mirror = Mirror(values.MEMBER)
        self._session: Session | None = None
        self._wake = asyncio.Event()
        self._writing: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._away_since: float | None = None
        self._strangers: list[str] = []
        self._too_large: set[str] = set()
        self._rival = ""
        self._clean_at = self._now() + FIRST_CLEAN_S
        self._known: set[str] = set()
        self._failed = 0
        """Writes of this session that had no answer, since the last one that had."""
        self._heard_at = 0.0
        """When the watch reported a key."""
        self._is_paused = False

    @property
    def unread_count(self) -> int:
        """How many keys and values of the store were not read."""
        return self.view.bad_values + self._mirror.lost

    def start(self) -> None:
        """Begin. Needs a running event loop."""
        self._hands.ask_for_stations()
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._pump())]

    def pause(self) -> None:
        """A successor takes over. Write nothing: it has this host's name, and writes for it."""
        self._is_paused = True
        for task in self._writing:
            task.cancel()

    def go_on(self) -> None:
        """There is no successor after all. The engines repeat what was not written."""
        self._is_paused = False
        self._wake.set()

    async def stop(self) -> None:
        """Leave the fleet. Ends within 2 s, whatever the servers do."""
        tasks = [*self._tasks, *self._writing]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_S)
        await _within(CANCEL_S, self._settings.stop())
        await _within(CANCEL_S, self._forwards.stop())
        self._feed.stop()
        session = self._session
        if session is not None:
            if not self._is_paused:
                await _within(LEAVE_S, self._leave(session))
            await session.close()

    async def _leave(self, session: Session) -> None:
        """Remove the own row, unless another run of this host has written it. Raises one of ERRORS.

        The newest beat of this run may not have come back. Then the store refuses, and it comes soon.
        """
        tried: int | None = None
        try:
            while (leave := self.view.members.leave()) is not None:
                if leave.revision != tried:
                    tried = leave.revision
                    write = store_write(leave)
                    if await session.write(write.key, write.value, write.revision):
                        return
                await asyncio.sleep(SHORTEST_WAIT_S)
        except ERRORS as error:
            self._log.debug("fleet not left in order", error=_words(error))

    # --- sessions -------------------------------------------------------------------------------

    async def _run(self) -> None:
        servers = list(self._access.servers)
        secrets.SystemRandom().shuffle(servers)
        backoff = FIRST_BACKOFF_S
        number = 0
        while True:
            server = servers[number % len(servers)]
            number += 1
            try:
                await self._serve(server)
                reason = "the connection was lost"
            except ERRORS as error:
                reason = _words(error)
            except Exception as error:
                reason = _words(error)
                self._log.error("fleet error", error=reason, exc_info=True)
            if self.view.online:
                backoff = FIRST_BACKOFF_S
            self._log.debug("fleet session ended", server=server, reason=reason)
            self._offline(server, reason)
            await asyncio.sleep(backoff * (0.5 + secrets.randbelow(1000) / 1000))
            if number % len(servers) == 0:
                backoff = min(2 * backoff, MAX_BACKOFF_S)

    async def _serve(self, server: str) -> None:
        """One session, until it ends. Raises one of ERRORS."""
        session = Session(self._access)
        try:
            async with asyncio.timeout(OPEN_S):
                await session.open(server)
                # The watch may report all keys before it returns. Then there is something to write at once.
                self._session = session
                self._failed = 0
                self._mirror.begin()
                await session.watch(self._on_entry)
            self._heard_at = self._now()
            while not session.lost.is_set():
                now = self._now()
                if not self.view.online and now - self._heard_at > SNAPSHOT_S:
                    raise TimeoutError("not all keys came")
                # While keys are being reported, none of them is one of this session.
                if self.view.online and self.view.members.unanswered >= MAX_UNANSWERED:
                    raise TimeoutError("writes of this host did not come back")
                if self._failed >= MAX_FAILED:
                    raise TimeoutError("writes of this host had no answer")
                await self._clean(session, now)
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await session.lost.wait()
        except asyncio.CancelledError:
            # stop() closes the session, since it has something to say before.
            raise
        except BaseException:
            self._session = None
            await session.close()
            raise
        self._session = None
        await session.close()
        if session.error is not None:
            raise session.error

    async def _pump(self) -> None:
        """Do what is due, and what follows from what has happened, whether the store is away or not."""
        while True:
            now = self._now()
            seconds = LOOK_EVERY_S
            try:
                self._station.on_timer(now)
                self.view.on_timer(now)
                self._follow_up()
                await self._publish()
                due = min(self.view.deadline(now), self._station.deadline())
                seconds = min(max(due - now, SHORTEST_WAIT_S), LOOK_EVERY_S)
            except Exception as error:
                self._log.error("fleet error", error=_words(error), exc_info=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
            self._wake.clear()

    async def _publish(self) -> None:
        """Send the events that wait, if a server is reached."""
        session = self._session
        if session is None or not self.view.online or self._is_paused:
            return
        for subject, content in self._feed.take():
            try:
                await session.publish(subject, content)
            except ERRORS as error:
                self._log.debug("fleet write failed", key=subject, error=_words(error))

    async def _clean(self, session: Session, now: float) -> None:
        """The member whose name is the first of all removes what nobody needs, once in an hour.

        These are the markers of deleted keys, and places and names of hosts that are gone.
        """
        if not self.view.online or self._is_paused or now < self._clean_at:
            return
        self._clean_at = now + CLEAN_EVERY_S
        if self.view.name > min(self.view.members.others(), default=self.view.name):
            return
        await session.remove_markers()
        for write in self.view.orphans():
            await session.write(write.key, write.value, write.revision)

    def _now(self) -> float:
        """Seconds, of a clock that counts while the host sleeps too: its term in the pool ends then."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def _offline(self, server: str, reason: str) -> None:
        self.view.on_offline()
        if self._away_since is None:
            self._away_since = self._now()
            self._hub.report("fleet-away", server=server, reason=reason)

    # --- the store ------------------------------------------------------------------------------

    def _on_entry(self, entry: Entry | None) -> None:
        now = self._heard_at = self._now()
        if entry is not None:
            if not values.admits(entry.key):
                self.view.bad_values += 1
                return
            entry = entry._replace(value=values.limited(entry.key, entry.value))
            for each in self._mirror.on_entry(entry):
                self.view.on_entry(each, now)
        else:
            for each in self._mirror.complete():
                self.view.on_entry(each, now)
            self.view.on_online(now)
            self._station.hurry()
            self._away_since = None
            self._hub.report("fleet-reached", members=len(self.view.members), keys=len(self._mirror))
        self._wake.set()

    def _write(self, write: StoreWrite) -> None:
        session = self._session
        if session is None or self._is_paused or len(self._writing) >= MAX_WRITING:
            # The engine repeats it.
            return
        task = asyncio.create_task(self._write_one(session, write))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write_one(self, session: Session, write: StoreWrite) -> None:
        try:
            is_written = await session.write(write.key, write.value, write.revision)
        except ERRORS as error:
            self._failed += 1
            self._log.debug("fleet write failed", key=write.key, error=_words(error))
            return
        self._failed = 0
        if is_written:
            return
        self.view.on_refused(write.cause, self._now())
        self._wake.set()

    # --- what follows -----------------------------------------------------------------------------

    def _follow_up(self) -> None:
        """Carry out what the engines ask for."""
        view, hands = self.view, self._hands
        changed_hosts = view.members.take_changes()
        if changed_hosts is not None:
            self._members_changed(changed_hosts)
        self._look_for_rival()
        self._look_at_size()
        if changes := view.places.take_changes():
            hands.places(changes, view.members)
            if changes.away.pop(self._station.mac, None) is not None:
                self._station.on_away(self._now())
            if changes.away:
                self._away(changes.away)
        if changed_names := view.names.take_changes():
            hands.names(changed_names, complete=False)
        for answer in view.grants.take_answers():
            if not self._station.on_answer(answer, self._now()):
                hands.granted(answer)
        # Before all are known, those that an earlier run has left open stay.
        if view.online and view.forwards.take_changed():
            self._forwards.want(view.forwards.wanted())
        changed, view.settings_changed = view.settings_changed, set()
        for key in sorted(changed):
            self._settings.change(key, view.settings.get(key))
        for write in view.take_writes(self._now()):
            self._write(write)

    def _members_changed(self, changed: Set[str]) -> None:
        view = self.view
        self._hands.members(view.members)
        self._far_stations.on_hosts(changed, view.members.others())
        self._hands.far_stations(self._far_stations.macs)
        # Ingress forgets the places of a host that has left.
        self._hands.places(view.places.of_hosts(changed & view.members.others().keys()), view.members)
        view.names.on_members(changed)
        others = view.members.others()
        for name in sorted(others.keys() - self._known):
            self._hub.report("fleet-host-joined", host=name, address=others[name].address)
        for name in sorted(self._known - others.keys()):
            self._hub.report("fleet-host-left", host=name)
        self._known = set(others)
        strangers = view.members.strangers()
        for name in strangers:
            if name not in self._strangers:
                self._hub.report("fleet-network-differs", host=name)
        self._strangers = strangers

    def _look_for_rival(self) -> None:
        rival = self.view.members.rival
        if rival and rival != self._rival and not self._is_paused:
            self._hub.report("fleet-name-taken", host=self.view.name)
        self._rival = rival

    def _look_at_size(self) -> None:
        view = self.view
        too_large = {
            what: most
            for what, most, is_over in (
                ("hosts", MAX_REMOTES + 1, len(view.members) > MAX_REMOTES + 1),
                ("keys", mirror.MAX_KEYS, self._mirror.lost > 0),
                ("places", places.MAX_AWAY, len(view.places) >= places.MAX_AWAY),
                ("names", names.MAX_NAMES, len(view.names) >= names.MAX_NAMES),
            )
            if is_over
        }
        for what in too_large.keys() - self._too_large:
            self._hub.report("fleet-too-large", what=what, most=too_large[what])
        self._too_large = set(too_large)

    def _away(self, stations: dict[bytes, tuple[bytes, ...]]) -> None:
        self._hands.away(stations)
        for mac in stations:
            self.view.grants.moved_away(mac)
            host = self.view.places.host_of(mac)
            self._hub.report("fleet-guest-moved", mac=":".join(f"{byte:02x}" for byte in mac), host=host)

    # --- the workers -------------------------------------------------------------------------------

    def on_event(self, event: messages.Event) -> None:
        """A worker reports something for the fleet."""
        now = self._now()
        match event:
            case fleet_messages.LeaseWantedEvent():
                if self._is_host(event.mac):
                    self._hands.granted(Answer(event.mac, None))
                else:
                    self.view.grants.ask(event.mac, event.seconds, now)
            case fleet_messages.LeaseOverEvent():
                addr = ip.of_packed(event.addr)
                if not self._is_host(event.mac):
                    self.view.grants.over(event.mac, addr, now, declined=event.declined)
            case fleet_messages.StationsEvent():
                self._on_stations(event)
            case fleet_messages.NamesEvent():
                self.view.names.on_here(event.names)
        self._follow_up()
        self._wake.set()

    def _is_host(self, mac: bytes) -> bool:
        """Whether this is the station of a host. A guest that claims to be one is none."""
        return mac == self._station.mac or mac in self._far_stations

    def _on_stations(self, event: fleet_messages.StationsEvent) -> None:
        stations, own = self.view.places, self._station
        if event.complete:
            for mac in stations.here().keys() - event.macs.keys() - {own.mac}:
                stations.on_gone(mac)
        for mac, is_here in event.macs.items():
            if not is_here and mac != own.mac:
                stations.on_gone(mac)
            elif not self._is_host(mac):
                stations.on_here(mac)
        for addr, mac in event.addrs.items():
            # Demux forgets a guest that had an address of this host, and says so.
            if addr not in own.addresses:
                stations.on_address(addr, mac)
        if event.complete:
            stations.on_known()

    async def introduce(self, worker: str) -> None:
        """A worker has died. Tell its successor what it has to know."""
        view = self.view
        if worker == INGRESS:
            self._hands.members(view.members)
            self._hands.places(view.places.everything(), view.members)
        elif worker == RESOLVER:
            self._hands.names(view.names.away(), complete=True)
            for key in view.settings:
                self._settings.change(key, view.settings[key])
        elif worker == DEMUX:
            self._station.introduce()
            self._hands.far_stations(self._far_stations.macs)
            self._hands.ask_for_stations()


async def _within(seconds: float, work: Coroutine[object, object, None]) -> None:
    """Do something for some seconds at most, also if it swallows its cancellation."""
    task = asyncio.ensure_future(work)
    await asyncio.wait({task}, timeout=seconds)
    task.cancel()


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
