"""The command line of gvtap-slirp4netns, which is slirp4netns', and the Config that it comes to.

An option has two dashes, so the names in the table begin with one: the parser of Go's flags, the man page and
the completions add the other. The addresses are slirp4netns': of the subnet, 2 is the gateway and means the
host, 3 is the name server, 15 is the first address by DHCP, and 100 is the address of --configure.
"""

import getopt
import ipaddress
from collections.abc import Sequence
from typing import Final, NamedTuple

from pipeline.config import merge, options
from pipeline.config.choices import API, AUTO, DNS, HOST_LOOPBACK, OFF, ON
from pipeline.config.model import Config, GuestApi, Settings
from pipeline.config.scalars import Scalar, interface, source_address
from pipeline.config.subnet import MAX_MTU, MIN_MTU
from pipeline.go import flags
from pipeline.go.flags import Flag
from pipeline.links import tap_url
from pipeline.wire import ethernet, ip

OPTIONS: Final = (
    Flag("-configure", "bool", "bring the interface and lo up, with address and default route"),
    Flag("-exit-fd", "int", "descriptor whose hang-up ends the program"),
    Flag("-ready-fd", "int", "descriptor that gets a 1 when the network works"),
    Flag("-mtu", "int", "MTU of the interface", default=1500),
    Flag("-enable-ipv6", "bool", "give the namespace IPv6, fd00::/64"),
    Flag("-api-socket", "string", "unix socket for add_hostfwd, list_hostfwd, remove_hostfwd", is_file=True),
    Flag("-cidr", "string", "subnet, of which 2 is the gateway, 3 the name server and 100 the namespace",
         default="10.0.2.0/24"),
    Flag("-disable-host-loopback", "bool", "the gateway's address does not lead to the host's loopback"),
    Flag("-netns-type", "string", "what names the network namespace: pid or path", default="pid",
         words=("pid", "path")),
    Flag("-userns-path", "string", "user namespace to enter; by default the owner of the network namespace",
         is_file=True),
    Flag("-enable-sandbox", "bool", "accepted, without effect"),
    Flag("-enable-seccomp", "bool", "accepted, without effect"),
    Flag("-outbound-addr", "string", "IPv4 address or interface of the host from which traffic leaves"),
    Flag("-outbound-addr6", "string", "interface of the host from which IPv6 traffic leaves"),
    Flag("-disable-dns", "bool", "no name server"),
    Flag("-macaddress", "string", "MAC address of the interface"),
    Flag("-target-type", "string", "netns; or bess: the path is of a packet socket for User Mode Linux",
         default="netns", words=("netns", "bess")),
    Flag("-help", "bool", "print the options and exit"),
    Flag("-version", "bool", "print the version and exit"),
)  # fmt: skip
SHORT: Final = {
    "c": "-configure",
    "e": "-exit-fd",
    "r": "-ready-fd",
    "m": "-mtu",
    "6": "-enable-ipv6",
    "a": "-api-socket",
    "h": "-help",
    "v": "-version",
}
PREFIX6: Final = "fd00::/64"

_LONG: Final = {flag.name: flag for flag in OPTIONS}
_GATEWAY, _NAME_SERVER, _FIRST_LEASE = 2, 3, 15
OWN: Final = 100
"""The address of --configure in the subnet, and of forwards that name no other."""
_PREFIX_LENGTHS: Final = (1, 25)
_LOOPBACK: Final = ip.parse_ipv4("127.0.0.1")


class OptionError(ValueError):
    """A wrong command line. The text says what is wrong."""


class Options(NamedTuple):
    """The checked command line. Descriptors are -1 and texts "" where they are not given."""

    target: str
    name: str
    configure: bool
    exit_fd: int
    ready_fd: int
    mtu: int
    ipv6: bool
    api_socket: str
    subnet: ipaddress.IPv4Network
    host_loopback: bool
    by_path: bool
    userns: str
    outbound_address: str
    outbound_interface: str
    dns: bool
    mac: bytes
    bess: bool

    @property
    def gateway(self) -> int:
        """The address that means the host."""
        return ip.of(self.subnet[_GATEWAY])

    @property
    def name_server(self) -> int:
        """The address of the name server."""
        return ip.of(self.subnet[_NAME_SERVER])

    @property
    def address(self) -> int:
        """The address of --configure, and of forwards that name no other."""
        return ip.of(self.subnet[OWN])


