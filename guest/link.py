"""Opens the byte stream from the guest to the host, by URL, and sends gvproxy's request on it.

    vsock://CID:PORT/path      AF_VSOCK. The request has this path. Without a path there is no request
    unix:///path/of/socket     a unix stream socket. The request always has the path /connect
    stdio:/program?flag=value  a child process started with -flag=value. No request; frames on its pipes

The host does not answer the request. The next byte in each direction belongs to a frame. Further header lines
ask for an extension of the protocol (:mod:`guest.offload`). This module does not know framing or taps.
"""

import os
import socket
import subprocess
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from pipeline.wire.framing import connect_request

DEFAULT_VSOCK_PORT: Final = 1024
REQUEST_HEADERS: Final = {"User-Agent": "Go-http-client/1.1"}
"""Makes the request equal to gvforwarder's, byte for byte."""
NO_HEADERS: Final[Mapping[str, str]] = {}
SOCKET_BUFFER_BYTES: Final = 1 << 20
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33


class LinkError(Exception):
    """The host cannot be reached, or the link has ended. The agent tries again."""


class Link:
    """A stream to the host: a descriptor to read and one to write, both non-blocking.

    For a socket they are the same. ``requested``: whether a request was sent.
    """

    def __init__(
        self,
        read_fd: int,
        write_fd: int,
        child: "subprocess.Popen[bytes] | None" = None,
        requested: bool = False,
    ) -> None:
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        self.requested = requested
        self.read_fd = read_fd
        self.write_fd = write_fd
        self._child = child

    def close(self) -> None:
        """Close the descriptors. Kill the child process, if there is one, and wait for it."""
        for fd in {self.read_fd, self.write_fd}:
            os.close(fd)
        if self._child is not None:
            self._child.kill()
            self._child.wait()


def check(url: str) -> None:
    """Raise LinkError, which says what is allowed, if the URL cannot name a host."""
    parts = urlsplit(url)
    if parts.scheme == "vsock":
        _vsock_address(parts.netloc)
    elif parts.scheme not in ("unix", "stdio") or not parts.path:
        raise LinkError("it must be vsock://CID:PORT/connect, unix:///path or stdio:/program")


def dial(url: str, headers: Mapping[str, str] = NO_HEADERS) -> Link:
    """Open the link that url names, and send the request. headers: further header lines.

    Raises LinkError or OSError.
    """
    parts = urlsplit(url)
    if parts.scheme == "vsock":
        cid, port = _vsock_address(parts.netloc)
        # Both are numbers, so there is no name lookup.
        return _dial_socket(socket.socket(socket.AF_VSOCK, _STREAM), (cid, port), parts.path, headers)
    if parts.scheme == "unix":
        return _dial_socket(socket.socket(socket.AF_UNIX, _STREAM), unquote(parts.path), "/connect", headers)
    if parts.scheme == "stdio":
        return _start_child(unquote(parts.path), parts.query)
    raise LinkError("cannot connect to host: unexpected scheme")


_STREAM: Final = socket.SOCK_STREAM | socket.SOCK_CLOEXEC


def _vsock_address(netloc: str) -> tuple[int, int]:
    cid_text, colon, port_text = netloc.partition(":")
    try:
        cid = int(cid_text) if cid_text else socket.VMADDR_CID_HOST
        port = int(port_text) if colon else DEFAULT_VSOCK_PORT
    except ValueError:
        raise LinkError(f"bad vsock address {netloc!r}: it must be CID:PORT, two numbers") from None
    return cid, port


def _dial_socket(
    sock: socket.socket, address: tuple[int, int] | str, path: str, headers: Mapping[str, str]
) -> Link:
    with sock:
        sock.connect(address)
        for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
            try:
                sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
            except OSError:
                # Without CAP_NET_ADMIN the kernel's default size stays.
                break
        if path:
            sock.sendall(connect_request(path, headers={**REQUEST_HEADERS, **headers}))
        fd = sock.detach()
    return Link(fd, fd, requested=bool(path))


def _start_child(program: str, query: str) -> Link:
    arguments = [f"-{name}={value}" for name, value in parse_qsl(query, keep_blank_values=True)]
    child_in, write_fd = os.pipe()
    read_fd, child_out = os.pipe()
    try:
        # A process group of its own, so that ctrl-C reaches only the agent, which then ends the child.
        child = subprocess.Popen([program, *arguments], stdin=child_in, stdout=child_out, process_group=0)
    except OSError:
        os.close(write_fd)
        os.close(read_fd)
        raise
    finally:
        os.close(child_in)
        os.close(child_out)
    return Link(read_fd, write_fd, child)
