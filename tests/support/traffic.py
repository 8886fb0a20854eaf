"""Transfers whose bytes are checked: the data that tests send, and the hashes that both ends compare.

The client first sends a line of JSON: {"down": n, "up": n, "seed": n}. Then n bytes of a seeded pattern go in
each direction at once. Each stream ends with the 64 hex digits of its SHA-256. The server ends with a line of
JSON that reports what it received. A byte that is lost, duplicated or moved changes a hash.
"""

import contextlib
import hashlib
import json
import random
import socket
import threading
from collections.abc import Iterator
from typing import Any

DIGEST_LEN = 64
_BLOCK = 64 * 1024
_COUNTER_LEN = 8


class MismatchError(Exception):
    """The digest in a stream does not match its bytes."""


def pattern(seed: int, size: int) -> Iterator[memoryview]:
    """size bytes in blocks. No two blocks are equal. A block is valid until the next one is made."""
    block = bytearray(random.Random(seed).randbytes(_BLOCK))
    view = memoryview(block)
    index = 0
    while size > 0:
        block[:_COUNTER_LEN] = index.to_bytes(_COUNTER_LEN, "big")
        part = view[: min(size, _BLOCK)]
        yield part
        size -= len(part)
        index += 1


def send_pattern(sock: socket.socket, seed: int, size: int) -> str:
    """Send size bytes of the pattern and their digest. Returns the digest."""
    digest = hashlib.sha256()
    for part in pattern(seed, size):
        digest.update(part)
        sock.sendall(part)
    sock.sendall(digest.hexdigest().encode())
    return digest.hexdigest()


def receive_pattern(sock: socket.socket, size: int) -> str:
    """Receive size bytes and a digest. Returns the digest. Raises MismatchError or EOFError."""
    digest = hashlib.sha256()
    view = memoryview(bytearray(256 * 1024))
    left = size
    while left:
        got = sock.recv_into(view[: min(left, len(view))])
        if got == 0:
            raise EOFError(f"stream ended {left} of {size} bytes early")
        digest.update(view[:got])
        left -= got
    claimed = receive_exactly(sock, DIGEST_LEN).decode()
    if claimed != digest.hexdigest():
        raise MismatchError(f"{size} bytes arrived as {digest.hexdigest()}, were sent as {claimed}")
    return claimed


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """Receive ``size`` bytes. EOFError if the stream ends before."""
    parts = bytearray()
    while len(parts) < size:
        part = sock.recv(size - len(parts))
        if not part:
            raise EOFError(f"stream ended after {len(parts)} of {size} bytes")
        parts += part
    return bytes(parts)


def receive_line(sock: socket.socket) -> bytes:
    """Receive one line and return it without its newline. Reads no further. EOFError if the stream ends."""
    line = bytearray()
    while (byte := receive_exactly(sock, 1)) != b"\n":
        line += byte
    return bytes(line)


def receive_all(sock: socket.socket) -> bytes:
    """Receive everything up to the end of the stream."""
    parts = []
    while part := sock.recv(256 * 1024):
        parts.append(part)
    return b"".join(parts)


def serve_transfer(sock: socket.socket) -> None:
    """Serve one connection."""
    request = json.loads(receive_line(sock))

    def send() -> None:
        # If the client has left, the other half of the connection shows it.
        with contextlib.suppress(OSError):
            send_pattern(sock, request["seed"] + 1, request["down"])

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        answer = {"received": request["up"], "sha256": receive_pattern(sock, request["up"])}
    except (MismatchError, EOFError) as error:
        answer = {"error": str(error)}
    sender.join()
    sock.sendall(json.dumps(answer).encode() + b"\n")


def transfer(sock: socket.socket, down: int, up: int, seed: int) -> dict[str, Any]:
    """Do the client's side. Returns {"down": digest, "up": digest}.

    Raises MismatchError, EOFError or OSError.
    """
    sock.sendall(json.dumps({"down": down, "up": up, "seed": seed}).encode() + b"\n")
    sent: list[str] = []

    def send() -> None:
        # If sending fails, the server's answer does not match the empty list.
        with contextlib.suppress(OSError):
            sent.append(send_pattern(sock, seed, up))
            sock.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    received = receive_pattern(sock, down)
    sender.join()
    answer = json.loads(receive_line(sock))
    if sock.recv(1):
        raise MismatchError("bytes after the server's last line")
    if not sent or answer.get("sha256") != sent[0]:
        raise MismatchError(f"the server answered {answer}, sent was {sent}")
    return {"down": received, "up": sent[0]}
