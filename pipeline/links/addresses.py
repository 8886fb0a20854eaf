"""Bound sockets for guests and API clients, from URLs. This module binds and listens. It never connects.

::

    unix:///path            a stream socket            unixpacket:///path      a packet socket (bess)
    tcp://host:port                                    unixgram:///path        a datagram socket (vfkit)
    tcp4://, tcp6://        clients of one address family. A wildcard of tcp:// accepts both families
    vsock://[cid]:port      for virtual machines on this host (Linux)
    vsock://any:port/dir    hyperkit's form: the unix socket dir/00000002.%08x of the port. On systems without
                            vsock sockets the environment variable VM_DIRECTORY may name the directory
    vsock://GUID            Hyper-V's form: the service with that id (Windows)

A socket file without a process that serves it is replaced (pipeline.system.socket_file). If the path is
anything else that exists, this is an error.
"""

import errno
import ipaddress
import os
import re
import socket
from typing import Final
from urllib.parse import unquote, urlsplit

from pipeline.system import inet, socket_file

BACKLOG: Final = 128
SOCKET_MODE: Final = 0o600

_UNIX_KINDS: Final = {
    "unix": socket.SOCK_STREAM,
    "unixpacket": socket.SOCK_SEQPACKET,
    "unixgram": socket.SOCK_DGRAM,
}
_NO_SUCH_KIND: Final = frozenset({errno.EPROTONOSUPPORT, errno.EPROTOTYPE, errno.ESOCKTNOSUPPORT})
_GUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NUMBER: Final = re.compile(r"[0-9]{1,10}", re.ASCII)
_MAX_U32: Final = 0xFFFFFFFF
_HOST_CID: Final = 2


class AddressError(Exception):
    """This program cannot listen on a URL. The text names the URL and the reason."""


def listen(url: str) -> socket.socket:
    """A listening, non-blocking socket: SOCK_SEQPACKET for unixpacket, else a stream. Raises AddressError."""
    return _bind(url, ("unix", "unixpacket", *inet.TCP, "vsock"))


def bind_datagram(url: str) -> socket.socket:
    """A bound, non-blocking datagram socket for a unixgram URL. Raises AddressError."""
    return _bind(url, ("unixgram",))


def _bind(url: str, schemes: tuple[str, ...]) -> socket.socket:
    parts = urlsplit(url)
    scheme = parts.scheme
    if scheme not in schemes:
        raise AddressError(
            f"cannot listen: unexpected scheme {scheme!r} in {url!r}: want {' or '.join(schemes)}"
        )
    try:
        if scheme in _UNIX_KINDS:
            return _bind_unix(unix_path(url), _UNIX_KINDS[scheme])
        if scheme in inet.TCP:
            return _listen_tcp(scheme, parts.hostname or "", parts.port)
        return _listen_vsock(parts.netloc, unquote(parts.path))
    except OSError as error:
        where = unix_path(url) if scheme in _UNIX_KINDS else parts.netloc
        advice = privileged(error, parts.port) if scheme in inet.TCP else ""
        raise AddressError(
            f"cannot listen: listen {scheme} {where}: bind: {words_of(error)}{advice}"
        ) from error
    except ValueError as error:
        raise AddressError(f"cannot listen: {url}: {error}") from error


def bound_url(sock: socket.socket, url: str) -> str:
    """The URL with the port that the system chose, where it asked for port 0."""
    parts = urlsplit(url)
    if parts.scheme not in inet.TCP or parts.port:
        return url
    bound = parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{sock.getsockname()[1]}", path="")
    return bound.geturl()


def is_open_to_others(sock: socket.socket) -> bool:
    """Whether other machines may reach a listening socket: one for TCP that is not on the loopback."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    return not ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback


def words_of(error: OSError) -> str:
    """The system's words for an error, in lower case as Go has them."""
    return os.strerror(error.errno).lower() if error.errno else str(error)


def privileged(error: OSError, port: int | None) -> str:
    """What helps where the right to bind a low port is missing, in brackets; "" for another error."""
    if error.errno != errno.EACCES or not port:
        return ""
    setting = f"net.ipv4.ip_unprivileged_port_start={port}"
    return f" (a port below 1024 needs CAP_NET_BIND_SERVICE, or sysctl {setting})"


