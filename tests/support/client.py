"""The client program of guests in tests: python -m tests.support.client COMMAND ... prints one JSON object.

transfer ADDRESS PORT DOWN UP [COUNT]     COUNT connections at once, each with its own seed
connect ADDRESS PORT                      {"errno": name or "", "seconds": s}
udp ADDRESS PORT SIZE COUNT               {"sent": COUNT, "received": n}, one datagram at a time
segmented ADDRESS PORT SIZE COUNT         {"sent": COUNT, "received": n, "different": n}, sent in one piece
burst ADDRESS PORT SIZES ROUNDS           {"sent": n, "received": n, "as_sent": n, "astray": [text]},
                                          SIZES as 1400*30,0,7*5
late ADDRESS PORT SIZE                    sends, ends its half, then reads: {"answer": text} early ADDRESS
PORT SIZE                   reads to the end, then sends: {"answer": text, "sha256": of the sent} reset
ADDRESS PORT                        {"errno": name} after the server's reset stop ADDRESS PORT
connects, sends, and resets the connection itself resolve SERVER NAME TYPE udp|tcp          {"rcode": name,
"answers": [text], "truncated": bool} fetch ADDRESS PORT                        {"status": n, "sha256": of the
page} say ADDRESS PORT HEX PIECE PAUSE          sends the bytes in pieces: {"received": n, "errno": name}
datagrams ADDRESS PORT HEX...             sends each, and counts answers: {"received": n}
beside NOWHERE COUNT ADDRESS PORT         connects beside COUNT attempts to NOWHERE: {"pending": n, ...}
"""

import argparse
import contextlib
import errno
import hashlib
import http.client
import json
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import dns.flags
import dns.message
import dns.query
import dns.rcode

from pipeline.system import inet
from tests.support import traffic

TIMEOUT = 120.0
_UDP_SEGMENT = 103  # linux/udp.h


def _open(address: str, port: str, timeout: float = TIMEOUT) -> socket.socket:
    return socket.create_connection((address, int(port)), timeout)


def _datagrams(address: str) -> socket.socket:
    return socket.socket(inet.family_of(address), socket.SOCK_DGRAM)


def transfer(address: str, port: str, down: str, up: str, count: str = "1") -> dict[str, Any]:
    """Run COUNT transfers at once. Returns the errors of those that failed."""
    errors: list[str] = []

    def one(seed: int) -> None:
        try:
            with _open(address, port) as sock:
                traffic.transfer(sock, int(down), int(up), seed)
        except (OSError, EOFError, traffic.MismatchError) as error:
            errors.append(f"connection {seed}: {type(error).__name__}: {error}")

    began = time.monotonic()
    threads = [threading.Thread(target=one, args=(1000 + 2 * index,)) for index in range(int(count))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"good": int(count) - len(errors), "errors": errors[:10], "seconds": time.monotonic() - began}


def connect(address: str, port: str) -> dict[str, Any]:
    """Try to connect. Returns how that ended, and after how long."""
    began = time.monotonic()
    name = ""
    try:
        _open(address, port, 10.0).close()
    except TimeoutError:
        name = "ETIMEDOUT"
    except OSError as error:
        name = errno.errorcode[error.errno or 0]
    return {"errno": name, "seconds": time.monotonic() - began}


def udp(address: str, port: str, size: str, count: str) -> dict[str, Any]:
    """Send datagrams to an echo server, one at a time. Waits a second for a lost one."""
    received = 0
    with _datagrams(address) as sock:
        sock.settimeout(1.0)
        sock.connect((address, int(port)))
        for index in range(int(count)):
            payload = index.to_bytes(4, "big").ljust(int(size), b"%c" % (index % 251))[: int(size)]
            sock.send(payload)
            try:
                received += sock.recv(65535) == payload
            except TimeoutError:
                continue
    return {"sent": int(count), "received": received}


def segmented(address: str, port: str, size: str, count: str) -> dict[str, Any]:
    """Send COUNT datagrams with one call, for the kernel or card to cut. The last one is shorter."""
    length = int(size)
    sent = [index.to_bytes(4, "big").ljust(length, b"%c" % (index % 251)) for index in range(int(count))]
    sent[-1] = sent[-1][: length // 2]
    received = []
    with _datagrams(address) as sock:
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, length)
        sock.settimeout(2.0)
        sock.connect((address, int(port)))
        sock.send(b"".join(sent))
        while len(received) < len(sent):
            try:
                received.append(sock.recv(65535))
            except TimeoutError:
                break
    return {"sent": len(sent), "received": len(received), "different": len(set(received) - set(sent))}


def burst(address: str, port: str, sizes: str, rounds: str) -> dict[str, Any]:
    """Send a burst of datagrams of these sizes, then read the echoes. Returns how many are as sent."""
    lengths = []
    for part in sizes.split(","):
        size, _, times = part.partition("*")
        lengths += [int(size)] * int(times or 1)
    sent = received = as_sent = 0
    astray = []
    with _datagrams(address) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sock.settimeout(3.0)
        sock.connect((address, int(port)))
        for turn in range(int(rounds)):
            payloads = [
                random.Random(turn << 16 | index).randbytes(length) for index, length in enumerate(lengths)
            ]
            for payload in payloads:
                sock.send(payload)
            sent += len(payloads)
            for index, payload in enumerate(payloads):
                try:
                    got = sock.recv(65535)
                except TimeoutError:
                    break
                received += 1
                as_sent += got == payload
                if got != payload:
                    came = payloads.index(got) if got in payloads else -1
                    astray.append(f"round {turn}: {came} instead of {index}")
    return {"sent": sent, "received": received, "as_sent": as_sent, "astray": astray[:40]}


