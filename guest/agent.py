"""The guest agent, gvtap-guest. It gives a guest a tap interface and carries its frames to the host.

The host is reached over vsock, a unix socket, or the pipes of a child process. The agent has gvforwarder's
command line, defaults and steps: dial the host, ask for /connect, open the tap, run a DHCP client, forward
frames. If a step fails, the agent closes everything, waits a second and starts again, for ever. SIGTERM and
SIGINT end it with status 0.

gvforwarder lacks the flags -dhcp, -address, -gateway, -link-mtu, -resolv-conf and -offload. The defaults of
all but the last change nothing. With -offload, a host that knows docs/offload.md gets frames of up to 64 KiB.
Other hosts see no difference.

Some steps are optional (MAC, MTU, default route, resolv.conf, offload, the program of a DHCP client). If one
of these fails, the agent logs that and goes on.
"""

import ipaddress
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from types import FrameType
from typing import Final, NamedTuple, NoReturn

from guest import dhcp, link, offload
from guest.forward import LOG, Forwarder
from guest.log_queue import Formatter, LogQueue
from guest.optional import StepError, attempt, doing
from guest.resolv_conf import AUTO, NONE, ResolvConf
from pipeline.go import flags
from pipeline.go.flags import Flag
from pipeline.system import netlink
from pipeline.system.tap import Tap, end_offload
from pipeline.wire import ip
from pipeline.wire.errors import WireError
from pipeline.wire.ethernet import mac_parse
from pipeline.wire.framing import LE16

PROGRAM: Final = "gvtap-guest"
RETRY_SECONDS: Final = 1.0
ETHERNET_BYTES: Final = 14

FLAGS: Final = (
    Flag("url", "string", "url where the tap send packets", "vsock://2:1024/connect"),
    Flag("iface", "string", "tap interface name", "tap0"),
    Flag("mac", "string", "mac address, empty to leave it as it is", "5a:94:ef:e4:0c:ee"),
    Flag(
        "mtu",
        "int",
        "buffer size for frames, without the Ethernet header; longer legal frames are taken too",
        4000,
    ),
    Flag("stop-if-exist", "string", "stop if one of these interfaces exists at startup", "eth0,ens3,enp0s1"),
    Flag("preexisting", "bool", "use preexisting/managed tap interface: no MAC, no link up, no DHCP"),
    Flag("debug", "bool", "log every frame"),
    Flag("version", "bool", "print version information and exit"),
    Flag("dhcp", "string", f"DHCP client: {', '.join(dhcp.CHOICES)}", "auto"),
    Flag("address", "string", "static address with prefix length instead of DHCP, as 192.168.127.2/24"),
    Flag("gateway", "string", "default route of a static address, the first address of its network if empty"),
    Flag("link-mtu", "int", "MTU set on the tap, 0 to leave it to DHCP"),
    Flag("offload", "bool", "ask the host for frames of up to 64 KiB with checksums left undone", True),
    Flag(
        "resolv-conf",
        "string",
        "file in which to name the DNS servers until the end; none: nowhere; "
        "auto: /etc/resolv.conf after the built-in DHCP client, nowhere with a static address",
        AUTO,
    ),
)


class Options(NamedTuple):
    """The checked command line. Addresses are 32-bit integers, 0 for none."""

    url: str
    iface: str
    mac: bytes
    mtu: int
    stop_if_exist: tuple[str, ...]
    preexisting: bool
    debug: bool
    dhcp: str
    address: int
    prefix: int
    gateway: int
    link_mtu: int
    resolv_conf: str
    offload: bool


def _check_words(parsed: flags.Parsed) -> None:
    """Refuse a word that is not a flag, and a URL that the agent would dial in vain for ever."""
    if parsed.arguments:
        word = flags.quote(parsed.arguments[0])
        raise flags.FlagError(f"unexpected argument {word}: a flag begins with a dash")
    url = parsed.text("url")
    try:
        link.check(url)
    except link.LinkError as error:
        raise flags.FlagError(f"invalid value {flags.quote(url)} for flag -url: {error}") from None


def options_from(parsed: flags.Parsed) -> Options:
    """Check the values of the flags. Raises flags.FlagError."""
    _check_words(parsed)
    mac_text, address_text, choice = parsed.text("mac"), parsed.text("address"), parsed.text("dhcp")
    address = prefix = gateway = 0
    try:
        mac = mac_parse(mac_text) if mac_text else b""
    except ValueError:
        raise flags.FlagError(
            f"invalid value {flags.quote(mac_text)} for flag -mac: not a MAC address"
        ) from None
    if choice not in dhcp.CHOICES:
        raise flags.FlagError(
            f"invalid value {flags.quote(choice)} for flag -dhcp: not one of {', '.join(dhcp.CHOICES)}"
        )
    if address_text:
        try:
            own = ipaddress.IPv4Interface(address_text)
            address, prefix = ip.of(own.ip), own.network.prefixlen
            first = ipaddress.IPv4Address(parsed.text("gateway") or int(own.network[0]) + 1)
            gateway = ip.of(first)
        except ValueError as error:
            raise flags.FlagError(
                f"invalid value {flags.quote(address_text)} for flag -address: {error}"
            ) from None
    mtu, link_mtu = parsed.number("mtu"), parsed.number("link-mtu")
    if mtu < 0 or not (link_mtu == 0 or 68 <= link_mtu <= LE16.max - ETHERNET_BYTES):
        raise flags.FlagError("mtu is out of range")
    return Options(
        url=parsed.text("url"),
        iface=parsed.text("iface"),
        mac=mac,
        mtu=mtu,
        stop_if_exist=tuple(name for name in parsed.text("stop-if-exist").split(",") if name),
        preexisting=parsed.true("preexisting"),
        debug=parsed.true("debug"),
        dhcp="none" if address_text or parsed.true("preexisting") else choice,
        address=address,
        prefix=prefix,
        gateway=gateway,
        link_mtu=link_mtu,
        resolv_conf=parsed.text("resolv-conf"),
        offload=parsed.true("offload"),
    )


