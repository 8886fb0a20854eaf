"""Tokens of the host's endpoints and what guests may ask for, as rules and over HTTP."""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from pipeline.config.model import GuestApi
from pipeline.control.forwarder import HOST, Forwarder, Owner
from pipeline.control.http.access import Access, AccessError, Has, TokenError, read_token
from pipeline.control.http.api import MAX_GUEST_BODY
from pipeline.control.http.stations import Stations
from pipeline.control.hub import Hub
from pipeline.events.kind import INFO
from tests.control.endpoint import Workers, endpoint

LOG = structlog.get_logger()
EXPOSE, UNEXPOSE, ALL = (f"/services/forwarder/{name}" for name in ("expose", "unexpose", "all"))


def refusals(**options: object) -> tuple[Access, list[str]]:
    counted: list[str] = []
    return Access(LOG, count=counted.append, **options), counted  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer wrong", "Basic s3cret", "s3cret", "Bearer s3cret x"]
)
def test_a_wrong_token_is_401_and_counted(header: str) -> None:
    access, counted = refusals(token="s3cret")
    with pytest.raises(AccessError) as caught:
        access.check_host(header, "@")
    assert caught.value.status == 401
    assert counted == ["api_request_refused_token"]


@pytest.mark.parametrize("header", ["Bearer s3cret", "bearer  s3cret "])
def test_the_right_token_passes(header: str) -> None:
    access, counted = refusals(token="s3cret")
    access.check_host(header, "@")
    assert not counted


@pytest.mark.parametrize(
    ("rules", "protocol", "local", "allowed"),
    [
        (GuestApi(), "tcp", "0.0.0.0:80", True),
        (GuestApi(), "unix", "/tmp/x", False),
        (GuestApi(unix=True), "unix", "/tmp/x", True),
        (GuestApi(unix=False), "tcp", ":80", True),
        (GuestApi(ports=((1024, 65535),)), "tcp", ":80", False),
        (GuestApi(ports=((1024, 65535),)), "udp", ":8080", True),
        (GuestApi(ports=((1024, 65535),)), "tcp", ":nfs", True),
        (GuestApi(ports=((1024, 65535),)), "tcp", ":http", False),
        (GuestApi(ports=((1024, 65535),)), "tcp", ":nothing", False),
        (GuestApi(addresses=("127.0.0.0/8",)), "tcp", "127.0.0.1:80", True),
        (GuestApi(addresses=("127.0.0.0/8",)), "tcp", "[::ffff:127.0.0.1]:80", True),
        (GuestApi(addresses=("127.0.0.0/8",)), "tcp", "10.0.0.1:80", False),
        (GuestApi(addresses=("127.0.0.0/8",)), "tcp", ":80", False),
        (GuestApi(addresses=("127.0.0.0/8",)), "tcp", "0.0.0.0:80", False),
        (GuestApi(addresses=("127.0.0.0/8",)), "tcp", "localhost:80", False),
        (GuestApi(addresses=("0.0.0.0/0",)), "udp4", "0.0.0.0:80", True),
        (GuestApi(addresses=("0.0.0.0/0",)), "tcp6", "[::]:80", False),
        (GuestApi(addresses=("::/0",)), "tcp6", "[::]:80", True),
        (GuestApi(addresses=("::/0",)), "tcp4", ":80", False),
        (GuestApi(addresses=("127.0.0.0/8",)), "tcp", "[::ffff:0.0.0.0]:80", False),
        (GuestApi(addresses=("127.0.0.0/8", "::1/128")), "udp6", "[::]:80", False),
        (GuestApi(addresses=("127.0.0.0/8",)), "tcp", "nonsense", False),
    ],
)
def test_guests_may_forward_what_the_setting_says(
    rules: GuestApi, protocol: str, local: str, allowed: bool
) -> None:
    access, counted = refusals(guests=rules)
    if allowed:
        access.check_guest_forward("192.168.127.2:1", protocol, local)
    else:
        with pytest.raises(AccessError, match="guests may"):
            access.check_guest_forward("192.168.127.2:1", protocol, local)
    assert counted == ([] if allowed else ["api_request_refused_guest"])