def parse(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split a command line as getopt_long() does: options by name, and other words. Raises OptionError."""
    short = "".join(letter + ("" if _LONG[name].kind == "bool" else ":") for letter, name in SHORT.items())
    long = [name[1:] + ("" if flag.kind == "bool" else "=") for name, flag in _LONG.items()]
    try:
        pairs, arguments = getopt.gnu_getopt(list(words), short, long)
    except getopt.GetoptError as error:
        raise OptionError(str(error)) from None
    given = {key[1:] if key.startswith("--") else SHORT[key[1]]: value for key, value in pairs}
    return given, arguments


def checked(given: dict[str, str], arguments: Sequence[str]) -> Options:
    """The options of a command line that parse() has split. Raises OptionError."""
    bess = _word(given, "-target-type") == "bess"
    by_path = _word(given, "-netns-type") == "path"
    if len(arguments) not in ((1,) if bess else (1, 2)):
        raise OptionError("want PID|PATH [TAPNAME]")
    target, name = arguments[0], arguments[1] if len(arguments) > 1 else "tap0"
    if not bess and not by_path and not (target.isascii() and target.isdigit() and int(target) > 0):
        raise OptionError(f"PID must be a positive integer, not {target!r}")
    if bess and {"-configure", "-netns-type", "-userns-path"} & given.keys():
        raise OptionError("--target-type=bess has neither --configure, --netns-type nor --userns-path")
    if "-macaddress" in given and "-configure" not in given:
        raise OptionError("--macaddress is only valid with --configure")
    address, device = _outbound(given)
    return Options(
        target=target,
        name=name,
        configure="-configure" in given,
        exit_fd=_number(given, "-exit-fd", 0, 1 << 20, -1),
        ready_fd=_number(given, "-ready-fd", 0, 1 << 20, -1),
        mtu=_number(given, "-mtu", MIN_MTU, MAX_MTU, 1500),
        ipv6="-enable-ipv6" in given,
        api_socket=given.get("-api-socket", ""),
        subnet=_subnet(given.get("-cidr", "10.0.2.0/24")),
        host_loopback="-disable-host-loopback" not in given,
        by_path=by_path,
        userns=given.get("-userns-path", ""),
        outbound_address=address,
        outbound_interface=device,
        dns="-disable-dns" not in given,
        mac=_mac(given.get("-macaddress", "")),
        bess=bess,
    )


def place(own: Options, mac: bytes) -> tap_url.TapPlace:
    """Where the tap is."""
    netns = own.target if own.by_path else f"/proc/{own.target}/ns/net"
    return tap_url.TapPlace(own.name, netns, own.userns, mac)


def config_of(own: Options, mac: bytes, link: str) -> Config:
    """The settings of the daemon. mac: of the tap. link: its place, as the daemon knows it.

    Raises ConfigError.
    """
    subnet = own.subnet
    gateway, name_server = own.gateway, own.name_server
    words = ["-subnet", str(subnet), "-mtu", str(own.mtu), "-ssh-port", "-1", "-placement", AUTO]
    words += ["-gatewayIP", ip.text(gateway), "-deviceIP", ip.text(own.address)]
    words += ["-hostIP", ip.text(name_server), "-ipv6", ON if own.ipv6 else OFF, "-nat64", OFF]
    words += ["-outbound-address", own.outbound_address, "-outbound-interface", own.outbound_interface]
    words += ["-listen-bess", f"unixpacket://{own.target}"] if own.bess else []
    config, _ = merge.build(flags.parse(options.START, words), words)
    off = (DNS,) * (not own.dns) + (HOST_LOOPBACK,) * (not own.host_loopback) + (API,)
    lease = own.address if own.configure else ip.of(subnet[_FIRST_LEASE])
    changed: Settings = {
        "host_ip": gateway,
        "nat": {gateway: _LOOPBACK},
        "gateway_virtual_ips": (),
        "dns_address": name_server,
        "dns_zones": (),
        "dhcp_static_leases": {lease: mac} if mac else {},
        "guest_api": GuestApi(enabled=False),
        "disable": off,
        "further": ((tap_url.PROTOCOL, link),) if link else (),
        "log_level": "warning",
    }
    if own.ipv6:
        first = ip.network(PREFIX6)[0]
        changed |= {"ipv6_prefix": PREFIX6, "ipv6_gateway": first | _GATEWAY, "ipv6_host": first | _GATEWAY}
        changed["ipv6_dns"] = first | _NAME_SERVER
    return Config.of(config.settings() | changed)


# --- single options ---------------------------------------------------------------------------


def _word(given: dict[str, str], name: str) -> str:
    allowed = _LONG[name].words
    word = given.get(name, str(_LONG[name].value_if_absent))
    if word not in allowed:
        raise OptionError(f"-{name} must be {' or '.join(allowed)}, not {word!r}")
    return word


def _number(given: dict[str, str], name: str, low: int, high: int, absent: int) -> int:
    text = given.get(name)
    if text is None:
        return absent
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise OptionError(f"-{name} must be a number from {low} to {high}, not {text!r}")
    return int(text)


def _subnet(text: str) -> ipaddress.IPv4Network:
    address, slash, length = text.partition("/")
    try:
        if not (slash and length.isascii() and length.isdigit()):
            raise ValueError
        network = ipaddress.IPv4Network((ipaddress.IPv4Address(address), int(length)), strict=False)
    except ValueError:
        raise OptionError(f"invalid CIDR: {text}") from None
    low, high = _PREFIX_LENGTHS
    if not low <= network.prefixlen <= high:
        raise OptionError(f"invalid CIDR: prefix length needs to be {low}-{high}, not {length}")
    if str(network.network_address) != address:
        raise OptionError(f"CIDR needs to be a network address like {network}, not like {text}")
    return network


def _outbound(given: dict[str, str]) -> tuple[str, str]:
    """The IPv4 address, and the interface, from which traffic leaves."""
    text, text6 = given.get("-outbound-addr", ""), given.get("-outbound-addr6", "")
    if ":" in text6:
        raise OptionError(f"--outbound-addr6 must be an interface, not {text6!r}")
    address, device = "", text6
    try:
        own = ipaddress.IPv4Address(text)
    except ValueError:
        if text and device and text != device:
            raise OptionError("--outbound-addr and --outbound-addr6 must name the same interface") from None
        device = text or device
    else:
        # A socket to the host's loopback has this source in any case, and no other socket may have it.
        address = "" if own.is_loopback else text
    try:
        return (source_address(Scalar(address, plain=True)) if address else ""), (
            interface(Scalar(device, plain=True)) if device else ""
        )
    except ValueError as error:
        raise OptionError(f"--outbound-addr {error}, not {text!r}") from None


def mac_of(own: Options, made_up: bytes) -> bytes:
    """The MAC address of the interface, for which DHCP has the lease. made_up: six bytes if there is none."""
    return own.mac or ethernet.local_mac(made_up)


def _mac(text: str) -> bytes:
    try:
        return ethernet.machine_mac_parse(text) if text else b""
    except ValueError:
        raise OptionError(f"--macaddress must be the MAC address of a machine, not {text!r}") from None