def serve_once(options: Options) -> None:
    """Connect and forward until something fails. Closes everything, and raises the failure."""
    with doing(f"connect to {options.url}"):
        host = link.dial(options.url, offload.HEADERS if options.offload else link.NO_HEADERS)
    try:
        LOG.info("connected to %s", options.url)
        terms = offload.negotiate(host) if options.offload and host.requested else offload.PLAIN
        with doing(f"open the tap interface {options.iface}"):
            tap = offload.open_tap(options.iface, terms)
        resolv_conf = ResolvConf(options.resolv_conf if options.resolv_conf != AUTO else NONE, tap.name)
        try:
            _set_up(tap, options, resolv_conf)
            _forward(tap, host, terms, options)
        finally:
            resolv_conf.restore()
            if terms.vnet_len:
                end_offload(tap.fd)
            tap.close()
    finally:
        host.close()


def _set_up(tap: Tap, options: Options, resolv_conf: ResolvConf) -> None:
    if options.link_mtu:
        attempt(f"set the MTU {options.link_mtu}", lambda: tap.set_mtu(options.link_mtu))
    if options.preexisting:
        return
    if options.mac:
        attempt(f"set the MAC address {options.mac.hex(':')}", lambda: tap.set_mac(options.mac))
    with doing(f"bring {tap.name} up"):
        tap.set_up()
    if options.address:
        address = ip.text(options.address)
        with doing(f"give {tap.name} the address {address}/{options.prefix}"):
            netlink.set_address(tap.name, options.address, options.prefix)
        resolv_conf.set([options.gateway])
        gateway = ip.text(options.gateway)
        attempt(f"route by {gateway}", lambda: netlink.set_default_route(tap.name, options.gateway))


def _forward(tap: Tap, host: link.Link, terms: offload.Terms, options: Options) -> None:
    forwarder = Forwarder(
        tap,
        host,
        terms.framing,
        options.mtu + ETHERNET_BYTES + terms.vnet_len,
        options.debug,
        ETHERNET_BYTES + terms.vnet_len,
        terms.head,
    )
    watched: dict[int, Callable[[], None]] = {}
    keeper = dhcp.Keeper(dhcp.commands(options.dhcp, tap.name, options.resolv_conf), tap.name, watched)
    try:
        keeper.start()
        with doing(f"carry frames between {tap.name} and {options.url}"):
            forwarder.run(watched)
    finally:
        keeper.stop()


def _existing_interface(names: Sequence[str]) -> str:
    """The first of names that is an existing interface, or ""."""
    present = {name for _, name in socket.if_nameindex()}
    return next((name for name in names if name in present), "")


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    # The exception ends any blocking call. The finally clauses then close tap, link and DHCP client.
    # A second signal must not interrupt these.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(0)


def _version() -> str:
    try:
        return metadata.version("gvtap-pipeline")
    except metadata.PackageNotFoundError:
        return "unknown"


def _log_to_stderr(debug: bool) -> None:
    handler = LogQueue()
    handler.setFormatter(Formatter())
    LOG.addHandler(handler)
    LOG.setLevel(logging.DEBUG if debug else logging.INFO)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent. The exit status is 0 after a signal or -stop-if-exist, 2 for a bad command line."""
    usage = flags.usage(f"Usage of {PROGRAM}:", FLAGS)
    try:
        parsed = flags.parse(FLAGS, sys.argv[1:] if argv is None else argv)
        options = options_from(parsed)
    except flags.HelpRequestError:
        sys.stderr.write(usage)
        return 0
    except flags.FlagError as error:
        sys.stderr.write(f"{error}\n{usage}")
        return 2
    if parsed.true("version"):
        print(f"{PROGRAM} version {_version()}")
        return 0
    _log_to_stderr(options.debug)
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, _terminate)
    existing = _existing_interface(options.stop_if_exist)
    if existing:
        LOG.info("interface %s prevented this program to run (-stop-if-exist)", existing)
        return 0
    while True:
        try:
            serve_once(options)
        except offload.RefusedError as error:
            LOG.warning("%s; going on without", error)
            options = options._replace(offload=False)
        except (OSError, ValueError, StepError, link.LinkError, WireError) as error:
            LOG.error("%s", error)
        time.sleep(RETRY_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
