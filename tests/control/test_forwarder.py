"""The list of forwards: order, duplicates, and the words of refusals."""

import asyncio
import socket
import threading
import time
from typing import Any, cast

import pytest

from pipeline.config.limits import Limits
from pipeline.control import forward_texts
from pipeline.control.forward_shares import ForwardShares
from pipeline.control.forward_texts import ForwardError
from pipeline.control.forwarder import THE_HOST, Forward, Forwarder, Owner, TooManyError
from pipeline.control.ssh.destination import Destination, SocketError
from pipeline.control.ssh.forwards import SocketForwards
from pipeline.control.workers import RefusedError, RequestError
from pipeline.go.text import GoError
from tests.control.endpoint import Workers, refuse


def test_forwards_are_sorted_by_local_address_then_protocol() -> None:
    async def run() -> None:
        made = Forwarder(Workers())
        for protocol, local in (("udp", ":2"), ("tcp", ":3"), ("tcp", ":2"), ("tcp", ":1")):
            await made.expose(protocol, local, "1.2.3.4:5")
        assert [(f.local, f.protocol) for f in made.all()] == [
            (":1", "tcp"),
            (":2", "tcp"),
            (":2", "udp"),
            (":3", "tcp"),
        ]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("protocol", "remote", "sent"),
    [
        ("tcp", "192.168.127.2:22", "192.168.127.2:22"),
        ("udp", "192.168.127.2:53", "192.168.127.2:53"),
        ("unix", "tcp://192.168.127.2:8080", "tcp://192.168.127.2:8080"),
        ("unix", "TCP://192.168.127.2:8080/ignored", "tcp://192.168.127.2:8080"),
    ],
)
def test_the_listen_worker_is_asked_and_the_list_echoes(protocol: str, remote: str, sent: str) -> None:
    async def run() -> None:
        workers = Workers()
        made = Forwarder(workers)
        await made.expose(protocol, "/l", remote)
        assert workers.asked == [
            ("listen", {"op": "expose", "protocol": protocol, "local": "/l", "remote": sent})
        ]
        assert made.all()[0].remote == remote
        await made.unexpose(protocol, "/l")
        assert workers.asked[1] == ("listen", {"op": "unexpose", "protocol": protocol, "local": "/l"})
        assert made.all() == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("protocol", "remote", "words"),
    [
        ("tcp", "1.2.3.4", "invalid remote addr"),
        ("tcp", "fd00::2:80", "invalid remote addr"),
        ("tcp", "[fd00::2]", "invalid remote addr"),
        ("tcp", "[1.2.3.4]:80", "invalid remote addr: [1.2.3.4] is not an IPv6 address"),
        ("udp", "1.2.3.4:x", 'strconv.ParseUint: parsing "x": invalid syntax'),
        ("udp", "1.2.3.4:65536", 'strconv.ParseUint: parsing "65536": value out of range'),
        ("tcp", "example.com:80", "invalid remote addr: example.com is not an IPv4 address"),
        ("TCP", "1.2.3.4:5", "unknown protocol TCP"),
        ("tcp5", "1.2.3.4:5", "unknown protocol tcp5"),
        ("udp6", "1.2.3.4", "invalid remote addr"),
        ("sctp", "1.2.3.4:5", "unknown protocol sctp"),
        ("npipe", "x", "named pipes are not supported by this platform"),
        ("unix", ":80", 'failed to parse remote uri ::80 : parse ":80": missing protocol scheme'),
        ("unix", "udp://1.2.3.4:5", "remote protocol for unix forwarder is not implemented: udp"),
        ("unix", "tcp://1.2.3.4", "invalid remote addr"),
        ("unix", "tcp://1.2.3.4:y", 'strconv.ParseUint: parsing "y": invalid syntax'),
    ],
)
def test_bad_remotes_are_refused_without_asking_anybody(protocol: str, remote: str, words: str) -> None:
    async def run() -> None:
        workers = Workers()
        with pytest.raises(ForwardError) as error:
            await Forwarder(workers).expose(protocol, "127.0.0.1:1", remote)
        assert str(error.value) == words
        assert workers.asked == []

    asyncio.run(run())


