"""Where a forward over ssh begins and ends: the socket on the host, and the user and socket in the guest.

Neither the texts of a request nor their errors need the ssh library (forwards.py).
"""

import ipaddress
from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.go.flags import quote
from pipeline.go.text import GoError, parse_uint
from pipeline.links.addresses import unix_path
from pipeline.system import socket_file

SCHEME: Final = "ssh-tunnel"
PORT: Final = 22


class SshError(Exception):
    """The guest's socket cannot be reached; the text says why."""


class SocketError(Exception):
    """The socket cannot be made on the host; the text says why."""


class Destination(NamedTuple):
    """A unix socket in a guest and how to get there. key is a path; secure: check the host key, if known."""

    user: str
    ip: str
    path: str
    key: str
    port: int = PORT
    passphrase: str = ""
    password: str = ""
    secure: bool = False


def parse(remote: str) -> Destination:
    """``ssh-tunnel://user[:password]@ip[:22]/socket?key=path[&passphrase=text][&secure=true]``.

    Raises GoError with the API's words.
    """
    try:
        parts = urlsplit(remote)
        port_text = parts.netloc.rpartition("@")[2].partition(":")[2]
        port = parse_uint(port_text, 16) if port_text else PORT
        host = str(ipaddress.IPv4Address(parts.hostname or ""))
    except GoError:
        raise
    except ValueError:
        where = remote.partition("://")[2].partition("/")[0]
        raise GoError(f"invalid remote addr: {where} has no IPv4 address") from None
    query = parse_qs(parts.query, keep_blank_values=True)
    first = {name: values[0] for name, values in query.items()}
    if not first.get("key"):
        raise GoError("key not provided for unix-ssh connection")
    if fault := socket_file.fault(first["key"]):
        raise GoError(f"key {quote(first['key'])} for unix-ssh connection: {fault}")
    path = unquote(parts.path)
    if path in ("", "/"):
        raise GoError("remote uri must contain a path to a socket file")
    return Destination(
        unquote(parts.username or ""),
        host,
        path,
        first["key"],
        port,
        first.get("passphrase", ""),
        unquote(parts.password or ""),
        first.get("secure", "") == "true",
    )


def host_path(text: str) -> str:
    """The path of a forward's socket, which may be written as a URL. Raises SocketError."""
    scheme, colon, _ = text.partition("://")
    if not colon:
        return text
    if scheme == "npipe":
        raise SocketError("named pipes are not supported by this platform")
    try:
        path = unix_path(text) if scheme == "unix" else ""
    except ValueError as error:
        raise SocketError(f"cannot listen: {text}: {error}") from None
    if not path:
        raise SocketError(f"unknown scheme of a forwarded socket: {text}")
    return path
