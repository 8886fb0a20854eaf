"""Every path of the API over a unix socket: method, status, body and headers."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.control.workers import RequestError
from tests.control.endpoint import Endpoint, Meter, endpoint, refuse

EXPOSE = "/services/forwarder/expose"
UNEXPOSE = "/services/forwarder/unexpose"
ALL = "/services/forwarder/all"
DNS_ADD = "/services/dns/add"
GOOD = '{"local":"127.0.0.1:9090","remote":"192.168.127.2:8080","protocol":"tcp"}'

LEASES = '{"192.168.127.1":"5a:94:ef:e4:0c:dd","192.168.127.2":"5a:94:ef:e4:0c:ee"}\n'

# (method, path, body, status, text)
TABLE = [
    ("GET", ALL, None, 200, "[]\n"),
    ("DELETE", ALL, None, 200, "[]\n"),
    ("GET", "/cam", None, 200, '{"02:00:00:00:00:01":3,"5a:94:ef:e4:0c:ee":0}\n'),
    ("GET", "/leases", None, 200, LEASES),
    ("PUT", "/services/dhcp/leases", None, 200, LEASES),
    ("GET", "/services/dns/all", None, 200, "null\n"),
    ("GET", EXPOSE, None, 400, "post only\n"),
    ("PUT", EXPOSE, GOOD, 400, "post only\n"),
    ("GET", UNEXPOSE, None, 400, "post only\n"),
    ("GET", DNS_ADD, None, 400, "post only\n"),
    ("POST", EXPOSE, "", 400, "EOF\n"),
    ("POST", EXPOSE, "{", 400, "unexpected EOF\n"),
    ("POST", EXPOSE, "x", 400, "invalid character 'x' looking for beginning of value\n"),
    ("POST", EXPOSE, '{"local":7}', 400,
     "json: cannot unmarshal number into Go struct field local of type string\n"),
    ("POST", EXPOSE, "{}", 400, "missing port in address\n"),
    ("POST", EXPOSE, "null", 400, "missing port in address\n"),
    ("POST", EXPOSE, '{"local":":1","remote":"foo"}', 400, "address foo: missing port in address\n"),
    ("POST", EXPOSE, '{"local":":1","remote":":80"}', 400, "address @: missing port in address\n"),
    ("POST", EXPOSE, '{"local":":1","remote":"a:1","protocol":"sctp"}', 500, "unknown protocol sctp\n"),
    ("POST", EXPOSE, '{"local":":1","remote":"1.2.3.4:x"}', 500,
     'strconv.ParseUint: parsing "x": invalid syntax\n'),
    ("POST", EXPOSE, '{"local":"/s","remote":"udp://a","protocol":"unix"}', 500,
     "remote protocol for unix forwarder is not implemented: udp\n"),
    ("POST", EXPOSE, '{"local":"npipe:////./pipe/x","protocol":"npipe"}', 500,
     "named pipes are not supported by this platform\n"),
    ("POST", EXPOSE, GOOD, 200, ""),
    ("POST", UNEXPOSE, '{"local":"127.0.0.1:9090"}', 500, "proxy not found\n"),
    ("POST", DNS_ADD, '{"Name":"test.internal.","DefaultIP":"1.2.3.4"}', 200, ""),
    ("POST", DNS_ADD, '{"Records":7}', 400,
     "json: cannot unmarshal number into Go struct field records of type list of objects\n"),
    ("GET", "/", None, 404, "404 page not found\n"),
    ("GET", "/nothing", None, 404, "404 page not found\n"),
    ("GET", "/services/", None, 404, "404 page not found\n"),
    ("GET", "/services/forwarder/expose/", None, 404, "404 page not found\n"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "status", "text"), TABLE)
def test_requests_have_their_answers(
    method: str, path: str, body: str | None, status: int, text: str, tmp_path: Path
) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            assert await at.call(method, path, body) == (status, text)

    asyncio.run(run())


def test_forwards_come_and_go(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            assert await at.call("POST", EXPOSE, GOOD) == (200, "")
            body = '{"LOCAL":":53","Remote":"192.168.127.2:53","protocol":"udp","more":[1]} trailing'
            assert await at.call("POST", EXPOSE, body) == (200, "")
            expected = [
                {"local": "127.0.0.1:9090", "remote": "192.168.127.2:8080", "protocol": "tcp"},
                {"local": ":53", "remote": "192.168.127.2:53", "protocol": "udp"},
            ]
            _, text = await at.call("GET", ALL)
            assert json.loads(text) == expected
            assert text == json.dumps(expected, separators=(",", ":")) + "\n"
            assert await at.call("POST", EXPOSE, GOOD) == (
                500,
                "proxy already running for tcp on 127.0.0.1:9090\n",
            )
            assert await at.call("POST", UNEXPOSE, GOOD) == (200, "")
            assert await at.call("POST", UNEXPOSE, '{"local":":53","protocol":"udp"}') == (200, "")
            assert await at.call("GET", ALL) == (200, "[]\n")

    asyncio.run(run())


def test_a_port_that_the_system_chose_is_answered_and_listed(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            at.workers.answers["expose"] = {"ok": True, "port": 40123}
            body = '{"local":"127.0.0.1:0","remote":"192.168.127.2:80"}'
            opened = {"local": "127.0.0.1:40123", "remote": "192.168.127.2:80", "protocol": "tcp"}
            status, text = await at.call("POST", EXPOSE, body)
            assert (status, json.loads(text)) == (200, opened)
            assert json.loads((await at.call("GET", ALL))[1]) == [opened]
            assert await at.call("POST", UNEXPOSE, '{"local":"127.0.0.1:40123"}') == (200, "")
            assert await at.call("GET", ALL) == (200, "[]\n")

    asyncio.run(run())


def test_the_status_comes_although_workers_are_silent(tmp_path: Path) -> None:
    async def run() -> tuple[dict[str, Any], dict[str, Any]]:
        counts = {
            "ingress": {"link_guests": 1, "link_bytes_from_guest": 7, "worker_busy_share": 250_000},
            "demux": {"udp_flows": 2, "udp_datagram_dropped_truncated": 3},
            "tcp0": {"tcp_flows": 4, "tcp_segment_dropped_paws": 0},
            "egress0": {"egress_flow_refused_policy": 5},
        }
        meter = Meter(counts, silent=["demux"])
        async with endpoint(tmp_path, meter=meter) as at:
            assert await at.call("POST", EXPOSE, GOOD) == (200, "")
            one = json.loads((await at.call("GET", "/status"))[1])
            at.workers.answers["guests"] = lambda _op: RequestError("worker ingress is gone")
            return one, json.loads((await at.call("GET", "/status"))[1])

    one, other = asyncio.run(run())
    assert (one["guests"], other["guests"]) == (1, None)
    assert one["workers"] == [
        {"worker": "ingress", "process": "data", "pid": 12, "answers": True, "busy": 0.25},
        {"worker": "demux", "process": "data", "pid": 12, "answers": False, "busy": 0.0},
        {"worker": "resolver", "process": "side", "pid": 13, "answers": True, "busy": 0.0},
    ]
    assert one["flows"] == {"tcp": 4, "udp": 2, "icmp": 0}
    assert one["drops"] == {"udp_datagram_dropped_truncated": 3, "egress_flow_refused_policy": 5}
    assert (one["version"], one["links"], one["bytes_from_guests"]) == ("1.2.3", 1, 7)
    assert one["network"]["guest"] == "192.168.127.2"
    assert [forward["local"] for forward in one["forwards"]] == ["127.0.0.1:9090"]


def test_the_words_of_workers_reach_the_client(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            at.workers.answers["expose"] = refuse(
                "listen tcp 1.2.3.4:5: bind: cannot assign requested address"
            )
            assert await at.call("POST", EXPOSE, GOOD) == (
                500,
                "listen tcp 1.2.3.4:5: bind: cannot assign requested address\n",
            )
            at.workers.answers["dns_add"] = refuse("invalid IP address: x")
            assert await at.call("POST", DNS_ADD, "{}") == (400, "invalid IP address: x\n")
            at.workers.answers["leases"] = lambda _op: RequestError("worker resolver is gone")
            assert await at.call("GET", "/leases") == (500, "worker resolver is gone\n")
            at.workers.answers["cam"] = lambda _op: ZeroDivisionError("bug")
            assert await at.call("GET", "/cam") == (500, "internal error\n")

    asyncio.run(run())


def test_zones_are_passed_on_clean_and_shown_as_the_resolver_has_them(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            body = '{"name":"a.","RECORDS":[{"Name":"b","ip":"1.2.3.4"},{"Regexp":"^<","IP":null}],"x":9}'
            assert await at.call("POST", DNS_ADD, body) == (200, "")
            assert at.workers.asked[-1][1]["zone"] == {
                "Name": "a.",
                "Records": [
                    {"Name": "b", "IP": "1.2.3.4", "Regexp": ""},
                    {"Name": "", "IP": "", "Regexp": "^<"},
                ],
                "DefaultIP": "",
            }
            zone = {"Name": "a.", "Records": [{"Name": "b", "IP": "1.2.3.4"}], "DefaultIP": ""}
            at.workers.answers["dns_all"] = {"zones": [zone]}
            assert await at.call("GET", "/services/dns/all") == (
                200,
                '[{"Name":"a.","Records":[{"Name":"b","IP":"1.2.3.4"}],"DefaultIP":""}]\n',
            )

    asyncio.run(run())


def test_headers_are_those_clients_know(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            async with at.client.get("http://unix/nothing") as answer:
                assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert "Server" not in answer.headers
            async with at.client.get(f"http://unix{ALL}") as answer:
                assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
                assert answer.headers["Content-Length"] == "3"
                assert "X-Content-Type-Options" not in answer.headers
            async with at.client.post(f"http://unix{EXPOSE}", data=GOOD) as answer:
                assert answer.headers["Content-Length"] == "0"
                assert "Content-Type" not in answer.headers

    asyncio.run(run())


@pytest.mark.parametrize("path", ["/services", "/services/forwarder", "/services/dns", "/services/dhcp"])
def test_directories_redirect_to_their_slash(path: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            endpoint(tmp_path) as at,
            at.client.get(f"http://unix{path}", allow_redirects=False) as answer,
        ):
            assert answer.status == 307
            assert answer.headers["Location"] == f"{path}/"

    asyncio.run(run())


@pytest.mark.parametrize("guest", [False, True])
@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("//services//forwarder/all", "/services/forwarder/all"),
        ("/services/./forwarder/../forwarder/all?a=%2F&b", "/services/forwarder/all?a=%2F&b"),
        ("/../../services/forwarder/all", "/services/forwarder/all"),
        ("//evil.example//", "/evil.example/"),
        ("/.//\\evil.example", "/%5Cevil.example"),
        ("//", "/"),
    ],
)
def test_a_path_that_is_not_clean_redirects_to_the_clean_one(
    target: str, location: str, guest: bool, tmp_path: Path
) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, guest=guest) as at:
            for method in ("GET", "POST"):
                answer = await at.raw(f"{method} {target} HTTP/1.0\r\n\r\n".encode())
                assert answer.startswith(b"HTTP/1.0 307 Temporary Redirect\r\n")
                assert f"\r\nLocation: {location}\r\n".encode() in answer

    asyncio.run(run())


def test_guests_have_the_forwarder_alone(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path, guest=True) as at:
            assert await at.call("GET", ALL) == (200, "[]\n")
            assert await at.call("POST", EXPOSE, GOOD) == (200, "")
            assert await at.call("POST", UNEXPOSE, GOOD) == (200, "")
            for path in ("/stats", "/metrics", "/cam", "/leases", "/services/dns/all", "/connect", "/tunnel"):
                assert await at.call("GET", path) == (404, "404 page not found\n")
            assert at.workers.socks == []

    asyncio.run(run())


async def _chunked(at: Endpoint, body: bytes) -> bytes:
    head = f"POST {EXPOSE} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    return await at.raw(head.encode() + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))


def test_bodies_may_be_chunked_and_are_bounded(tmp_path: Path) -> None:
    async def run() -> None:
        async with endpoint(tmp_path) as at:
            assert (await _chunked(at, GOOD.encode())).startswith(b"HTTP/1.1 200 OK\r\n")
            status, _ = await at.call("POST", EXPOSE, b" " * (1 << 20) + b"{}")
            assert status == 413

    asyncio.run(run())


def test_a_body_that_never_comes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.control.http.body.TIMEOUT", 0.1)

    async def run() -> None:
        async with endpoint(tmp_path) as at:
            head = f"POST {EXPOSE} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n{{".encode()
            answer = await asyncio.wait_for(at.raw(head), 15)
            assert answer.startswith(b"HTTP/1.1 408 ")

    asyncio.run(run())


def test_counters_are_shown_in_both_forms(tmp_path: Path) -> None:
    meter = Meter({"ingress": {"link_bytes_from_guest": 7}, "demux": {"link_bytes_from_guest": 1}})

    async def run() -> None:
        async with endpoint(tmp_path, meter=meter) as at:
            _, text = await at.call("GET", "/stats")
            assert json.loads(text)["BytesReceived"] == 8
            status, text = await at.call("GET", "/metrics")
            assert status == 200
            assert 'gvtap_link_bytes_total{direction="from_guest",worker="ingress"} 7.0\n' in text

    asyncio.run(run())