def unix_path(url: str) -> str:
    """The path of a unix:// URL. In unix://relative/path the host part belongs to the path."""
    parts = urlsplit(url)
    return unquote(parts.netloc + parts.path)


def unix_text(name: str | bytes) -> str:
    """The address of a unix socket for logs and messages, "@" if it has none.

    The system may have a path that is not UTF-8, and an abstract name begins with NUL.
    """
    return os.fsencode(name).decode("utf-8", "replace").replace("\0", "@") or "@"


def socket_path(url: str) -> str:
    """The socket file that binding url creates, "" if it creates none."""
    parts = urlsplit(url)
    if parts.scheme in _UNIX_KINDS:
        return unix_path(url)
    return _hyperkit_path(parts.netloc, unquote(parts.path)) if parts.scheme == "vsock" else ""


def _bind_unix(path: str, kind: socket.SocketKind) -> socket.socket:
    if fault := socket_file.fault(path, relative=True):
        raise ValueError(fault)
    try:
        sock = socket.socket(socket.AF_UNIX, kind)
    except OSError as error:
        if kind != socket.SOCK_SEQPACKET or error.errno not in _NO_SUCH_KIND:
            raise
        raise ValueError("this system has no packet sockets (SOCK_SEQPACKET), which bess needs") from error
    try:
        socket_file.bind(sock, path, SOCKET_MODE)
        if kind != socket.SOCK_DGRAM:
            sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _listen_tcp(network: str, host: str, port: int | None) -> socket.socket:
    if port is None:
        raise ValueError("the port is missing")
    try:
        where = inet.places(network, host, port, _lookup(host))
    except inet.AddressError as error:
        raise ValueError(str(error)) from None
    return inet.bind(socket.SOCK_STREAM, where, BACKLOG)


def _lookup(host: str) -> list[str]:
    """The numeric addresses of a host. Blocks. Raises ValueError if there are none."""
    if inet.is_wildcard(host):
        return [host]
    try:
        rows = socket.getaddrinfo(inet.lookup_name(host), None, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise ValueError(f"no such host {host!r}") from error
    # getnameinfo() includes the zone of a link-local address. The plain address in the row lacks it.
    return [socket.getnameinfo(row[4], socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0] for row in rows]


def _listen_vsock(netloc: str, directory: str) -> socket.socket:
    if path := _hyperkit_path(netloc, directory):
        return _bind_unix(path, socket.SOCK_STREAM)
    # typeshed knows these families only on the systems that have them.
    if _GUID.fullmatch(netloc):
        family, protocol = getattr(socket, "AF_HYPERV", None), getattr(socket, "HV_PROTOCOL_RAW", 0)
        if family is None:
            raise ValueError("this system has no Hyper-V sockets")
        return _listen_machine(family, protocol, (getattr(socket, "HV_GUID_WILDCARD", ""), netloc))
    family = getattr(socket, "AF_VSOCK", None)
    if family is None:
        raise ValueError("this system has no vsock sockets")
    cid, port = _vsock_numbers(netloc)
    return _listen_machine(family, 0, (cid if cid >= 0 else getattr(socket, "VMADDR_CID_ANY", -1), port))


def _listen_machine(family: int, protocol: int, address: tuple[int | str, int | str]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _hyperkit_path(netloc: str, directory: str) -> str:
    """The file in which hyperkit looks for a port, "" if the URL is not in hyperkit's form (no directory)."""
    if not directory.strip("/") and not hasattr(socket, "AF_VSOCK"):
        directory = os.environ.get("VM_DIRECTORY", "")
    if not directory.strip("/") or _GUID.fullmatch(netloc):
        return ""
    return os.path.join(directory, f"{_HOST_CID:08x}.{_vsock_numbers(netloc, any_host=True)[1]:08x}")


def _vsock_numbers(netloc: str, any_host: bool = False) -> tuple[int, int]:
    """CID (-1: any) and port. Raises ValueError."""
    cid, colon, port = netloc.rpartition(":")
    good = colon and _NUMBER.fullmatch(port) and (any_host or not cid or _NUMBER.fullmatch(cid))
    if not good or int(port) > _MAX_U32:
        raise ValueError("want vsock://[cid]:port with numbers")
    return int(cid) if cid and not any_host else -1, int(port)