def test_the_workers_words_are_kept_and_nothing_is_listed() -> None:
    async def run() -> None:
        workers = Workers()
        workers.answers["expose"] = refuse("listen tcp 0.0.0.0:22: bind: address already in use")
        made = Forwarder(workers)
        with pytest.raises(ForwardError, match=r"^listen tcp 0.0.0.0:22: bind: address already in use$"):
            await made.expose("tcp", "0.0.0.0:22", "1.2.3.4:5")
        assert made.all() == []
        del workers.answers["expose"]
        await made.expose("tcp", "0.0.0.0:22", "1.2.3.4:5")
        workers.answers["unexpose"] = refuse("no")
        with pytest.raises(ForwardError, match=r"^no$"):
            await made.unexpose("tcp", "0.0.0.0:22")
        assert len(made.all()) == 1

    asyncio.run(run())


def test_a_port_that_the_system_chooses_is_listed_and_closes_the_forward() -> None:
    async def run() -> None:
        workers = Workers()
        made = Forwarder(workers)
        for port in (40001, 40002):
            workers.answers["expose"] = {"ok": True, "port": port}
            opened = await made.expose("udp", ":0", "1.2.3.4:5")
            assert (opened.local, opened.asked) == (f":{port}", ":0")
        assert [forward.local for forward in made.all()] == [":40001", ":40002"]
        names = [op["name"] for _, op in workers.asked]
        assert len(set(names)) == 2
        with pytest.raises(ForwardError, match=r"^proxy not found$"):
            await made.unexpose("udp", ":0")
        await made.unexpose("udp", ":40001")
        assert workers.asked[-1][1] == {"op": "unexpose", "protocol": "udp", "local": names[0]}
        with pytest.raises(ForwardError, match=r"^proxy not found$"):
            await made.unexpose("udp", ":0", owner=Owner("192.168.127.9", 9))
        await made.unexpose("udp", ":0")
        assert workers.asked[-1][1]["local"] == names[1]
        assert made.all() == []

    asyncio.run(run())


def test_a_forward_whose_answer_is_late_is_closed_by_its_name() -> None:
    async def run() -> None:
        workers = Workers()
        workers.answers["expose"] = lambda _op: RequestError("worker listen did not answer")
        with pytest.raises(RequestError):
            await Forwarder(workers).expose("tcp", "127.0.0.1:0", "1.2.3.4:5")
        (_, opened), (_, closed) = workers.asked
        assert closed == {"op": "unexpose", "protocol": "tcp", "local": opened["name"]}

    asyncio.run(run())


@pytest.mark.parametrize(("protocol", "local"), [("unix", "/tmp/a:0"), ("tcp", ":10"), ("tcp", ":")])
def test_other_local_addresses_have_no_name_of_their_own(protocol: str, local: str) -> None:
    async def run() -> None:
        workers = Workers()
        remote = "tcp://1.2.3.4:5" if protocol == "unix" else "1.2.3.4:5"
        assert (await Forwarder(workers).expose(protocol, local, remote)).asked == ""
        assert "name" not in workers.asked[0][1]

    asyncio.run(run())


def test_a_silent_worker_is_not_the_clients_fault() -> None:
    async def run() -> None:
        workers = Workers()
        workers.answers["expose"] = lambda _op: RequestError("worker listen is gone")
        with pytest.raises(RequestError) as error:
            await Forwarder(workers).expose("tcp", ":1", "1.2.3.4:5")
        assert not isinstance(error.value, RefusedError)

    asyncio.run(run())


