"""The commands status, guests, flows and leases, with an API that the test plays."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli
from pipeline.client import api
from pipeline.client.show import address
from tests.support.fake_api import FakeApi

STATUS: dict[str, Any] = {
    "version": "1.2.3",
    "python": "3.11.2",
    "data_path": "compiled",
    "pid": 11,
    "uptime_seconds": 3725.25,
    "placement": "auto",
    "network": {
        "subnet": "192.168.127.0/24",
        "mtu": 1500,
        "gateway": "192.168.127.1",
        "guest": "192.168.127.2",
        "host": "192.168.127.254",
    },
    "endpoints": [{"use": "listen", "url": "unix:///run/gvtap-pipeline/api.sock"}],
    "workers": [
        {"worker": "ingress", "process": "data", "pid": 12, "answers": True, "busy": 0.256},
        {"worker": "resolver", "process": "side", "pid": 13, "answers": True, "busy": 0.0},
    ],
    "guests": 1,
    "links": 2,
    "leases": 3,
    "flows": {"tcp": 4, "udp": 5, "icmp": 0},
    "bytes_from_guests": 1_234_567,
    "bytes_to_guests": 98,
    "forwards": [{"local": "127.0.0.1:2222", "remote": "192.168.127.2:22", "protocol": "tcp"}],
    "drops": {"udp_datagram_dropped_truncated": 3, "tcp_segment_dropped_paws": 20},
}
FLOW: dict[str, Any] = {
    "id": "tcp0-123",
    "protocol": "tcp",
    "direction": "out",
    "guest": 1,
    "guest_mac": "5a:94:ef:e4:0c:ee",
    "guest_address": "192.168.127.2",
    "guest_port": 40000,
    "address": "93.184.216.34",
    "port": 443,
    "name": "a-rather-long-name.cdn.example.com",
    "state": "established",
    "age_seconds": 75.5,
    "idle_seconds": 0.1,
    "bytes_from_guest": 1500,
    "bytes_to_guest": 2_500_000,
    "packets_from_guest": 2,
    "packets_to_guest": 3,
    "connect_seconds": 0.01,
    "min_rtt_seconds": 0.0002,
    "retransmissions": 0,
}
INWARD: dict[str, Any] = FLOW | {
    "id": "udp-7",
    "protocol": "udp",
    "direction": "in",
    "address": "127.0.0.1",
    "port": 5555,
    "name": None,
    "state": "open",
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    made = FakeApi(tmp_path / "api.sock")
    monkeypatch.setenv(api.VARIABLE, made.url)
    made.says("/status", STATUS)
    made.says("/flows", {"flows": [FLOW, INWARD], "total": 2})
    yield made
    made.close()


def on_terminal(server: FakeApi, columns: int, *words: str) -> list[str]:
    """The lines that a command prints on a terminal of this width."""
    ours, theirs = pty.openpty()
    env = {**os.environ, api.VARIABLE: server.url, "COLUMNS": str(columns)}
    subprocess.run([sys.executable, "-m", "pipeline", *words], stdout=theirs, env=env, check=True)
    os.close(theirs)
    data = b""
    try:
        while piece := os.read(ours, 65536):
            data += piece
    except OSError:  # Linux: the other end is closed
        pass
    os.close(ours)
    return data.decode().replace("\r\n", "\n").splitlines()


def test_status_in_a_pipe_has_exact_numbers(server: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "version      1.2.3, compiled, Python 3.11.2",
        "uptime       3725.25",
        "process      11, placement auto",
        "network      192.168.127.0/24, MTU 1500",
        "addresses    gateway 192.168.127.1, guest 192.168.127.2, host 192.168.127.254",
        "guests       1, with 2 links and 3 leases",
        "flows        4 tcp, 5 udp, 0 icmp",
        "from guests  1234567",
        "to guests    98",
        "",
        "SOCKET  URL",
        "listen  unix:///run/gvtap-pipeline/api.sock",
        "",
        "WORKER    PROCESS  PID  STATE  BUSY",
        "ingress   data      12  ok      26%",
        "resolver  side      13  ok       0%",
        "",
        "FORWARD         PROTOCOL  LEADS TO",
        "127.0.0.1:2222  tcp       192.168.127.2:22",
        "",
        "TIMES  DROPPED OR REFUSED",
        "   20  tcp_segment_dropped_paws",
        "    3  udp_datagram_dropped_truncated",
    ]


def test_status_on_a_terminal_has_human_units(server: FakeApi) -> None:
    lines = on_terminal(server, 80, "status")
    assert "uptime       1h2m" in lines
    assert "from guests  1.2 MB" in lines
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("words", [["status", "-json"], ["--json", "status"], ["status", "--json"]])
def test_json_is_what_the_daemon_answers(
    words: list[str], server: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    if words[0] != "status":
        assert cli.main(words) == 2, "a flag comes after its command"
        return
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out) == STATUS


def test_a_silent_worker_makes_status_fail(server: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    silent = {**STATUS["workers"][0], "answers": False}
    server.says("/status", {**STATUS, "guests": None, "workers": [silent]})
    assert cli.main(["status"]) == 1
    out, err = capsys.readouterr()
    assert "ingress  data      12  silent   26%" in out
    assert "guests       -, with 2 links and 3 leases" in out
    assert err == "gvtap-pipeline status: workers that do not answer: ingress\n"


def test_guests_are_listed(server: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    known = {
        "guest": 1,
        "opened_by": "process 4242",
        "mac_addresses": ["5a:94:ef:e4:0c:ee"],
        "ip_addresses": ["192.168.127.2", "192.168.127.9"],
        "links": 1,
        "tcp_flows": 12,
        "udp_flows": 3,
        "forwards": 2,
    }
    server.says("/guests", [known, {"guest": 10, "opened_by": "", "links": 0}])
    assert cli.main(["guests"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "GUEST  ADDRESS           MAC                OPENED BY     LINKS  TCP  UDP  FORWARDS",
        "    1  192.168.127.2 +1  5a:94:ef:e4:0c:ee  process 4242      1   12    3         2",
        "   10  -                 -                  gone              0    0    0         0",
    ]
    assert max(map(len, on_terminal(server, 80, "guests"))) <= 80


def test_leases_are_listed_with_their_links(server: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    leases = {"192.168.127.1": "5a:94:ef:e4:0c:dd", "192.168.127.2": "5a:94:ef:e4:0c:ee"}
    server.says("/leases", leases)
    server.says("/cam", {"5a:94:ef:e4:0c:ee": 0})
    assert cli.main(["leases"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ADDRESS        MAC                LINK",
        "192.168.127.1  5a:94:ef:e4:0c:dd     -",
        "192.168.127.2  5a:94:ef:e4:0c:ee     0",
    ]
    assert cli.main(["leases", "-json"]) == 0
    assert json.loads(capsys.readouterr().out) == leases


def test_flows_in_a_pipe_have_every_column(server: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["flows"]) == 0
    out, err = capsys.readouterr()
    numbers = "75.5 0.1 1500 2500000"
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "ID PROTO GUEST PEER STATE AGE IDLE UP DOWN",
        f"tcp0-123 tcp 192.168.127.2:40000 -> a-rather-long-name.cdn.example.com:443 established {numbers}",
        f"udp-7 udp 192.168.127.2:40000 <- 127.0.0.1:5555 open {numbers}",
    ]
    assert err == ""


@pytest.mark.parametrize(
    ("host", "port", "text"),
    [
        ("192.0.2.1", "80", "192.0.2.1:80"),
        ("2001:db8::1", "80", "[2001:db8::1]:80"),
        ("2001:db8::1", "", "2001:db8::1"),
        ("", "0", ":0"),
    ],
)
def test_addresses_of_both_families_can_be_told_from_their_port(host: str, port: str, text: str) -> None:
    assert address(host, port) == text


def test_flows_fit_a_terminal_of_80_columns(server: FakeApi) -> None:
    lines = on_terminal(server, 80, "flows")
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["PROTO", "GUEST", "PEER", "STATE", "AGE", "UP", "DOWN"]
    assert lines[1].split() == (
        ["tcp", "…68.127.2:40000", "->", "…cdn.example.com:443", "establ…", "1m16s", "1.5", "kB", "2.5", "MB"]
    )


def test_filters_of_flows_become_the_query(server: FakeApi) -> None:
    words = "--guest 1 --protocol tcp --host example.com --port 443 --limit 5 --sort age"
    assert cli.main(["flows", *words.split()]) == 0
    query = "guest=1&protocol=tcp&host=example.com&port=443&limit=5&sort=age"
    assert server.requests[0].startswith(f"GET /flows?{query} HTTP/1.1\r\n")
    assert cli.main(["flows"]) == 0
    assert server.requests[1].startswith("GET /flows?limit=1000&sort=bytes HTTP/1.1\r\n")


def test_flows_say_how_many_are_not_listed(server: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    server.says("/flows", {"flows": [FLOW], "total": 4321})
    assert cli.main(["flows", "-limit", "1"]) == 0
    assert capsys.readouterr().err == "1 of 4321 flows: -limit lists more\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-protocol", "sctp"], '-protocol "sctp" is wrong (allowed: tcp, udp, icmp)'),
        (["-sort", "name"], '-sort "name" is wrong (allowed: bytes, age, idle)'),
        (["-limit", "0"], "-limit 0 is wrong (allowed: 1 to 10000)"),
        (["-limit", "10001"], "-limit 10001 is wrong (allowed: 1 to 10000)"),
        (["-port", "65536"], "-port 65536 is wrong (allowed: 1 to 65535, 0 for all)"),
    ],
)
def test_a_wrong_filter_is_an_error_of_usage(
    words: list[str], text: str, server: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["flows", *words]) == 2
    assert capsys.readouterr().err == f"gvtap-pipeline flows: {text}\n"
    assert server.requests == []


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"flows": None, "total": float("nan")},
        {"flows": [None, [], {"port": "x", "age_seconds": "y", "name": 5}]},
        {"flows": [{"age_seconds": float("inf"), "idle_seconds": float("nan"), "bytes_to_guest": 10**400}]},
    ],
)
def test_an_answer_of_another_shape_is_no_crash(answer: object, server: FakeApi) -> None:
    server.says("/flows", answer)
    assert cli.main(["flows"]) == 0
    assert "PROTO" in on_terminal(server, 80, "flows")[0]


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        ("200 OK", b"nonsense", "/flows has no JSON: "),
        ("200 OK", b"[]", "/flows has no JSON object"),
        ("404 Not Found", b"404 page not found\n", "has no /flows: it is older than this program"),
        ("401 Unauthorized", b"no\x1b[2J token\n", "no\\x1b[2J token (use -api-token-file FILE)"),
        ("503 Service Unavailable", b"", "answers 503 Service Unavailable"),
    ],
)
def test_a_daemon_that_does_not_answer_well_is_reported(
    status: str, body: bytes, text: str, server: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["/flows"] = (status, body)
    assert cli.main(["flows"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert err.startswith("gvtap-pipeline flows: ")


def test_a_reader_that_has_enough_is_no_error(server: FakeApi) -> None:
    server.says("/flows", {"flows": [FLOW] * 5000, "total": 5000})
    env = {**os.environ, api.VARIABLE: server.url}
    ours, theirs = os.pipe()
    os.close(ours)
    argv = [sys.executable, "-m", "pipeline", "flows"]
    done = subprocess.run(argv, stdout=theirs, stderr=subprocess.PIPE, env=env, check=False)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (0, b"")


def test_without_any_address_the_usual_socket_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(api.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "a b"))
    (tmp_path / "a b" / "gvtap-pipeline").mkdir(parents=True)
    server = FakeApi(tmp_path / "a b" / api.USUAL)
    server.says("/leases", {})
    assert cli.main(["leases", "-json"]) == 0
    server.close()
    assert capsys.readouterr().out == "{}\n"
    assert (Path(__file__).parents[2] / "contrib/systemd/gvtap-pipeline.service").read_text().count(
        f"unix:///run/{api.USUAL}"
    ) == 1
