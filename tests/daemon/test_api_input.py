"""No input to the API of a running daemon causes a traceback, or makes its log grow.

Schemathesis makes requests from /openapi.json. Strategies of hypothesis add what no description has: numbers
of thousands of digits, deep nesting, long texts, and heads and bodies that are not what they say.
"""

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from pipeline.control.http import openapi
from tests.support.lone_daemon import LoneDaemon

EXPOSE, UNEXPOSE = (f"/services/forwarder/{name}" for name in ("expose", "unexpose"))
ADD = "/services/dns/add"
EXPLAIN, APPROVAL = "/policy/explain", "/approvals/{id}"
RESET = "/quotas/reset"
PATHS = [EXPOSE, UNEXPOSE, ADD, EXPLAIN, APPROVAL, RESET]
MAX_LOG = 20_000
MAX_GROWTH = 48 << 20

SETTINGS = hypothesis.settings(
    max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


class Api:
    """A daemon with a port of the loopback."""

    def __init__(self, daemon: LoneDaemon, port: int) -> None:
        self.daemon = daemon
        self.url = f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One for the module. At its end its log has no traceback and is short, and its memory has not grown."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        daemon = LoneDaemon(tmp_path_factory.mktemp("daemon"), "-listen", f"fd://{fd}", pass_fds=[fd])
        daemon.start()
    try:
        daemon.wait_until_ready()
        before = resident(daemon)
        yield Api(daemon, port)
        assert resident(daemon) - before < MAX_GROWTH
        daemon.stop()
        log = daemon.errors()
        assert "Traceback" not in log, log
        assert not [line for line in map(json.loads, log.splitlines()) if line["level"] == "error"], log
        assert len(log) < MAX_LOG, log
    finally:
        daemon.kill()


def resident(daemon: LoneDaemon) -> int:
    with open(f"/proc/{daemon.process.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def opens_nothing(body: Any) -> bool:
    """Whether a random body cannot open a port of this machine, or make a file."""
    fields = {key.lower(): value for key, value in body.items()} if isinstance(body, dict) else {}
    local = fields.get("local")
    return not isinstance(local, str) or not re.search(r":[^:]*\Z|/", local)


@pytest.mark.parametrize("path", PATHS)
def test_requests_of_the_description_have_described_answers(api: Api, path: str) -> None:
    schema = schemathesis.openapi.from_url(f"{api.url}/openapi.json")
    (result,) = schema.include(path=path).get_all_operations()

    @SETTINGS
    @given(case=result.ok().as_strategy())
    def run(case: Any) -> None:
        hypothesis.assume(opens_nothing(case.body))
        case.call_and_validate(checks=[status_code_conformance, content_type_conformance])

    run()


# --- what no description has --------------------------------------------------------------------

DIGITS = st.integers(1000, 60_000).map(lambda count: "9" * count)
NUMBERS = st.one_of(
    DIGITS,
    DIGITS.map(lambda digits: f"-{digits}"),
    DIGITS.map(lambda digits: f"0.{digits}"),
    DIGITS.map(lambda digits: f"1e{digits}"),
    st.sampled_from(["1e400", "-1e400", "NaN", "-Infinity", "00", "1.", "+1", "0x10"]),
)
DEPTHS = st.integers(1, 200_000).flatmap(
    lambda depth: st.sampled_from(["[" * depth, '{"local":' * depth, "[" * depth + "]" * depth])
)
LONG = st.one_of(
    st.text(max_size=50),
    st.integers(1, 900_000).map(lambda size: "x" * size),
    DIGITS,
    st.sampled_from(["\0", "\ud800", "\N{ARABIC-INDIC DIGIT THREE}", "%00", "ssh-tunnel://[", "//[::1"]),
)
KEYS = st.sampled_from(["local", "remote", "protocol", "proxy_protocol", "Name", "Records", "DefaultIP", "x"])
VALUES = st.one_of(NUMBERS, DEPTHS, LONG.map(json.dumps), st.sampled_from(["null", "true", "[{}]", "[null]"]))
BODIES = st.one_of(
    VALUES,
    st.dictionaries(KEYS, VALUES, max_size=4).map(
        lambda fields: "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in fields.items()) + "}"
    ),
    st.text(max_size=100),
)
STATUSES = {200, 400, 413, 500}


@SETTINGS
@given(path=st.sampled_from(PATHS), body=BODIES)
def test_huge_numbers_depths_and_sizes_have_a_clean_answer(api: Api, path: str, body: str) -> None:
    unknown = {404} if path == APPROVAL else set()
    status, text = api.daemon.post(path, body.encode("utf-8", "surrogatepass"))
    assert status in {*STATUSES, *unknown}
    assert b"Traceback" not in text
    assert text != b"internal error\n"


@SETTINGS
@given(port=DIGITS, kind=st.sampled_from(["tcp", "udp", "tcp4", "udp6"]))
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_a_port_of_thousands_of_digits_is_named_in_the_answer(
    api: Api, host: str, port: str, kind: str
) -> None:
    wish = {"local": f"{host}:{port}", "remote": "192.168.127.2:80", "protocol": kind}
    status, text = api.daemon.post(EXPOSE, wish)
    assert (status, b"invalid port" in text) == (500, True)
    wish = {"local": "127.0.0.1:1", "remote": f"192.168.127.2:{port}", "protocol": kind}
    status, text = api.daemon.post(EXPOSE, wish)
    assert (status, b"value out of range" in text) == (500, True)


@SETTINGS
@given(
    target=st.one_of(
        DIGITS.map(lambda digits: f"/tunnel?ip=192.168.127.2&port={digits}"),
        DIGITS.map(lambda digits: f"/tunnel?ip={digits}&port=1"),
        st.sampled_from(["/tunnel?ip=%ff&port=%00", "/tunnel?" + "a=1&" * 5000, "http://[/", "//", "*"]),
    ),
    field=st.one_of(
        DIGITS.map(lambda digits: f"Content-Length: {digits}"),
        st.sampled_from(
            ["Content-Length: -1", "Content-Length: 1, 1", "Transfer-Encoding: x", "Host: b", "X: \x01", "X"]
        ),
    ),
    version=st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/9.9", "HTTP/1.99999"]),
)
def test_odd_heads_have_a_clean_answer(api: Api, target: str, field: str, version: str) -> None:
    request = f"GET {target} {version}\r\nHost: a\r\nConnection: close\r\n{field}\r\n\r\n".encode("latin-1")
    # As the first request of a connection, and as a later one: different code reads them.
    for before in (b"", b"GET /leases HTTP/1.1\r\nHost: a\r\n\r\n"):
        answer = api.daemon.ask(before + request)
        for status in re.findall(rb"HTTP/1\.[01] ([0-9]{3})", answer):
            assert int(status) in {200, 307, 400, 404, 413, 431, 500, 501, 505}
        assert b"Traceback" not in answer


@SETTINGS
@given(
    body=st.one_of(
        st.builds(lambda size, rest: f"{size}\r\n".encode() + rest, DIGITS, st.binary(max_size=50)),
        st.builds(lambda size, rest: f"{size}g\r\n".encode() + rest, DIGITS, st.binary(max_size=50)),
        st.binary(max_size=50),
        st.just(b"2\r\n{}\r\n0\r\n\r\n"),
    ),
    field=st.sampled_from(
        ["Transfer-Encoding: chunked", "Content-Length: 60", "Content-Length: 60\r\nContent-Encoding: gzip"]
        + ["Content-Length: 60\r\nContent-Encoding: br", "Transfer-Encoding: gzip, chunked"]
    ),
    path=st.sampled_from(PATHS),
    late=st.booleans(),
)
def test_a_client_that_leaves_in_its_body_is_no_event(
    api: Api, body: bytes, field: str, path: str, late: bool
) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n".encode()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(api.daemon.socket))
        sock.sendall(head + body)
        if late:
            # The daemon waits for the rest by then.
            time.sleep(0.01)
    assert api.daemon.post("/leases", b"")[0] == 200


def test_every_path_with_a_body_is_tried() -> None:
    document = openapi.document("1.2.3", token=False)
    posts = {path for path, item in document["paths"].items() if "requestBody" in item.get("post", {})}
    assert posts == set(PATHS)