def test_a_forward_whose_answer_is_missing_does_not_stay_open() -> None:
    """The worker opens it after its time: it would have a port that nobody knows of and can close."""

    async def run() -> None:
        workers = Workers()
        workers.answers["expose"] = lambda _op: RequestError("worker listen did not answer expose within 5 s")
        made = Forwarder(workers)
        with pytest.raises(RequestError, match="did not answer expose"):
            await made.expose("tcp", ":1", "1.2.3.4:5")
        assert workers.asked[-1] == ("listen", {"op": "unexpose", "protocol": "tcp", "local": ":1"})
        assert made.all() == []
        # Where there is nothing to close the first error is still the one to tell.
        workers.answers["unexpose"] = refuse("proxy not found")
        with pytest.raises(RequestError, match="did not answer expose"):
            await made.expose("tcp", ":1", "1.2.3.4:5")
        del workers.answers["expose"]
        await made.expose("tcp", ":1", "1.2.3.4:5")
        assert len(made.all()) == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("protocol", "local", "found"),
    [
        ("tcp", "localhost:1", ["::1", "127.0.0.1"]),
        ("udp", "[localhost]:1", ["::1", "127.0.0.1"]),
        ("tcp", "nowhere.example:1", []),
        ("tcp", "127.0.0.1:1", None),
        ("tcp", "[fe80::1%eth0]:1", None),
        ("udp", ":1", None),
        ("tcp", "x", None),
        ("tcp", "[localhost:1", None),
        ("unix", "localhost:1", None),
    ],
)
def test_a_name_is_looked_up_before_the_worker_gets_it(
    protocol: str, local: str, found: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lookup(host: bytes, *_: object, **__: object) -> list[Any]:
        if host != b"localhost":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(0, 0, 0, "", ("::1", 0, 0, 0)), (0, 0, 0, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)

    async def run() -> None:
        workers = Workers()
        remote = "tcp://1.2.3.4:5" if protocol == "unix" else "1.2.3.4:5"
        await Forwarder(workers).expose(protocol, local, remote)
        assert workers.asked[0][1].get("found") == found

    asyncio.run(run())


def test_names_that_guests_ask_for_do_not_hold_up_the_hosts_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def lookup(host: bytes, *_: object, **__: object) -> list[Any]:
        if host == b"silent.example":
            over.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)

    async def run() -> None:
        made = Forwarder(Workers())
        waiting = [
            asyncio.create_task(
                made.expose("tcp", f"silent.example:{port}", "1.2.3.4:5", owner=Owner("1.2.3.4", 1))
            )
            for port in range(1, 20)
        ]
        await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            await made.expose("tcp", "localhost:80", "1.2.3.4:5")
        assert not any(task.done() for task in waiting)
        over.set()
        await asyncio.gather(*waiting)

    asyncio.run(run())


