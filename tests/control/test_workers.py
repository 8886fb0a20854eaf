"""The supervisor's side of control sockets: answers, refusals, time, descriptors, ends."""

import asyncio
import os
import socket
from typing import Any

import msgpack
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.control.workers import Channel, Channels, RefusedError, RequestError
from pipeline.ipc.messages import Request, Stop

LOG = structlog.get_logger()


class Raw(Request):
    """A request with this map."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content
        self.NAME = str(content.get("op"))

    def encode(self) -> dict[str, Any]:
        return self.content


class Peer:
    """A channel and the worker's end of it, spoken to with the plain wire form."""

    def __init__(self, **more: Any) -> None:
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.theirs.setblocking(False)
        self.events: list[tuple[str, dict[str, Any], list[int]]] = []
        self.ended: list[str] = []
        self.channel = Channel(
            "tcp0", ours, lambda *event: self.events.append(event), LOG, on_end=self.ended.append, **more
        )

    async def receive(self) -> tuple[dict[str, Any], list[int]]:
        while True:
            try:
                packet, fds, _, _ = socket.recv_fds(self.theirs, 1 << 20, 16)
            except BlockingIOError:
                await asyncio.sleep(0.001)
                continue
            return msgpack.unpackb(packet), fds

    def send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        socket.send_fds(self.theirs, [msgpack.packb(message)], fds or [])

    def close(self) -> None:
        self.channel.close()
        self.theirs.close()


def test_answers_find_their_requests_in_any_order() -> None:
    async def run() -> None:
        peer = Peer()
        asked = [asyncio.ensure_future(peer.channel.request(Raw({"op": "cam", "n": n}))) for n in range(3)]
        requests = [(await peer.receive())[0] for _ in range(3)]
        for request in reversed(requests):
            assert request["op"] == "cam"
            peer.send({"id": request["id"], "ok": True, "n": request["n"]})
        assert [(await answer)["n"] for answer in asked] == [0, 1, 2]
        peer.close()

    asyncio.run(run())


def test_an_error_is_a_refusal_with_its_words() -> None:
    async def run() -> None:
        peer = Peer()
        asked = asyncio.ensure_future(peer.channel.request(Raw({"op": "expose"})))
        request, _ = await peer.receive()
        peer.send({"id": request["id"], "error": "listen tcp :1: bind: permission denied"})
        with pytest.raises(RefusedError, match=r"^listen tcp :1: bind: permission denied$"):
            await asked
        peer.close()

    asyncio.run(run())


def test_silence_is_an_error_and_the_late_answer_is_dropped() -> None:
    async def run() -> None:
        peer = Peer()
        with pytest.raises(RequestError, match=r"worker tcp0 did not answer cam within 0\.05 s"):
            await peer.channel.request(Raw({"op": "cam"}), timeout=0.05)
        request, _ = await peer.receive()
        peer.send({"id": request["id"], "ok": True})
        asked = asyncio.ensure_future(peer.channel.request(Raw({"op": "cam"})))
        request, _ = await peer.receive()
        peer.send({"id": request["id"], "ok": True, "second": 2})
        assert (await asked)["second"] == 2
        peer.close()

    asyncio.run(run())


def test_descriptors_travel_both_ways_and_ours_stay_ours() -> None:
    async def run() -> None:
        peer = Peer()
        left, right = socket.socketpair()
        asked = asyncio.ensure_future(peer.channel.request(Raw({"op": "attach"}), [right]))
        request, fds = await peer.receive()
        right.send(b"still open")
        with socket.socket(fileno=fds[0]) as got:
            got.send(b"from worker")
        assert left.recv(100) == b"still openfrom worker"
        peer.send({"id": request["id"], "ok": True})
        await asked
        peer.send({"event": "service", "name": "api"}, [right.fileno()])
        async with asyncio.timeout(5):
            while not peer.events:
                await asyncio.sleep(0.001)
        ((worker, event, event_fds),) = peer.events
        assert (worker, event) == ("tcp0", {"event": "service", "name": "api"})
        os.write(event_fds[0], b"!")
        assert left.recv(100) == b"!"
        os.close(event_fds[0])
        left.close()
        right.close()
        peer.close()

    asyncio.run(run())


def test_a_worker_that_ends_fails_what_is_pending_and_is_told_once() -> None:
    async def run() -> None:
        peer = Peer()
        asked = asyncio.ensure_future(peer.channel.request(Raw({"op": "cam"})))
        await peer.receive()
        peer.theirs.close()
        with pytest.raises(RequestError, match="worker tcp0 is gone"):
            await asked
        assert peer.ended == ["tcp0"]
        with pytest.raises(RequestError, match="worker tcp0 is gone"):
            await peer.channel.request(Raw({"op": "cam"}))
        peer.channel.close()

    asyncio.run(run())


