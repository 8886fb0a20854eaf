"""A name server for perf.neighbours: one name has an address for an hour, no other name exists.

    python -m perf.neighbours.name_server ADDRESS...     prints "ready", serves UDP port 53 of all of them

It answers each query at once and knows no more of DNS (RFC 1035 section 4) than that takes.
"""

from __future__ import annotations

import select
import socket
import sys
from struct import Struct

from perf.neighbours.frames import CACHED_NAME

PORT = 53
TTL = 3600  # seconds
_HEADER = Struct("!HHHHHH")
_RESPONSE = 0x8180  # recursion was desired and is available
_NXDOMAIN = 3
_ADDRESS = Struct("!HHHIH4B").pack(0xC00C, 1, 1, TTL, 4, 198, 51, 100, 7)
_CACHED_LABEL = CACHED_NAME.partition(".")[0].encode()


def answer(query: bytes) -> bytes:
    """The response to a query of one question; its additional records are left out."""
    ident = int.from_bytes(query[:2], "big")
    end = query.index(0, _HEADER.size) + 5
    question = query[_HEADER.size : end]
    if question[1:].startswith(_CACHED_LABEL):
        return _HEADER.pack(ident, _RESPONSE, 1, 1, 0, 0) + question + _ADDRESS
    return _HEADER.pack(ident, _RESPONSE | _NXDOMAIN, 1, 0, 0, 0) + question


def main(addresses: list[str]) -> int:
    sockets = []
    for address in addresses:
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((address, PORT))
        sockets.append(sock)
    print("ready", flush=True)
    while True:
        for sock in select.select(sockets, [], [])[0]:
            query, client = sock.recvfrom(2048)
            sock.sendto(answer(query), client)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