def test_a_name_server_that_is_silent_delays_only_who_asked_it(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def lookup(*_: object, **__: object) -> list[Any]:
        over.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr("pipeline.control.lookup.TIMEOUT", 0.2)

    async def run() -> None:
        workers = Workers()
        made = Forwarder(workers)
        slow = asyncio.create_task(made.expose("tcp", "slow.example:1", "1.2.3.4:5"))
        await asyncio.sleep(0)
        await made.expose("tcp", ":1", "1.2.3.4:5")
        assert not slow.done()
        with pytest.raises(ForwardError, match=r"^listen tcp: lookup slow.example: i/o timeout$"):
            await slow
        assert [op["local"] for _, op in workers.asked] == [":1"]

    started = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - started < 5, "nor does it hold up the end"
    over.set()


def test_of_two_requests_for_one_address_at_once_one_is_refused() -> None:
    async def run() -> None:
        made = Forwarder(Workers())
        results = await asyncio.gather(
            *(made.expose("tcp", "127.0.0.1:9090", "1.2.3.4:5") for _ in range(2)), return_exceptions=True
        )
        assert [str(result) for result in results if not isinstance(result, Forward)] == [
            "proxy already running for tcp on 127.0.0.1:9090"
        ]

    asyncio.run(run())


@pytest.mark.parametrize("local", [":1", ""])
def test_a_forward_that_is_not_there_is_not_found(local: str) -> None:
    async def run() -> None:
        made = Forwarder(Workers())
        await made.expose("tcp", ":2", "1.2.3.4:5")
        with pytest.raises(ForwardError, match=r"^proxy not found$"):
            await made.unexpose("tcp", local)
        assert len(made.all()) == 1

    asyncio.run(run())


def test_forwards_are_bounded() -> None:
    async def run() -> None:
        made = Forwarder(Workers(), shares=ForwardShares(Limits(max_forwards=2), lambda _name: None))
        await made.expose("tcp", ":1", "1.2.3.4:5")
        await made.expose("tcp", ":2", "1.2.3.4:5")
        with pytest.raises(ForwardError, match="there are 2 forwards already"):
            await made.expose("tcp", ":3", "1.2.3.4:5")

    asyncio.run(run())


def limited(workers: Workers, **changed: int) -> Forwarder:
    """With these limits."""
    return Forwarder(workers, shares=ForwardShares(Limits(**changed), lambda _name: None))


async def fill(made: Forwarder, owner: Owner, count: int, port: int = 1) -> int:
    """Open so many forwards, or as many as there may be. Returns how many."""
    for number in range(count):
        try:
            await made.expose("tcp", f"1.1.{owner.guest}.{number}:{port}", "1.2.3.4:5", owner=owner)
        except ForwardError:
            return number
    return count


def test_a_guest_leaves_forwards_to_others_and_to_the_host() -> None:
    async def run() -> None:
        made = limited(Workers(), max_forwards=400, max_forwards_of_guests=300)
        assert await fill(made, Owner("192.168.127.2", 1), 1000) == 200, "twice as many as are left"
        assert await fill(made, Owner("192.168.127.3", 2), 1000) == 67
        assert await fill(made, Owner("192.168.127.4", 3), 16) == 16
        assert await fill(made, THE_HOST, 110) == 110
        assert made.sums() == {1: 200, 2: 67, 3: 16}

    asyncio.run(run())


def test_the_host_gets_a_forward_of_the_guest_with_most() -> None:
    async def run() -> None:
        made = limited(Workers(), max_forwards=20, max_forwards_of_guests=20)
        assert await fill(made, Owner("a", 1), 12) == 12
        assert await fill(made, Owner("b", 2), 8) == 8
        assert await fill(made, THE_HOST, 6) == 6
        assert made.sums() == {1: 7, 2: 7}
        assert await fill(made, THE_HOST, 50, port=2) == 14
        assert made.sums() == {}

    asyncio.run(run())


def test_a_guest_within_its_share_gets_the_forward_of_one_that_is_gone() -> None:
    async def run() -> None:
        workers = Workers()
        made = limited(workers, max_forwards_of_guests=20)
        assert await fill(made, Owner("a", 1), 12) == 12
        assert await fill(made, Owner("b", 2), 8) == 8
        workers.answers["guests"] = {"guests": {"1": {"links": 1}, "2": {"links": 1}, "3": {"links": 1}}}
        assert await fill(made, Owner("c", 3), 1) == 0, "both are there"
        workers.answers["guests"] = {"guests": {"2": {"links": 1}, "3": {"links": 1}}}
        assert await fill(made, Owner("c", 3), 5) == 5
        assert made.sums() == {1: 7, 2: 8, 3: 5}
        assert made.all()[0].local == "1.1.1.10:1", "the oldest went first"

    asyncio.run(run())


def test_a_guest_may_not_open_and_close_without_pause() -> None:
    async def run() -> None:
        made = limited(Workers(), max_forward_changes_per_second=5)
        for _ in range(10):
            made.check_rate(1)
        with pytest.raises(TooManyError, match="a guest may open and close 5 forwards a second"):
            made.check_rate(1)
        made.check_rate(2)
        for _ in range(100):
            made.check_rate(THE_HOST.guest)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("remote", "client", "expected"),
    [
        (":8080", "192.168.127.2:40000", "192.168.127.2:8080"),
        ("192.168.127.9:80", "@", "192.168.127.9:80"),
    ],
)
def test_an_empty_host_is_the_clients(remote: str, client: str, expected: str) -> None:
    assert forward_texts.resolve_remote(remote, client) == expected


def test_an_empty_host_over_a_unix_socket_is_refused() -> None:
    with pytest.raises(GoError, match=r"^address @: missing port in address$"):
        forward_texts.resolve_remote(":8080", "@")


