"""The built-in DHCP client of the guest agent, a program of its own.

    python -m guest.dhcp_client -i tap0 [-resolv-conf FILE]

:mod:`guest.dhcp_states` is its state machine. This module has the sockets, the clock and the interface. The
client sets address, default route and MTU. Until it ends, it names the DNS servers in resolv.conf
(:mod:`guest.resolv_conf`). Only the address is required. Any other failure is logged.

Before it has an address the client uses a packet socket, because the kernel does not send from 0.0.0.0. After
that it uses an ordinary UDP socket, so that other traffic of the interface does not wake it. It runs until a
signal ends it. With -with-parent it also ends when its standard input ends.
"""

import errno
import logging
import math
import random
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Final, NoReturn, Protocol

from guest.dhcp_states import Bind, Client, Lease, Send, Unbind
from guest.log_queue import Formatter, LogQueue
from guest.optional import attempt
from guest.resolv_conf import AUTO, ResolvConf
from pipeline.go import flags
from pipeline.go.flags import Flag
from pipeline.system import netlink
from pipeline.system.tap import mac_of
from pipeline.wire import dhcp, ip, ipv4, udp
from pipeline.wire.checksum import word_sum
from pipeline.wire.errors import WireError
from pipeline.wire.ethernet import BROADCAST, TYPE_IPV4

PROGRAM: Final = "gvtap-guest dhcp"
LOG: Final = logging.getLogger("gvtap-guest.dhcp")

FLAGS: Final = (
    Flag("i", "string", "interface", "tap0"),
    Flag(
        "resolv-conf",
        "string",
        "file in which to name the DNS servers, none, or auto: /etc/resolv.conf",
        AUTO,
    ),
    Flag("with-parent", "bool", "end when standard input does"),
)

_MAX_WAIT_SECONDS: Final = 3600.0
# Errors after which the client tries again later. EPERM comes from a packet filter of the guest.
_SEND_LOSSES: Final = frozenset(
    {errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENOBUFS, errno.EAGAIN, errno.EPERM}
)


