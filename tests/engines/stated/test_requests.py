"""Further requests of an HTTP/1 connection: where each begins, and which bytes go on before it is judged."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.stated.first_bytes import MAX_BYTES
from pipeline.engines.stated.requests import REFUSED, Requests
from pipeline.wire.stated import NAME, Stated

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
BAD = b"GET / HTTP/1.1\r\nHost: b.test\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello"
CHUNKS = (
    b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\nA;x=y\r\n" + GET[:10] + b"\r\n0\r\nX: y\r\n\r\n"
)
UPGRADE = b"GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"


class Connection:
    """The requests of one connection to a.test, and the bytes that have reached the server."""

    def __init__(self) -> None:
        self.requests = Requests()
        self.reached = b""
        self.held = b""
        self.stated: list[str] = []
        self.refused = False

    def judge(self, stated: Stated) -> bool:
        self.stated.append(stated.name)
        return stated.kind == NAME and stated.name == "a.test"

    def send(self, *pieces: bytes) -> "Connection":
        for piece in pieces:
            if self.refused:
                break
            if not self.held and self.requests.skip(len(piece)):
                self.reached += piece
                continue
            data = self.held + piece
            passed = self.requests.read(data, self.judge)
            if passed == REFUSED:
                self.refused = True
            else:
                self.reached += data[:passed]
                self.held = data[passed:]
        return self


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_each_head_is_judged_wherever_the_segments_end(size: int) -> None:
    good = GET + POST + CHUNKS + GET + b"\r\n" + POST
    made = Connection().send(*pieces(good + BAD + b"and more", size))
    assert made.refused
    assert made.stated == ["a.test"] * 5 + ["b.test"]
    assert good.startswith(made.reached.removesuffix(b"\r\n")), "no byte of the refused request has left"
    whole = Connection().send(*pieces(good, size))
    assert (whole.reached, whole.held, whole.refused) == (good, b"", False)


def test_a_body_that_looks_like_a_request_is_a_body() -> None:
    body = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n" % len(BAD) + BAD
    made = Connection().send(body, GET)
    assert (made.reached, made.stated) == (body + GET, ["a.test", "a.test"])


def test_an_incomplete_head_waits_and_only_so_much_of_it() -> None:
    made = Connection().send(GET + b"GET / HTTP/1.1\r\nHo")
    assert (made.reached, made.held) == (GET, b"GET / HTTP/1.1\r\nHo")
    assert made.send(b"X: " + b"x" * MAX_BYTES).refused


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Content-Length: 5\r\nContent-Length: 5",
        b"Content-Length: 5, 5",
        b"Content-Length: +5",
        b"Content-Length: 0x5",
        b"Content-Length: -1",
        b"Content-Length:",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ],
)
def test_a_request_whose_end_two_servers_may_see_elsewhere_is_refused(fields: bytes) -> None:
    made = Connection().send(b"POST / HTTP/1.1\r\nHost: a.test\r\n" + fields + b"\r\n\r\n")
    assert made.refused
    assert made.reached == b""


@pytest.mark.parametrize("target", [b"/", b"/HTTP/1.1"])
def test_a_coding_in_a_request_of_http_1_0_is_refused(target: bytes) -> None:
    head = b"POST %s HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n" % target
    assert Connection().send(head).refused


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nX: y\nHost: a.test\nContent-Length: %d\n\n",
        b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\n",
        b"POST / HTTP/1.1\nHost: a.test\nContent-Length: %d\n\r\n",
    ],
)
def test_a_head_with_two_ends_of_lines_is_refused(head: bytes) -> None:
    # A server may take a lone LF for a part of the value before it. Then the Host is in what is a body here.
    made = Connection().send(head % 18 + b"\r\nHost: b.test\r\n\r\n")
    assert (made.refused, made.reached) == (True, b"")


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"CONNECT", b"TRACE"])
@pytest.mark.parametrize("coding", [b"Content-Length: 34", b"Transfer-Encoding: chunked"])
def test_no_body_that_a_server_may_ignore_begins_as_a_request(method: bytes, coding: bytes) -> None:
    target = b"a.test:80" if method == b"CONNECT" else b"/"
    head = method + b" " + target + b" HTTP/1.1\r\nHost: a.test\r\n" + coding + b"\r\n\r\n"
    for size in (1, 1000):
        made = Connection().send(*pieces(head, size), *pieces(BAD, size))
        assert made.refused
        assert b"b.test" not in made.reached


def test_a_search_with_a_body_passes() -> None:
    search = b"GET /_search HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\n{}"
    for size in (1, 1000):
        made = Connection().send(*pieces(search + GET, size))
        assert (made.refused, made.reached) == (False, search + GET)


def test_empty_lines_between_requests_do_not_wait() -> None:
    # Old clients send one after a body. It is no part of a head, whose rest must come in time.
    made = Connection().send(POST, b"\r\n")
    assert (made.reached, made.held) == (POST + b"\r\n", b"")


def test_what_never_ends_is_judged_as_what_states_no_name() -> None:
    denying = Connection().send(GET, b"GET / HTTP/1.1\r\nHo")
    assert not denying.requests.end(denying.judge)
    for held in (b"GET / HTTP/1.1\r\nHo", b"a prompt without an end"):
        made = Connection().send(GET, held)
        assert made.held == held
        assert made.requests.end(lambda stated: True)
        assert made.requests.skip(1_000_000)
    chunk = Connection().send(CHUNKS[:61] + b"5")
    assert chunk.held
    assert not chunk.requests.end(lambda stated: True)


def test_many_small_requests_are_not_copied_for_each() -> None:
    copied = 0

    class Counted(bytes):
        def __getitem__(self, key: Any) -> Any:
            nonlocal copied
            found = super().__getitem__(key)
            copied += len(found) if isinstance(key, slice) else 0
            return found

    data = Counted(GET * 10_000)
    assert Requests().read(data, lambda stated: True) == len(data)
    assert copied < 100 * len(data)


@pytest.mark.parametrize(
    "chunks",
    [
        b"5\nhello\r\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5 \r\nhello\r\n",
        b"A ;/ HTTP/1.1\r\nHost: b.test\r\n\r\n",
        b"0x5\r\nhello\r\n",
        b"-5\r\n",
        b"\r\n",
        b"5;a\nb\r\nhello\r\n",
        b"fffffffffffffffff\r\n",
        b"5;" + b"x" * 5000,
        b"0\r\nnonsense\r\n\r\n",
        b"0\r\n Host: b.test\r\n\r\n",
    ],
)
def test_chunks_that_two_servers_may_read_in_two_ways_are_refused(chunks: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert Connection().send(head + chunks).refused
    assert Connection().send(*pieces(head + chunks, 1)).refused


@pytest.mark.parametrize("asked", [UPGRADE, b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n"])
def test_after_an_upgrade_another_protocol_may_follow_and_a_text_is_a_request(asked: bytes) -> None:
    frames = b"\x81\x85mask" + BAD
    assert Connection().send(asked, frames, BAD).reached == asked + frames + BAD
    assert Connection().send(asked, BAD).refused
    assert Connection().send(asked, b"\r\n" + BAD).refused
    for space in (b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", b"\x1f", b"\x85", b"\xa0"):
        assert Connection().send(asked, space + BAD).refused, "some servers skip this before a request"
    again = Connection().send(asked, GET, b"\x81\x05")
    assert again.reached == asked + GET, "the server has not changed"
    assert again.refused


def test_http_2_after_a_request_is_refused() -> None:
    assert Connection().send(UPGRADE, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").refused


@given(st.lists(st.sampled_from([GET, POST, CHUNKS, b"\r\n"]), max_size=6), st.data())
def test_cuts_change_nothing(requests: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(requests) + BAD
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    ends = [0, *cuts, len(stream)]
    cut = [stream[a:b] for a, b in itertools.pairwise(ends) if a < b]
    made = Connection().send(*cut)
    assert made.refused
    assert made.stated[-1] == "b.test"
    assert set(made.stated[:-1]) <= {"a.test"}
    assert b"b.test" not in made.reached


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_after_a_request_state_an_allowed_name_or_do_not_pass(text: bytes, size: int) -> None:
    made = Connection().send(GET, *pieces(text, size))
    assert made.reached.startswith(GET)
    if not made.refused:
        assert set(made.reached[len(GET) :]) <= set(b"\r\n") or set(made.stated) == {"a.test"}
