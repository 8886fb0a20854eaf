"""A DHCP client as a state machine (RFC 2131 section 4.4): messages and time in, actions out.

    INIT --discover--> SELECTING --offer, request--> REQUESTING --ack--> BOUND
    BOUND --T1--> RENEWING --T2--> REBINDING --lease ends--> INIT
    REQUESTING, RENEWING, REBINDING --nak--> INIT

The client takes the first usable offer. It does not implement INIT-REBOOT, INFORM and DECLINE. It repeats a
message sooner than after the RFC's 4 s, because the server is on the same machine. Times are seconds of one
monotonic clock. The caller supplies random numbers.
"""

import enum
import math
from collections.abc import Callable
from typing import Final, NamedTuple

from pipeline.wire import dhcp, ip
from pipeline.wire.dhcp import Message

FIRST_RETRY_SECONDS: Final = 1.0
MAX_RETRY_SECONDS: Final = 64.0
MIN_RENEW_RETRY_SECONDS: Final = 60.0  # RFC 2131 section 4.4.5
MAX_REQUESTS: Final = 4
DEFAULT_MASK: Final = 0xFFFFFF00

_WANTED: Final = bytes(
    (
        dhcp.SUBNET_MASK,
        dhcp.ROUTER,
        dhcp.DNS_SERVER,
        dhcp.DOMAIN_NAME,
        dhcp.INTERFACE_MTU,
        dhcp.LEASE_TIME,
        dhcp.DOMAIN_SEARCH,
    )
)
_MAX_MESSAGE: Final = (1500).to_bytes(2, "big")
_MIN_MTU: Final = 68
_FOREVER: Final = 0xFFFFFFFF


class State(enum.Enum):
    """The states of RFC 2131 figure 5. INIT is not one: the client is in SELECTING from the start."""

    SELECTING = "SELECTING"
    REQUESTING = "REQUESTING"
    BOUND = "BOUND"
    RENEWING = "RENEWING"
    REBINDING = "REBINDING"


class Lease(NamedTuple):
    """A lease. Addresses are 32-bit integers. 0 means none, also for mtu. seconds may be infinite."""

    address: int
    prefix: int
    router: int
    dns: tuple[int, ...]
    search: tuple[str, ...]
    mtu: int
    server: int
    seconds: float


class Send(NamedTuple):
    """Send a message to the address ``server``. If that is 0, broadcast it."""

    message: Message
    server: int


class Bind(NamedTuple):
    """Configure the interface with this lease. Repeated if a renewal changes the lease."""

    lease: Lease


class Unbind(NamedTuple):
    """The lease has ended: remove the address from the interface."""

    lease: Lease


Action = Send | Bind | Unbind


class Client:
    """The client of one interface. The first deadline is at once, so the first on_timer() starts it."""

    def __init__(self, mac: bytes, now: float, random: Callable[[], float]) -> None:
        """mac: 6 bytes. random: returns a number in [0, 1)."""
        self._mac = mac
        self._random = random
        self._actions: list[Action] = []
        self._lease: Lease | None = None
        self._offer: Lease | None = None
        self._bound_at = 0.0
        self._tries = self._xid = 0
        self._began = self._deadline = now
        self.state = State.SELECTING
        self._restart(now)

    def deadline(self) -> float:
        """The time at which to call on_timer(); infinity for never."""
        return self._deadline

    def take_actions(self) -> list[Action]:
        """Return the actions to carry out, in this order, and forget them."""
        actions, self._actions = self._actions, []
        return actions

    def on_message(self, message: Message, now: float) -> None:
        """A DHCP message arrived. It is ignored if it is for another client, or not expected now."""
        if message.op != dhcp.BOOT_REPLY or message.xid != self._xid or message.chaddr != self._mac:
            return
        if message.kind == dhcp.OFFER and self.state is State.SELECTING:
            lease = _lease(message)
            if lease is not None:
                self._offer, self.state, self._tries = lease, State.REQUESTING, 0
                self._request(now)
        elif message.kind == dhcp.ACK and self.state not in (State.SELECTING, State.BOUND):
            lease = _lease(message)
            if lease is not None:
                self._bind(lease, now)
        elif message.kind == dhcp.NAK and self.state not in (State.SELECTING, State.BOUND):
            self._unbind()
            self._restart(now)

    def on_timer(self, now: float) -> None:
        """Do what is due at the time now."""
        if now < self._deadline:
            return
        if self.state is State.SELECTING:
            self._discover(now)
        elif self.state is State.REQUESTING:
            if self._tries >= MAX_REQUESTS:
                self._restart(now)
            self._request(now)
        elif self._lease is not None:
            self._renew(self._lease, now)

    def _restart(self, now: float) -> None:
        self.state = State.SELECTING
        self._xid = int(self._random() * 0x100000000)
        self._began = self._deadline = now
        self._tries = 0
        self._offer = None

    def _discover(self, now: float) -> None:
        self._actions.append(Send(self._message(dhcp.DISCOVER, {}, now), 0))
        self._retry_later(now)

    def _request(self, now: float) -> None:
        if self._offer is None:
            self._discover(now)
            return
        options = {
            dhcp.REQUESTED_ADDRESS: ip.ipv4_bytes(self._offer.address),
            dhcp.SERVER_ID: ip.ipv4_bytes(self._offer.server),
        }
        self._actions.append(Send(self._message(dhcp.REQUEST, options, now), 0))
        self._retry_later(now)

    def _renew(self, lease: Lease, now: float) -> None:
        """Renew the lease, or give it up at its end (RFC 2131 section 4.4.5)."""
        t2, end = self._bound_at + lease.seconds * 0.875, self._bound_at + lease.seconds
        if now >= end:
            self._unbind()
            self._restart(now)
            self._discover(now)
            return
        if self.state is State.BOUND:
            self._began = now
        self.state, until = (State.RENEWING, t2) if now < t2 else (State.REBINDING, end)
        message = self._message(dhcp.REQUEST, {}, now, lease.address)
        self._actions.append(Send(message, lease.server if self.state is State.RENEWING else 0))
        self._deadline = min(until, now + max((until - now) / 2, MIN_RENEW_RETRY_SECONDS))

    def _bind(self, lease: Lease, now: float) -> None:
        if lease != self._lease:
            if self._lease is not None and self._lease.address != lease.address:
                self._unbind()
            self._actions.append(Bind(lease))
        self._lease, self.state, self._bound_at = lease, State.BOUND, now
        self._deadline = now + lease.seconds / 2

    def _unbind(self) -> None:
        if self._lease is not None:
            self._actions.append(Unbind(self._lease))
            self._lease = None

    def _retry_later(self, now: float) -> None:
        wait = min(FIRST_RETRY_SECONDS * 2**self._tries, MAX_RETRY_SECONDS)
        self._tries = min(self._tries + 1, 16)
        self._deadline = now + wait * (0.75 + self._random() / 2)

    def _message(self, kind: int, options: dict[int, bytes], now: float, ciaddr: int = 0) -> Message:
        identity = bytes((dhcp.HTYPE_ETHERNET,)) + self._mac
        every = {
            dhcp.MESSAGE_TYPE: bytes((kind,)),
            dhcp.CLIENT_ID: identity,
            **options,
            dhcp.MAX_MESSAGE_SIZE: _MAX_MESSAGE,
            dhcp.PARAMETER_LIST: _WANTED,
        }
        secs = min(int(now - self._began), 0xFFFF)
        return Message(dhcp.BOOT_REQUEST, self._xid, self._mac, every, secs=secs, ciaddr=ciaddr)