# --- over ssh --------------------------------------------------------------------------------------


class Sockets:
    """Stands for the forwards over ssh: what was opened, by path."""

    def __init__(self) -> None:
        self.open_now: dict[str, Destination] = {}

    async def open(self, path: str, destination: Destination) -> None:
        if path == "/taken":
            raise SocketError("/taken exists and is not a socket: it is not replaced")
        self.open_now[path] = destination

    async def close(self, path: str) -> None:
        del self.open_now[path]


SSH_REMOTE = "ssh-tunnel://root@192.168.127.2:22/run/podman/podman.sock?key=/k"


def test_a_unix_socket_over_ssh_is_opened_listed_and_closed_without_the_worker() -> None:
    async def run() -> None:
        workers, sockets = Workers(), Sockets()
        made = Forwarder(workers, cast(SocketForwards, sockets))
        await made.expose("unix", "/tmp/s", SSH_REMOTE)
        assert sockets.open_now == {
            "/tmp/s": Destination("root", "192.168.127.2", "/run/podman/podman.sock", "/k")
        }
        assert made.all() == [Forward("/tmp/s", SSH_REMOTE, "unix")]
        with pytest.raises(ForwardError, match=r"^proxy already running for unix on /tmp/s$"):
            await made.expose("unix", "/tmp/s", SSH_REMOTE)
        await made.unexpose("unix", "/tmp/s")
        assert sockets.open_now == {}
        assert made.all() == []
        assert workers.asked == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("local", "remote", "words"),
    [
        ("/s", "ssh-tunnel://root@192.168.127.2/s", "key not provided for unix-ssh connection"),
        ("/s", "ssh-tunnel://root@192.168.127.2?key=/k", "remote uri must contain a path to a socket file"),
        ("/taken", SSH_REMOTE, "/taken exists and is not a socket: it is not replaced"),
    ],
)
def test_what_is_wrong_over_ssh_is_said_and_nothing_stays(local: str, remote: str, words: str) -> None:
    async def run() -> None:
        made = Forwarder(Workers(), cast(SocketForwards, Sockets()))
        with pytest.raises(ForwardError) as refused:
            await made.expose("unix", local, remote)
        assert str(refused.value) == words
        assert made.all() == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("protocol", "name", "port"), [("tcp", "nfs", 2049), ("udp", "domain", 53), ("tcp", "HTTP", 80)]
)
def test_a_port_may_be_the_name_of_a_service(protocol: str, name: str, port: int) -> None:
    async def run() -> None:
        workers = Workers()
        made = Forwarder(workers)
        local, remote = f"127.0.0.1:{name}", f"192.168.127.2:{name}"
        await made.expose(protocol, local, remote)
        assert made.all() == [Forward(local, remote, protocol)], "the list says what was asked for"
        with pytest.raises(
            ForwardError, match=f"listen {protocol} 127.0.0.1:{port}: bind: address already in use"
        ):
            await made.expose(protocol, f"127.0.0.1:{port}", remote)
        await made.unexpose(protocol, local)
        assert [op for _, op in workers.asked] == [
            {
                "op": "expose", "protocol": protocol,
                "local": f"127.0.0.1:{port}", "remote": f"192.168.127.2:{port}",
            },
            {"op": "unexpose", "protocol": protocol, "local": f"127.0.0.1:{port}"},
        ]  # fmt: skip
        assert made.all() == []
        await made.expose(protocol, f"127.0.0.1:{port}", remote)

    asyncio.run(run())


def test_a_service_without_a_port_keeps_the_known_words() -> None:
    async def run() -> None:
        workers = Workers()
        made = Forwarder(workers)
        with pytest.raises(ForwardError, match=r'strconv\.ParseUint: parsing "nothing": invalid'):
            await made.expose("tcp", "127.0.0.1:1", "192.168.127.2:nothing")
        # What is wrong with the local address the worker says.
        await made.expose("tcp", "127.0.0.1:nothing", "192.168.127.2:1")
        assert workers.asked[0][1]["local"] == "127.0.0.1:nothing"

    asyncio.run(run())