class Port:
    """Sends and receives DHCP messages on one interface: with a UDP socket, or raw without an address."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._address = 0
        self._sock = self._raw()

    def fileno(self) -> int:
        """The descriptor to poll. bind() changes it."""
        return self._sock.fileno()

    def bind(self, address: int) -> None:
        """Send from this address; 0 = raw. The port stays raw if another program has port 68."""
        if address == self._address:
            return
        self._sock.close()
        self._address = 0
        try:
            self._sock = self._bound(address) if address else self._raw()
            self._address = address
        except OSError as error:
            LOG.warning("cannot bind to port %d of %s: %s", dhcp.CLIENT_PORT, ip.text(address), error)
            self._sock = self._raw()

    def send(self, message: dhcp.Message, server: int) -> None:
        """Send a message to server (0 = broadcast). Errors of the network are ignored: the client retries."""
        payload = dhcp.build(message)
        try:
            if self._address:
                self._sock.sendto(payload, (ip.text(server or ip.BROADCAST), dhcp.SERVER_PORT))
            else:
                packet = _packet(payload, ip.BROADCAST)
                self._sock.sendto(packet, (self._interface, TYPE_IPV4, 0, 0, BROADCAST))
        except OSError as error:
            if error.errno not in _SEND_LOSSES:
                raise

    def receive(self) -> dhcp.Message | None:
        """The next message, or None if the next packet is not a DHCP message."""
        try:
            data = self._sock.recv(65536, socket.MSG_DONTWAIT)
            if self._address:
                return dhcp.parse(data, 0, len(data))
            return _message_of(data)
        except (WireError, BlockingIOError):
            return None

    def _raw(self) -> socket.socket:
        sock = socket.socket(
            socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.htons(TYPE_IPV4)
        )
        sock.bind((self._interface, TYPE_IPV4))
        return sock

    def _bound(self, address: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._interface.encode())
            sock.bind((ip.text(address), dhcp.CLIENT_PORT))
        except OSError:
            sock.close()
            raise
        return sock


def _packet(payload: bytes, dst: int) -> bytes:
    """An IPv4 packet from 0.0.0.0 port 68 to dst port 67."""
    header = udp.build_checked(0, dst, dhcp.CLIENT_PORT, dhcp.SERVER_PORT, len(payload), word_sum(payload))
    total = ipv4.HEADER_LEN + len(header) + len(payload)
    return ipv4.build(total, 0, ipv4.DEFAULT_TTL, ipv4.PROTO_UDP, 0, dst) + header + payload


def _message_of(packet: bytes) -> dhcp.Message | None:
    """The DHCP message in an IPv4 packet for port 68, or None for other packets. Raises WireError."""
    network = ipv4.parse(packet, 0, len(packet))
    if network.proto != ipv4.PROTO_UDP or network.frag_off or network.flags & ipv4.FLAG_MF:
        return None
    header = udp.parse(packet, network.ihl, network.total_len)
    if header.dst_port != dhcp.CLIENT_PORT:
        return None
    udp.verify(memoryview(packet), network.ihl, header, network.src, network.dst)
    return dhcp.parse(packet, network.ihl + udp.HEADER_LEN, network.ihl + header.length)


def configure(interface: str, lease: Lease, resolv_conf: ResolvConf) -> None:
    """Configure the interface with the lease. Raises OSError if the address cannot be set."""
    if lease.mtu:
        attempt(f"set the MTU {lease.mtu}", lambda: netlink.set_mtu(interface, lease.mtu))
    netlink.set_address(interface, lease.address, lease.prefix)
    # Before the route, because programs that wait for a route then also look up names.
    resolv_conf.set(lease.dns, lease.search)
    if lease.router:
        attempt(
            f"route by {ip.text(lease.router)}", lambda: netlink.set_default_route(interface, lease.router)
        )
    LOG.info(
        "%s has %s/%d until %.0f s from now", interface, ip.text(lease.address), lease.prefix, lease.seconds
    )


def unconfigure(interface: str, lease: Lease, resolv_conf: ResolvConf) -> None:
    """Undo configure(), because the lease has ended."""
    resolv_conf.restore()
    attempt(
        f"remove {ip.text(lease.address)}",
        lambda: netlink.remove_address(interface, lease.address, lease.prefix),
    )


def run(interface: str, resolv_conf: ResolvConf, with_parent: bool) -> None:
    """Acquire and keep a lease. with_parent: return when standard input ends, else run for ever.

    Raises OSError if the interface is gone, or if the address cannot be set.
    """
    mac = mac_of(interface)
    port = Port(interface)
    client = Client(mac, time.monotonic(), random.random)
    parent = [sys.stdin] if with_parent else []
    while True:
        client.on_timer(time.monotonic())
        for action in client.take_actions():
            if isinstance(action, Send):
                port.send(action.message, action.server)
            elif isinstance(action, Bind):
                configure(interface, action.lease, resolv_conf)
                port.bind(action.lease.address)
            elif isinstance(action, Unbind):
                port.bind(0)
                unconfigure(interface, action.lease, resolv_conf)
        wait = min(client.deadline() - time.monotonic(), _MAX_WAIT_SECONDS)
        readable = _wait_for([port, *parent], wait)
        if port.fileno() in readable:
            message = port.receive()
            if message is not None:
                client.on_message(message, time.monotonic())
        elif readable:
            return


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


def _wait_for(sources: Iterable[_HasFileno], seconds: float) -> set[int]:
    """Wait until one of these can be read or has ended, for at most this time. Returns their descriptors.

    Not select(): it fails for a descriptor above 1023, which the program that started this one may have left.
    """
    poll = select.poll()
    for source in sources:
        poll.register(source, select.POLLIN)
    # Rounded up, so that the deadline has passed when nothing came.
    return {fd for fd, _ in poll.poll(math.ceil(max(seconds, 0.0) * 1000))}


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    # A second signal must not interrupt the clean-up after the first one.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the client. Returns 2 for a bad command line, 1 if the interface is unusable, 0 after a signal."""
    usage = flags.usage(f"Usage of {PROGRAM}:", FLAGS)
    try:
        parsed = flags.parse(FLAGS, sys.argv[1:] if argv is None else argv)
    except flags.HelpRequestError:
        sys.stderr.write(usage)
        return 0
    except flags.FlagError as error:
        sys.stderr.write(f"{error}\n{usage}")
        return 2
    handler = LogQueue()
    handler.setFormatter(Formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, _terminate)
    resolv_conf = ResolvConf(parsed.text("resolv-conf"), parsed.text("i"))
    try:
        run(parsed.text("i"), resolv_conf, parsed.true("with-parent"))
    except OSError as error:
        LOG.error("%s", error)
        return 1
    finally:
        resolv_conf.restore()
    return 0


if __name__ == "__main__":
    sys.exit(main())