@pytest.mark.parametrize("host", ["", "0.0.0.0", "[::]", "[::ffff:0.0.0.0]"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_every_address_of_one_family_opens_no_wildcard_that_serves_the_other(
    protocol: str, host: str
) -> None:
    for networks in (("0.0.0.0/0",), ("::/0",), ("0.0.0.0/1", "128.0.0.0/1", "::/0")):
        access, _ = refusals(guests=GuestApi(addresses=networks))
        with pytest.raises(AccessError, match=f"for {protocol}, which is IPv4 and IPv6"):
            access.check_guest_forward("192.168.127.2:1", protocol, f"{host}:80")
    access, counted = refusals(guests=GuestApi(addresses=("0.0.0.0/0", "::/0")))
    access.check_guest_forward("192.168.127.2:1", protocol, f"{host}:80")
    assert not counted


def test_over_http_every_path_but_connect_asks_for_the_token(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, access=Access(LOG, token="s3cret")) as at:
            for path in ("/stats", "/openapi.json", ALL, "/services/dns/all", "/nothing"):
                status, text = await at.call("GET", path)
                assert (status, text) == (401, "unauthorized: this endpoint needs a bearer token\n"), path
            tunnel = b"GET /tunnel?ip=192.168.127.2&port=1 HTTP/1.1\r\nHost: \r\n"
            assert (await at.raw(tunnel + b"\r\n")).startswith(b"HTTP/1.1 401 Unauthorized\r\n")
            # The workers of this test keep what they were handed, so these do not end.
            reader, writer = await at.open()
            writer.write(tunnel + b"Authorization: Bearer s3cret\r\n\r\n")
            assert await reader.readexactly(2) == b"OK"
            writer.close()
            _, guest = await at.open()
            guest.write(b"POST /connect HTTP/1.1\r\nHost: \r\n\r\n")
            async with at.client.get(f"http://unix{ALL}", headers={"Authorization": "Bearer s3cret"}) as ok:
                assert ok.status == 200
            async with asyncio.timeout(10):
                while [op["op"] for _, op in at.workers.asked] != ["tunnel", "attach"]:
                    await asyncio.sleep(0.01)
            guest.close()

    asyncio.run(run())


def has_only(address: str) -> Has:
    """A guest with this address alone."""

    async def has(other: str) -> bool:
        return other == address

    return has


@pytest.mark.parametrize("client", ["@", ""])
def test_a_client_without_an_address_has_no_guest_that_is_its_own(client: str) -> None:
    access, _ = refusals(guests=GuestApi())
    with pytest.raises(AccessError, match="another address than their own"):
        asyncio.run(access.check_guest_expose(client, has_only(client), "tcp", ":80", "192.168.127.2:80"))


def test_over_http_a_guest_is_told_what_it_may_not(tmp_path: Path) -> None:
    async def run() -> None:
        access = Access(LOG, guests=GuestApi(unix=False, addresses=("127.0.0.0/8",)))
        async with endpoint(tmp_path, guest=True, access=access) as at:
            forward = {"local": ":80", "remote": "192.168.127.2:80"}
            refused = (403, "guests may not forward the host's address 0.0.0.0\n")
            assert await at.call("POST", EXPOSE, json.dumps(forward)) == refused
            assert await at.call("POST", UNEXPOSE, json.dumps(forward)) == refused
            sock = {"local": "/tmp/x", "remote": "tcp://192.168.127.2:80", "protocol": "unix"}
            answer = await at.call("POST", EXPOSE, json.dumps(sock))
            assert answer == (403, "guests may not forward unix sockets of the host\n")
            assert at.workers.asked == []
            forward["local"] = "127.0.0.1:80"
            assert await at.call("POST", EXPOSE, json.dumps(forward)) == (200, "")
        async with endpoint(tmp_path, guest=True, access=Access(LOG, guests=GuestApi(enabled=False))) as at:
            assert await at.call("GET", ALL) == (403, "guests may not use the port forwarder\n")

    asyncio.run(run())


def test_a_token_file_holds_the_token_with_or_without_newline(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("s3cret\n")
    assert read_token(str(path)) == "s3cret"
    assert read_token("") == ""


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff"])
def test_a_token_file_without_a_token_never_means_that_none_is_asked_for(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(TokenError, match=str(path)):
        read_token(str(path))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(TokenError, match="it is a FIFO"):
        read_token(str(path))


TO_ITSELF = "192.168.127.2:80"
ALL_RIGHTS = GuestApi(unix=True, ssh=True, others=True)
SSH = "ssh-tunnel://root@192.168.127.2:22/run/s?key=/k"


@pytest.mark.parametrize(
    ("rules", "protocol", "remote", "why"),
    [
        (GuestApi(), "tcp", TO_ITSELF, ""),
        (GuestApi(), "tcp", "192.168.127.3:80", "to another address than their own"),
        (GuestApi(others=True), "tcp", "192.168.127.3:80", ""),
        (GuestApi(), "unix", f"tcp://{TO_ITSELF}", "unix sockets"),
        (GuestApi(unix=True), "unix", f"tcp://{TO_ITSELF}", ""),
        (GuestApi(unix=True), "unix", "tcp://192.168.127.3:80", "to another address than their own"),
        (GuestApi(unix=True), "unix", SSH, "over ssh"),
        (GuestApi(ssh=True), "unix", SSH, "unix sockets"),
        (GuestApi(unix=True, ssh=True), "unix", SSH, ""),
        (GuestApi(unix=True, ssh=True), "unix", SSH.replace(".2:22", ".3"), "to another address"),
        # Texts with two addresses: that of the guest is not the one that counts.
        (GuestApi(unix=True), "unix", "tcp:192.168.127.3:80/://192.168.127.2", "to another address"),
        (GuestApi(unix=True), "unix", "tcp://192.168.127.3:80/@192.168.127.2:80", "to another address"),
        (
            GuestApi(unix=True, ssh=True),
            "unix",
            "ssh-tunnel://192.168.127.2@192.168.127.3/s?key=/k",
            "to anot",
        ),
        (
            GuestApi(unix=True, ssh=True),
            "unix",
            "ssh-tunnel://u@192.168.127.3/@192.168.127.2?key=/k",
            "to anot",
        ),
    ],
)
def test_a_guest_opens_forwards_to_itself_and_no_sockets_unless_it_may(
    rules: GuestApi, protocol: str, remote: str, why: str
) -> None:
    access, counted = refusals(guests=rules)
    has = has_only("192.168.127.2")
    local = "/run/x.sock" if protocol == "unix" else ":8080"
    if why:
        with pytest.raises(AccessError, match=why):
            asyncio.run(access.check_guest_expose("192.168.127.2:1", has, protocol, local, remote))
    else:
        asyncio.run(access.check_guest_expose("192.168.127.2:1", has, protocol, local, remote))
    assert counted == (["api_request_refused_guest"] if why else [])


@contextlib.asynccontextmanager
async def two_guests(
    tmp_path: Path, rules: GuestApi, known: Mapping[str, tuple[str, int]] | None = None
) -> AsyncIterator[Callable[..., Awaitable[int]]]:
    """Requests of guests by their addresses: the status of each answer.

    known: the MAC address and the number of the guest of each address that demux knows. Each connection is
    that of the guest of its address.
    """
    async with endpoint(tmp_path, guest=True, access=Access(LOG, guests=rules)) as at:
        found = {address: list(row) for address, row in (known or {}).items()}
        numbers = {address: number for address, (_, number) in (known or {}).items()}
        at.workers.answers["neighbors"] = lambda op: {
            "neighbors": {address: found[address] for address in op["addresses"] if address in found}
        }

        async def ask(guest: str, target: str, **wish: str) -> int:
            ours, theirs = socket.socketpair()
            client = f"[{guest}]:40000" if ":" in guest else f"{guest}:40000"
            at.front.serve(theirs, client, numbers.get(guest, 0))
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            body = json.dumps(wish).encode()
            head = f"POST {target} HTTP/1.1\r\nHost: g\r\nConnection: close\r\nContent-Length: {len(body)}"
            writer.write(head.encode() + b"\r\n\r\n" + body)
            answer = await reader.read()
            writer.close()
            return int(answer.split(b" ", 2)[1])

        yield ask


def test_a_guest_has_short_bodies_and_the_host_long_ones(tmp_path: Path) -> None:
    async def run(guest: bool, status: int) -> None:
        async with endpoint(tmp_path, guest=guest) as at:
            forward = {"local": ":80", "remote": "192.168.127.2:80", "more": [[]] * MAX_GUEST_BODY}
            assert (await at.call("POST", EXPOSE, json.dumps(forward)))[0] == status

    asyncio.run(run(True, 413))
    asyncio.run(run(False, 200))


def test_a_guest_cannot_close_the_forward_of_another_guest_or_of_the_host(tmp_path: Path) -> None:
    async def run() -> None:
        one, other = "192.168.127.2", "192.168.127.3"
        async with two_guests(tmp_path, GuestApi()) as ask:
            assert await ask(one, EXPOSE, local=":8080", remote=":80") == 200
            assert await ask(other, UNEXPOSE, local=":8080") == 403
            assert await ask(other, EXPOSE, local=":8081", remote=f"{one}:80") == 403
            assert await ask(one, UNEXPOSE, local=":8080") == 200
            assert await ask(one, UNEXPOSE, local=":8080") == 500, "proxy not found"
        async with two_guests(tmp_path, GuestApi(others=True)) as ask:
            assert await ask(other, EXPOSE, local=":8081", remote=f"{one}:80") == 200
            assert await ask(one, UNEXPOSE, local=":8081") == 200

    asyncio.run(run())


def test_a_guest_that_asks_over_one_family_has_the_address_of_the_other(tmp_path: Path) -> None:
    async def run() -> None:
        four, six, other = "192.168.127.2", "fd00::5054:ff:fe00:2", "192.168.127.3"
        known = {four: ("mac one", 1), six: ("mac one", 1), other: ("mac other", 2)}
        async with two_guests(tmp_path, GuestApi(), known) as ask:
            assert await ask(six, EXPOSE, local=":8080", remote=f"{four}:80") == 200
            assert await ask(four, EXPOSE, local=":8081", remote=f"[{six}]:80") == 200
            assert await ask(six, EXPOSE, local=":8082", remote=f"{other}:80") == 403
            assert await ask(other, UNEXPOSE, local=":8080") == 403
            assert await ask(four, UNEXPOSE, local=":8080") == 200
            assert await ask(six, UNEXPOSE, local=":8081") == 200

    asyncio.run(run())


@pytest.mark.parametrize(
    ("own", "target", "has"),
    [
        (("mac", 1), ("mac", 1), True),
        (("mac", 1), ("mac of the same process", 1), False),
        (("mac", 2), ("mac", 2), False),
        (None, ("mac", 1), False),
        (("mac", 1), None, False),
        (None, None, False),
    ],
)
def test_an_address_is_a_guests_only_while_that_of_its_connection_is(
    own: tuple[str, int] | None, target: tuple[str, int] | None, has: bool
) -> None:
    """Such as when DHCP has given the connection's address to another guest, before a request was read."""

    async def run() -> None:
        workers = Workers()
        pair = {"192.168.127.2": own, "192.168.127.9": target}
        workers.answers["neighbors"] = {"neighbors": {text: list(row) for text, row in pair.items() if row}}
        guest = Owner("192.168.127.2", 1)
        assert await Stations(workers).has(guest, "192.168.127.9") is has
        assert await Stations(workers).has(guest, "192.168.127.2")
        assert not await Stations(workers).has(guest, HOST)

    asyncio.run(run())


def test_demux_is_not_asked_for_a_guest_beyond_its_rate(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, guest=True) as at:
            body = json.dumps({"local": ":80", "remote": "192.168.127.3:80"})
            head = f"POST {EXPOSE} HTTP/1.1\r\nHost: g\r\nContent-Length: {len(body)}\r\n\r\n"
            ours, theirs = socket.socketpair()
            at.front.serve(theirs, "192.168.127.2:40000", 1)
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            statuses = []
            for _ in range(150):
                writer.write((head + body).encode())
                answer = await reader.readuntil(b"\r\n\r\n")
                length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
                statuses.append(int(answer.split(b" ", 2)[1]))
            writer.close()
            assert set(statuses) == {403, 429}
            asked = [op for _, op in at.workers.asked if op["op"] == "neighbors"]
            assert len(asked) == statuses.count(403)

    asyncio.run(run())


def test_a_guest_does_not_see_the_keys_and_passwords_of_other_forwards(tmp_path: Path) -> None:
    secret = "ssh-tunnel://u:s3cret@192.168.127.2/s?key=/k&passphrase=s3cret"

    async def run() -> None:
        async with endpoint(tmp_path, guest=True, access=Access(LOG, guests=ALL_RIGHTS)) as at:
            paths = {name: str(tmp_path / name) for name in ("host", "192.168.127.2")}
            for name, path in paths.items():
                await at.forwarder.expose("unix", path, secret, owner=Owner(name))
            ours, theirs = socket.socketpair()
            at.front.serve(theirs, "192.168.127.2:40000")
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            writer.write(f"GET {ALL} HTTP/1.0\r\n\r\n".encode())
            answer = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
            writer.close()
            remotes = {forward["local"]: forward["remote"] for forward in answer}
            hidden = "ssh-tunnel://192.168.127.2/s"
            assert remotes == {paths["host"]: hidden, paths["192.168.127.2"]: secret}
            for path in paths.values():
                await at.forwarder.unexpose("unix", path)

    asyncio.run(run())


def test_the_status_has_no_password_and_the_list_of_forwards_has(tmp_path: Path) -> None:
    secret = "ssh-tunnel://u:s3cret@192.168.127.2/s?key=/k&passphrase=s3cret"

    async def run() -> None:
        async with endpoint(tmp_path) as at:
            path = str(tmp_path / "s")
            await at.forwarder.expose("unix", path, secret)
            (shown,) = json.loads((await at.call("GET", "/status"))[1])["forwards"]
            assert shown == {"local": path, "remote": "ssh-tunnel://192.168.127.2/s", "protocol": "unix"}
            assert json.loads((await at.call("GET", ALL))[1])[0]["remote"] == secret
            await at.forwarder.unexpose("unix", path)

    asyncio.run(run())


def test_the_log_of_forwards_has_no_password(tmp_path: Path) -> None:
    async def run() -> None:
        lines: list[dict[str, Any]] = []
        log: Any = SimpleNamespace(
            log=lambda level, event, **details: lines.append({"level": level, "event": event, **details})
        )
        sockets: Any = SimpleNamespace(open=lambda *_: asyncio.sleep(0), close=lambda *_: asyncio.sleep(0))
        hub = Hub(lambda _watch: None, log)
        forwarder = Forwarder(Workers(), sockets, hub)
        await forwarder.expose("unix", "/x", "ssh-tunnel://u:s3cret@1.2.3.4/s?key=/k&passphrase=s3cret")
        await forwarder.unexpose("unix", "/x", owner=Owner("192.168.127.2"))
        opened = {"protocol": "unix", "local": "/x", "remote": "ssh-tunnel://1.2.3.4/s"}
        assert lines == [
            {"level": INFO, "event": "forward opened", "kind": "forward-opened", **opened, "operator": True},
            {
                "level": INFO,
                "event": "forward closed",
                "kind": "forward-closed",
                **opened,
                "guest_address": "192.168.127.2",
            },
        ]

    asyncio.run(run())
