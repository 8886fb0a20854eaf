"""Listening sockets from URLs: ``unix:///path``, ``tcp://host:port``, ``vsock://[cid]:port``.

Binds and listens, never connects. Nothing is unlinked to make room: a path that exists is
an error of the one who gave it.
"""

import os
import socket
from typing import Final
from urllib.parse import unquote, urlsplit

BACKLOG: Final = 128
SOCKET_MODE: Final = 0o600


class AddressError(Exception):
    """A URL that cannot be listened on; the text names it and says why."""


def listen(url: str) -> socket.socket:
    """A listening, non-blocking stream socket for url. AddressError says what is wrong."""
    parts = urlsplit(url)
    try:
        match parts.scheme:
            case "unix":
                return _listen_unix(unix_path(url))
            case "tcp":
                return _listen_tcp(parts.hostname or "", parts.port)
            case "vsock":
                return _listen_vsock(parts.netloc)
    except OSError as error:
        words = os.strerror(error.errno).lower() if error.errno else str(error)
        where = unix_path(url) if parts.scheme == "unix" else parts.netloc
        raise AddressError(f"cannot listen: listen {parts.scheme} {where}: bind: {words}") from error
    except ValueError as error:
        raise AddressError(f"cannot listen: {url}: {error}") from error
    raise AddressError(
        f"cannot listen: unexpected scheme {parts.scheme!r} in {url!r}: want unix, tcp or vsock"
    )


def unix_path(url: str) -> str:
    """The path of a unix:// URL; what stands before it, as in unix://relative/path, belongs to it."""
    parts = urlsplit(url)
    return unquote(parts.netloc + parts.path)


def _listen_unix(path: str) -> socket.socket:
    if not path:
        raise ValueError("the path is missing")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o777 & ~SOCKET_MODE)
    try:
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(mask)
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


def _listen_tcp(host: str, port: int | None) -> socket.socket:
    if port is None:
        raise ValueError("the port is missing")
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ValueError(f"no such host {host!r}") from error
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _listen_vsock(netloc: str) -> socket.socket:
    if not hasattr(socket, "AF_VSOCK"):
        raise ValueError("this system has no vsock sockets")
    cid_text, colon, port_text = netloc.rpartition(":")
    if not colon or not port_text.isdigit() or (cid_text and not cid_text.isdigit()):
        raise ValueError("want vsock://[cid]:port with numbers")
    cid = int(cid_text) if cid_text else socket.VMADDR_CID_ANY
    sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    try:
        sock.bind((cid, int(port_text)))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