def _lease(message: Message) -> Lease | None:
    """The lease in an OFFER or ACK; None if the address, the server or the time is missing."""
    options = message.options
    server, time = message.option_addr(dhcp.SERVER_ID), options.get(dhcp.LEASE_TIME, b"")
    if message.yiaddr == 0 or server == 0 or len(time) != 4:
        return None
    seconds = int.from_bytes(time, "big")
    mtu = int.from_bytes(options.get(dhcp.INTERFACE_MTU, b"")[:2], "big")
    dns = options.get(dhcp.DNS_SERVER, b"")
    return Lease(
        address=message.yiaddr,
        prefix=(ip.to_ipv4(message.option_addr(dhcp.SUBNET_MASK)) or DEFAULT_MASK).bit_count(),
        router=message.option_addr(dhcp.ROUTER),
        dns=tuple(ip.from_ipv4(int.from_bytes(dns[at : at + 4], "big")) for at in range(0, len(dns) - 3, 4)),
        # RFC 3397 section 2: a search list replaces the domain name.
        search=parse_search_list(options.get(dhcp.DOMAIN_SEARCH, b""))
        or parse_domain_names(options.get(dhcp.DOMAIN_NAME, b"")),
        mtu=mtu if mtu >= _MIN_MTU else 0,
        server=server,
        seconds=math.inf if seconds == _FOREVER else float(seconds),
    )


def parse_search_list(value: bytes) -> tuple[str, ...]:
    """The names in a DOMAIN_SEARCH option (RFC 3397, with compression). The list ends at a broken name."""
    names: list[str] = []
    at = 0
    while at < len(value):
        labels: list[str] = []
        following, position, jumps = 0, at, 0
        while position < len(value) and (length := value[position]):
            if length >= 0xC0:  # a pointer to an earlier place
                if position + 1 >= len(value) or jumps > len(value):
                    return tuple(names)
                following = following or position + 2
                position, jumps = (length & 0x3F) << 8 | value[position + 1], jumps + 1
                continue
            label = value[position + 1 : position + 1 + length]
            if len(label) != length or not _is_plain(label):
                return tuple(names)
            labels.append(label.decode())
            position += 1 + length
        if position >= len(value):
            return tuple(names)
        if labels:
            names.append(".".join(labels))
        at = following or position + 1
    return tuple(names)


def parse_domain_names(value: bytes) -> tuple[str, ...]:
    """The names in a DOMAIN_NAME option: one (RFC 2132), or several. The list ends at a broken name."""
    names: list[str] = []
    for word in value.rstrip(b"\0").split(b" "):
        name = word.removesuffix(b".")
        if not name:
            continue
        if not all(_is_plain(label) for label in name.split(b".")):
            break
        names.append(name.decode())
    return tuple(names)


def _is_plain(label: bytes) -> bool:
    """Whether a label has only characters of host names, so that it cannot add lines to resolv.conf."""
    return label.replace(b"-", b"").replace(b"_", b"").isalnum()
