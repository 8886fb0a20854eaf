"""Reads the texts of a request for a forward, and refuses them in gvproxy's words."""

import errno
import ipaddress

from pipeline.config.model import PortForward
from pipeline.control.lookup import port_number
from pipeline.control.ssh import destination as ssh
from pipeline.control.ssh.destination import Destination
from pipeline.go.text import GoError, parse_uint, split_host_port, split_scheme
from pipeline.links import addresses
from pipeline.system import inet
from pipeline.wire import ip


class ForwardError(Exception):
    """A forward that cannot be opened or closed. The text is for the client."""

    advice = ""
    """What helps, in brackets. It is not part of the text, which is the original's."""


def resolve_remote(remote: str, client: str) -> str:
    """The remote of a tcp or udp forward: an empty host means the client's own. Raises GoError."""
    host, _ = split_host_port(remote)
    if host:
        return remote
    own, _ = split_host_port(client)
    return f"[{own}]{remote}" if ":" in own else own + remote


def leads_to(protocol: str, remote: str) -> tuple[str, bool]:
    """The address of the guest that a forward leads to, and whether over ssh. Raises ForwardError."""
    over_ssh = destination(protocol, remote)
    if over_ssh is not None:
        return over_ssh.ip, True
    return ip.host_of(target(protocol, remote).removeprefix("tcp://")), False


def without_secrets(remote: str) -> str:
    """A remote for the log and for guests. The URL of a forward over ssh may have a password."""
    scheme, found, rest = remote.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}" if found else remote


def with_port_number(protocol: str, local: str) -> str:
    """The local address with a number for its service's name. The worker refuses unknown names."""
    host, colon, port = local.rpartition(":")
    if not protocol.startswith(("tcp", "udp")) or port.isdigit():
        return local
    number = port_number(protocol, port)
    return local if number is None else f"{host}{colon}{number}"


def is_any_port(local: str) -> bool:
    """Whether the port of a local address is 0, so that the system chooses one."""
    port = local.rpartition(":")[2]
    return port.isascii() and port.isdigit() and not port.strip("0")


def is_number(host: str) -> bool:
    """Whether a host is an address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def destination(protocol: str, remote: str) -> Destination | None:
    """The destination of a forward over ssh, None for any other forward. Raises ForwardError."""
    if protocol != "unix" or not remote.startswith(f"{ssh.SCHEME}://"):
        return None
    try:
        return ssh.parse(remote)
    except GoError as error:
        raise ForwardError(str(error)) from None


def target(protocol: str, remote: str) -> str:
    """The remote as the listen worker takes it: ``ip:port`` or ``[ip]:port``, for unix after ``tcp://``.

    Raises ForwardError.
    """
    match protocol:
        case "tcp" | "tcp4" | "tcp6" | "udp" | "udp4" | "udp6":
            return _guest_address(protocol, remote)
        case "unix":
            return f"tcp://{_unix_target(remote)}"
        case "npipe":
            raise ForwardError("named pipes are not supported by this platform")
    raise ForwardError(f"unknown protocol {protocol}")


def proxy_text(forward: PortForward) -> str:
    """``proxy_protocol`` of a forward of the configuration."""
    return f"v{forward.proxy_protocol}" if forward.proxy_protocol else ""


def proxy_version(protocol: str, text: str) -> int:
    """The version that ``proxy_protocol`` asks for, 0 for none. Raises ForwardError."""
    if text not in ("", "v1", "v2"):
        raise ForwardError(f"unknown proxy_protocol {text} (allowed: v1, v2)")
    if text and protocol in inet.UDP:
        raise ForwardError("proxy_protocol is for connections, not for udp")
    return int(text[1:]) if text else 0


def _unix_target(remote: str) -> str:
    try:
        scheme, rest = split_scheme(remote)
    except GoError as error:
        raise ForwardError(f"failed to parse remote uri :{remote} : {error}") from None
    if scheme != "tcp":
        raise ForwardError(f"remote protocol for unix forwarder is not implemented: {scheme}")
    return _guest_address(scheme, rest.removeprefix("//").partition("/")[0])


def _guest_address(protocol: str, text: str) -> str:
    host, colon, port_text = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or (":" in host and not bracketed):
        raise ForwardError("invalid remote addr")
    # The original takes only numbers here, and its error texts are about them.
    named = None if port_text.isdigit() else port_number(protocol, port_text)
    try:
        port = parse_uint(port_text, 16) if named is None else named
    except GoError as error:
        raise ForwardError(str(error)) from None
    try:
        found = ipaddress.IPv6Address(host[1:-1]) if bracketed else ipaddress.IPv4Address(host)
    except ValueError:
        family = "IPv6" if bracketed else "IPv4"
        raise ForwardError(f"invalid remote addr: {host} is not an {family} address") from None
    return ip.host_port(ip.of(found), port)


def advice(forward: PortForward, error: str, guest: str) -> str:
    """What helps against a configured forward that cannot be opened, in brackets, or an empty text.

    guest: the address to which the forward of ssh leads.
    """
    port = forward.local.rpartition(":")[2]
    if error.endswith("address already in use") and forward.remote == f"{guest}:22":
        return " (-ssh-port sets another port, -1 none; or it is of -forward, or a key of stack.forwards)"
    if error.endswith("permission denied") and port.isdigit() and int(port) < 1024:
        return addresses.privileged(PermissionError(errno.EACCES, ""), int(port))
    return ""