def test_the_bell_is_rung_behind_each_message() -> None:
    async def run() -> None:
        rung: list[int] = []
        peer = Peer(notify=lambda: rung.append(1))
        peer.channel.send(Raw({"op": "stop"}))
        assert rung == [1]
        assert (await peer.receive())[0] == {"op": "stop"}
        peer.close()

    asyncio.run(run())


def test_a_worker_that_does_not_read_costs_no_message() -> None:
    async def run() -> None:
        peer = Peer()
        filler = "x" * 10_000
        for number in range(200):
            peer.channel.send(Raw({"op": "n", "number": number, "filler": filler}))
        async with asyncio.timeout(10):
            numbers = [(await peer.receive())[0]["number"] for _ in range(200)]
        assert numbers == list(range(200))
        peer.close()

    asyncio.run(run())


def test_an_event_that_fails_does_not_end_the_channel() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        seen: list[int] = []

        def handle(_worker: str, event: dict[str, Any], _fds: list[int]) -> None:
            seen.append(event["n"])
            raise ZeroDivisionError

        channel = Channel("listen", ours, handle, LOG)
        for n in range(2):
            theirs.send(msgpack.packb({"event": "x", "n": n}))
        async with asyncio.timeout(5):
            while len(seen) < 2:
                await asyncio.sleep(0.001)
        channel.close()
        theirs.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "op", [{"op": "x", "big": 1 << 70}, {"op": "x", "set": {1}}, {"op": "x", "s": "\ud800"}]
)
def test_what_cannot_be_sent_is_an_error(op: dict[str, Any]) -> None:
    async def run() -> None:
        peer = Peer()
        with pytest.raises(RequestError, match="worker tcp0: cannot send x"):
            await peer.channel.request(Raw(op))
        peer.close()

    asyncio.run(run())


_LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8) | st.binary(max_size=8)
)
_MAPS = st.dictionaries(
    st.text(min_size=1, max_size=5).filter(lambda key: key not in ("id", "event", "error")), _LEAVES
)


@settings(max_examples=30, deadline=None)
@given(st.lists(_MAPS, max_size=5))
def test_maps_arrive_as_they_were_sent(maps: list[dict[str, Any]]) -> None:
    async def run() -> None:
        peer = Peer()
        for content in maps:
            asked = asyncio.ensure_future(peer.channel.request(Raw(content)))
            request, _ = await peer.receive()
            assert {key: value for key, value in request.items() if key != "id"} == content
            peer.send({**content, "id": request["id"]})
            assert await asked == request
        peer.close()

    asyncio.run(run())


def test_what_came_without_its_descriptors_fails_its_request_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        peer = Peer()
        lost = [{"event": "service"}, {"id": 1}, {"event": "service"}]
        monkeypatch.setattr(peer.channel._wire, "take_lost", lambda: [lost.pop() for _ in range(len(lost))])
        first = asyncio.ensure_future(peer.channel.request(Raw({"op": "x"})))
        second = asyncio.ensure_future(peer.channel.request(Raw({"op": "y"})))
        await peer.receive()
        await peer.receive()
        peer.send({"event": "guest"})
        with pytest.raises(RequestError, match="no descriptor left"):
            await first
        peer.send({"id": 2})
        assert await second == {"id": 2}
        assert [event for _, event, _ in peer.events] == [{"event": "guest"}]
        peer.close()

    asyncio.run(run())


def test_channels_ask_by_name() -> None:
    async def run() -> None:
        peer = Peer()
        channels = Channels({"tcp0": peer.channel})
        asked = asyncio.ensure_future(channels.request("tcp0", Raw({"op": "x"})))
        request, _ = await peer.receive()
        peer.send({"id": request["id"], "ok": True})
        assert (await asked)["ok"]
        with pytest.raises(RequestError, match="there is no worker tcp9"):
            await channels.request("tcp9", Raw({"op": "x"}))
        channels.close()
        peer.theirs.close()

    asyncio.run(run())


def test_all_workers_are_asked_to_end_beside_one_that_is_gone() -> None:
    async def run() -> None:
        gone, there = Peer(), Peer()
        gone.close()
        Channels({"tcp0": gone.channel, "demux": there.channel}).send_all(Stop())
        assert (await there.receive())[0] == {"op": "stop"}
        there.close()

    asyncio.run(run())
