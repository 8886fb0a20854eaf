"""Keeps many connections open. perf.flows runs one end in the guest and one on the host.

python -m perf.holder accept ADDRESS         prints its port; accepts, sends one byte as a greeting, keeps all
                                             connections open
python -m perf.holder open HOST PORT         for each line "N" on standard input: opens connections until N
                                             are open, prints one JSON object: open, seconds, per_second
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

AT_ONCE = 64  # connections being opened
PATIENCE = 60.0  # seconds without any progress


def accept(address: str) -> None:
    """Accept connections, and keep them open until the end of the process."""
    listener = socket.create_server((address, 0), backlog=4096)
    print(listener.getsockname()[1], flush=True)
    kept = []
    while True:
        link, _ = listener.accept()
        link.send(b"x")
        kept.append(link)


def open_until(address: tuple[str, int], kept: list[socket.socket], count: int) -> dict[str, float]:
    """Open connections, AT_ONCE at a time, until `kept` has `count`. Each must have got its greeting."""
    begin = time.monotonic()
    before = len(kept)
    opening: dict[int, socket.socket] = {}
    poll = select.poll()
    while len(kept) < count:
        while len(opening) < AT_ONCE and len(kept) + len(opening) < count:
            link = socket.socket()
            link.setblocking(False)
            link.connect_ex(address)
            opening[link.fileno()] = link
            poll.register(link, select.POLLIN)
        ready = poll.poll(PATIENCE * 1000)
        if not ready:
            raise SystemExit(f"{len(kept)} connections are open, and no other opened in {PATIENCE:.0f} s")
        for descriptor, _ in ready:
            link = opening.pop(descriptor)
            poll.unregister(link)
            if link.recv(1) != b"x":
                raise SystemExit(f"connection {len(kept)} was closed")
            kept.append(link)
    seconds = time.monotonic() - begin
    return {"open": len(kept), "seconds": seconds, "per_second": (len(kept) - before) / max(seconds, 1e-9)}


def main(argv: list[str]) -> int:
    if argv[0] == "accept":
        accept(argv[1])
    kept: list[socket.socket] = []
    for line in sys.stdin:
        try:
            print(json.dumps(open_until((argv[1], int(argv[2])), kept, int(line))), flush=True)
        except OSError as problem:
            raise SystemExit(f"connection {len(kept)}: {problem}") from None
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