def late(address: str, port: str, size: str) -> dict[str, Any]:
    """End the guest's half first. The other half must still carry the answer."""
    with _open(address, port) as sock:
        for part in traffic.pattern(1, int(size)):
            sock.sendall(part)
        sock.shutdown(socket.SHUT_WR)
        return {"answer": traffic.receive_all(sock).decode()}


def early(address: str, port: str, size: str) -> dict[str, Any]:
    """Let the host end its half first. The guest's half must still carry data."""
    digest = hashlib.sha256()
    with _open(address, port) as sock:
        text = traffic.receive_all(sock).decode()
        for part in traffic.pattern(1, int(size)):
            digest.update(part)
            sock.sendall(part)
    return {"answer": text, "sha256": digest.hexdigest()}


def reset(address: str, port: str) -> dict[str, Any]:
    """Let the server reset the connection. Returns the error that the guest gets."""
    with _open(address, port, 10.0) as sock:
        sock.sendall(b"x")
        try:
            return {"errno": "", "data": sock.recv(1).decode()}
        except OSError as error:
            return {"errno": errno.errorcode.get(error.errno or 0, str(error))}


def stop(address: str, port: str) -> dict[str, Any]:
    """Reset the connection after some data."""
    sock = _open(address, port)
    sock.sendall(b"x" * 1000)
    time.sleep(0.2)
    _reset([sock])
    return {}


def resolve(server: str, name: str, kind: str, how: str) -> dict[str, Any]:
    """Send one DNS query over UDP or TCP."""
    ask = dns.query.tcp if how == "tcp" else dns.query.udp
    response = ask(dns.message.make_query(name, kind), server, timeout=10.0)
    answers = [record.to_text() for rrset in response.answer for record in rrset]
    return {
        "rcode": dns.rcode.to_text(response.rcode()),
        "answers": answers,
        "truncated": bool(response.flags & dns.flags.TC),
    }


def fetch(address: str, port: str) -> dict[str, Any]:
    """Fetch the page / over HTTP."""
    connection = http.client.HTTPConnection(address, int(port), timeout=10.0)
    connection.request("GET", "/")
    response = connection.getresponse()
    return {"status": response.status, "sha256": hashlib.sha256(response.read()).hexdigest()}


def fill(address: str, port: str, count: str) -> dict[str, Any]:
    """Send to hosts that do not read."""
    block = bytes(256 * 1024)
    socks = [_open(address, port) for _ in range(int(count))]
    sent = 0
    for _ in range(40):
        for sock in socks:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sent += sock.send(block)
        time.sleep(0.05)
    _hold({"sent": sent})
    _reset(socks)
    return {}


def starve(address: str, port: str, count: str) -> dict[str, Any]:
    """Open connections, and do not read from them."""
    socks = [_open(address, port) for _ in range(int(count))]
    for sock in socks:
        sock.sendall(json.dumps({"down": 1 << 30, "up": 0, "seed": 1}).encode() + b"\n")
    time.sleep(2)
    _hold({})
    _reset(socks)
    return {}


def say(address: str, port: str, text: str, piece: str = "65536", pause: str = "0") -> dict[str, Any]:
    """Send bytes in pieces, to a server that sends them back. Returns how many came, and the error."""
    data = bytes.fromhex(text)
    received = 0
    name = ""
    try:
        with _open(address, port, 20.0) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(0, len(data), int(piece)):
                sock.sendall(data[at : at + int(piece)])
                time.sleep(float(pause))
            while received < len(data) and (part := sock.recv(65536)):
                received += len(part)
    except TimeoutError:
        name = "timeout"
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, str(error))
    return {"received": received, "errno": name}


def datagrams(address: str, port: str, *texts: str) -> dict[str, Any]:
    """Send datagrams to a server that sends them back. Returns how many came."""
    received = 0
    with _datagrams(address) as sock, contextlib.suppress(OSError):
        sock.settimeout(2.0)
        sock.connect((address, int(port)))
        for text in texts:
            sock.send(bytes.fromhex(text))
        while received < len(texts):
            sock.recv(65536)
            received += 1
    return {"received": received}


def _reset(socks: list[socket.socket]) -> None:
    """Reset connections. After an orderly close the kernel would try for minutes to send their bytes."""
    for sock in socks:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


def _hold(outcome: dict[str, Any]) -> None:
    print(json.dumps(outcome), flush=True)
    sys.stdin.read()


def beside(nowhere: str, count: str, address: str, port: str) -> dict[str, Any]:
    """Connect while many other attempts get no answer."""
    pending = []
    for index in range(int(count)):
        sock = socket.socket()
        sock.setblocking(False)
        if sock.connect_ex((nowhere, 1000 + index)) == errno.EINPROGRESS:
            pending.append(sock)
    # After one and after three seconds the kernel repeats the SYNs for which the tap had no room.
    time.sleep(3.5)
    outcome = connect(address, port)
    for sock in pending:
        sock.close()
    return {"pending": len(pending), **outcome}


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    function.__name__: function
    for function in (
        transfer,
        connect,
        udp,
        segmented,
        burst,
        late,
        early,
        reset,
        stop,
        resolve,
        fetch,
        fill,
        starve,
        say,
        datagrams,
        beside,
    )
}


def main() -> None:
    """Run one command, and print its result."""
    parser = argparse.ArgumentParser(description="test client")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("words", nargs="*")
    arguments = parser.parse_args()
    json.dump(COMMANDS[arguments.command](*arguments.words), sys.stdout)


if __name__ == "__main__":
    main()
