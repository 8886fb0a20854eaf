"""Request heads: any split gives the same head, anything else is refused, size is bounded."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.control.http.head import MAX_HEAD, Head, HeadError, HeadReader

GVFORWARDER = (
    b"POST /connect HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 0\r\n\r\n"
)


def read(data: bytes) -> Head:
    reader = HeadReader()
    assert reader.feed(data)
    return reader.head()


def test_the_guest_agents_request_is_understood() -> None:
    head = read(GVFORWARDER)
    assert (head.method, head.path, head.query) == ("POST", "/connect", "")
    assert head.header("host") == ""
    assert head.header("user-agent") == "Go-http-client/1.1"
    assert head.raw == GVFORWARDER


@given(st.lists(st.integers(0, len(GVFORWARDER) + 9), max_size=6), st.binary(max_size=9))
def test_any_split_gives_the_same_head_and_leaves_what_follows(cuts: list[int], rest: bytes) -> None:
    data = GVFORWARDER + rest
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    reader = HeadReader()
    fed = 0
    for begin, end in pairwise(edges):
        if reader.feed(data[begin:end]):
            assert begin + reader.taken == len(GVFORWARDER)
            fed = end
            break
    assert fed >= len(GVFORWARDER)
    assert reader.head() == read(GVFORWARDER)


def test_one_byte_at_a_time_works() -> None:
    reader = HeadReader()
    done = [reader.feed(bytes([byte])) for byte in GVFORWARDER]
    assert done == [False] * (len(GVFORWARDER) - 1) + [True]
    assert reader.taken == 1


@pytest.mark.parametrize(
    ("data", "path", "query"),
    [
        (b"GET /tunnel?ip=1.2.3.4&port=22 HTTP/1.0\n\n", "/tunnel", "ip=1.2.3.4&port=22"),
        (b"\r\n\r\nGET /%63onnect HTTP/1.1\r\nHost: a\r\n\r\n", "/connect", ""),
        (b"GET http://unix/connect HTTP/1.1\r\nHost: a\r\n\r\n", "/connect", ""),
        (b"GET //connect HTTP/1.1\r\nHost: a\r\n\r\n", "//connect", ""),
        (b"OPTIONS * HTTP/1.1\r\nHost:a\r\n\r\n", "*", ""),
        ("GET /\u00e9?\u00e9 HTTP/1.1\r\nHost: a\r\n\r\n".encode(), "/\u00e9", "%C3%A9"),
    ],
)
def test_targets_have_many_forms(data: bytes, path: str, query: str) -> None:
    head = read(data)
    assert (head.path, head.query) == (path, query)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"GET /connect HTTP/1.1\r\n\r\n", "400 Bad Request: missing required Host header"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400 Bad Request: too many Host headers"),
        (
            b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            "505 HTTP Version Not Supported: unsupported protocol version",
        ),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "501 Not Implemented"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400 Bad Request"),
        (b"GET /\r\nHost: a\r\n\r\n", "400 Bad Request"),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request"),
        (b"G\x00T / HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", "400 Bad Request"),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "400 Bad Request"),
        (b"GET http://[/ HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\x01\n\n", "400 Bad Request"),
    ],
)
def test_what_is_no_head_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(HeadError) as error:
        read(data)
    assert str(error.value) == text
    assert error.value.response().startswith(f"HTTP/1.1 {text}\r\n".encode())
    assert error.value.response().endswith(f"\r\n\r\n{text}".encode())


def test_an_endless_head_is_refused() -> None:
    reader = HeadReader()
    reader.feed(b"GET / HTTP/1.1\r\n")
    for _ in range(MAX_HEAD // 100 - 1):
        reader.feed(b"X: " + b"y" * 96 + b"\n")
    with pytest.raises(HeadError, match="431"):
        reader.feed(b"X: " + b"y" * 296)


def test_endless_empty_lines_are_refused() -> None:
    reader = HeadReader(limit=100)
    for _ in range(50):
        reader.feed(b"\r\n")
    with pytest.raises(HeadError, match="431"):
        reader.feed(b"\r\n")


def test_a_whole_head_over_the_limit_is_refused() -> None:
    with pytest.raises(HeadError, match="431"):
        HeadReader(limit=20).feed(GVFORWARDER)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    reader = HeadReader()
    try:
        if reader.feed(data + b"\r\n\r\n"):
            reader.head()
    except HeadError as error:
        assert error.response().startswith(b"HTTP/1.1 ")  # noqa: PT017 - some bytes are a head
