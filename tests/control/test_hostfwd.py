"""slirp4netns' requests and answers, over a forwarder that only remembers."""

import asyncio
import json
import socket
from typing import Any

import pytest

from pipeline.control.forward_texts import ForwardError
from pipeline.control.hostfwd import MAX_REQUEST, HostForwards, HostForwardServer

ADD = {"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_port": 8080, "guest_port": 80}}


class Forwarder:
    """Stands for pipeline.control.forwarder.Forwarder."""

    def __init__(self) -> None:
        self.open: dict[tuple[str, str], str] = {}

    async def expose(self, protocol: str, local: str, remote: str) -> None:
        if (protocol, local) in self.open:
            raise ForwardError("proxy already running")
        self.open[protocol, local] = remote

    async def unexpose(self, protocol: str, local: str) -> None:
        if self.open.pop((protocol, local), None) is None:
            raise ForwardError("proxy not found")


@pytest.fixture
def forwarder() -> Forwarder:
    return Forwarder()


def answers(forwarder: Any, *requests: object) -> list[Any]:
    forwards = HostForwards(forwarder, "10.0.2.100")

    async def ask() -> list[bytes]:
        texts = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in requests]
        return [await forwards.answer(text) for text in texts]

    return [json.loads(answer) for answer in asyncio.run(ask())]


def error(desc: str) -> dict[str, dict[str, str]]:
    return {"error": {"desc": f"bad request: {desc}"}}


def with_(**changed: object) -> dict[str, object]:
    return {"execute": "add_hostfwd", "arguments": {**ADD["arguments"], **changed}}  # type: ignore[dict-item]


def test_a_forward_is_added_listed_and_removed(forwarder: Forwarder) -> None:
    added, listed, removed, empty = answers(
        forwarder,
        ADD,
        {"execute": "list_hostfwd"},
        {"execute": "remove_hostfwd", "arguments": {"id": 1}},
        {"execute": "list_hostfwd"},
    )
    assert added == {"return": {"id": 1}}
    entry = {"id": 1, "proto": "tcp", "host_addr": "0.0.0.0", "host_port": 8080}
    assert listed == {"return": {"entries": [{**entry, "guest_addr": "10.0.2.100", "guest_port": 80}]}}
    assert (removed, empty) == ({"return": {}}, {"return": {"entries": []}})
    assert not forwarder.open


def test_protocols_are_of_ipv4_and_numbers_count_on(forwarder: Forwarder) -> None:
    found = answers(forwarder, ADD, with_(proto="udp", host_addr="127.0.0.1", guest_addr="10.0.2.15"))
    assert found == [{"return": {"id": 1}}, {"return": {"id": 2}}]
    assert forwarder.open == {
        ("tcp4", "0.0.0.0:8080"): "10.0.2.100:80",
        ("udp4", "127.0.0.1:8080"): "10.0.2.15:80",
    }


@pytest.mark.parametrize(
    ("request_", "desc"),
    [
        (b"badjson", "cannot parse JSON"),
        (b"[" * 4000, "cannot parse JSON"),
        (b"\xff\xfe", "cannot parse JSON"),
        (b"3", "json_object() failed"),
        ({"unexpectedjson": 42}, "no execute found"),
        ({"execute": 3}, "no execute found"),
        ({"execute": "bad"}, "unknown execute"),
        (b"x" * (MAX_REQUEST + 1), "too large message"),
        ({"execute": "add_hostfwd"}, "add_hostfwd: bad arguments.proto"),
        (with_(proto="sctp"), "add_hostfwd: bad arguments.proto"),
        (with_(host_addr="::1"), "add_hostfwd: bad arguments.host_addr"),
        (with_(host_addr=3), "add_hostfwd: bad arguments.host_addr"),
        (with_(host_port=0), "add_hostfwd: bad arguments.host_port"),
        (with_(host_port="80"), "add_hostfwd: bad arguments.host_port"),
        (with_(guest_addr="x"), "add_hostfwd: bad arguments.guest_addr"),
        (with_(guest_port=65536), "add_hostfwd: bad arguments.guest_port"),
        (with_(guest_port=True), "add_hostfwd: bad arguments.guest_port"),
        ({"execute": "remove_hostfwd"}, "remove_hostfwd: bad arguments.id"),
        ({"execute": "remove_hostfwd", "arguments": {"id": [1]}}, "remove_hostfwd: bad arguments.id"),
        ({"execute": "remove_hostfwd", "arguments": 3}, "remove_hostfwd: bad arguments.id"),
    ],
)
def test_a_bad_request_gets_slirp4netns_words(forwarder: Forwarder, request_: object, desc: str) -> None:
    assert answers(forwarder, request_) == [error(desc)]
    assert not forwarder.open


def test_a_forward_that_cannot_be_opened_has_no_number(forwarder: Forwarder) -> None:
    found = answers(forwarder, ADD, ADD, with_(host_port=8081))
    assert found == [
        {"return": {"id": 1}},
        error("add_hostfwd: slirp_add_hostfwd failed"),
        {"return": {"id": 2}},
    ]


def test_a_request_may_come_in_parts_and_needs_no_end(forwarder: Any, tmp_path: Any) -> None:
    path = str(tmp_path / "s")

    async def talk() -> bytes:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        listener.setblocking(False)
        server = HostForwardServer(HostForwards(forwarder, "10.0.2.100"))
        await server.listen(listener)
        reader, writer = await asyncio.open_unix_connection(path)
        text = json.dumps(ADD).encode()
        for part in (text[:9], text[9:]):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        server.close()
        return answer

    assert asyncio.run(talk()) == b'{"return":{"id":1}}'
