"""Requests by hand: what is made of their heads, at any split, and that no byte moves between requests."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.control.http.hand_written import Rewriter, rewrite

GET = b"GET /leases HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


def through(data: bytes, *cuts: int, limit: int = 1000) -> bytes:
    rewriter = Rewriter(limit)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return b"".join(rewriter.feed(data[begin:end]) for begin, end in pairwise(edges))


@pytest.mark.parametrize("head", [GET, POST + b"12345", POST + b"\n\n\n\n\n" + GET, GET * 3])
def test_what_is_well_formed_is_not_changed(head: bytes) -> None:
    assert through(head) == head


@pytest.mark.parametrize(
    "text",
    [
        b"GET /leases HTTP/1.1\nHost: a\n\n",
        b"GET /leases HTTP/1.1\r\nHost: a\n\r\n",
        b"\n\r\nGET /leases HTTP/1.1\nHost: a\r\n\n",
    ],
)
def test_lines_that_end_in_lf_alone_get_their_cr(text: bytes) -> None:
    assert through(text) == GET
    assert through(text + text) == GET + GET, "later requests of the connection as well"


def test_equal_lengths_become_one() -> None:
    head = b"POST /x HTTP/1.1\nHost: a\nContent-Length: 5\ncontent-length:5 \nX: y\n\n"
    made = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX: y\r\n\r\n"
    assert through(head + b"a\n\nbc" + head + b"12345") == made + b"a\n\nbc" + made + b"12345"


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 5\nContent-Length: 6\n",
        b"Content-Length: 5\nContent-Length: 05\n",
        b"Content-Length: 5, 5\nContent-Length: 5, 5\n",
        b"Content-Length: +5\n",
        b"Content-Length: \n",
        b"Content-Length : 5\n",
        b" Content-Length: 5\n",
        b"X: a\rb\n",
        b"X: \0\n",
        b"no field\n",
        b"Content-Length: 5\nTransfer-Encoding: chunked\nContent-Length: 6\n",
    ],
)
def test_a_head_that_is_odd_in_any_other_way_goes_on_as_it_came_and_all_after_it(fields: bytes) -> None:
    data = b"POST /x HTTP/1.1\nHost: a\n" + fields + b"\n12345GET / HTTP/1.1\nHost: a\n\n"
    assert through(data) == data


@pytest.mark.parametrize(
    "field", [b"Transfer-Encoding: chunked", b"transfer-encoding:x", b"Upgrade: websocket"]
)
def test_after_a_body_of_unknown_length_nothing_is_changed_any_more(field: bytes) -> None:
    rest = b"5\nGET / HTTP/1.1\n\n0\n\nGET / HTTP/1.1\nHost: a\n\n"
    head = b"POST /x HTTP/1.1\nHost: a\n" + field + b"\n\n"
    assert through(head + rest) == head.replace(b"\n", b"\r\n") + rest


@pytest.mark.parametrize("cuts", [(), (50,), (150,), (160, 225, 226), tuple(range(400))])
def test_a_head_beyond_the_limit_is_dropped_with_all_that_follows(cuts: tuple[int, ...]) -> None:
    head = b"GET / HTTP/1.1\nX: " + b"y" * 200
    assert through(GET + head, *cuts, limit=100) == GET
    assert through(GET + head + b"\n\n" + GET, *cuts, limit=100) == GET
    for data, ended in ((head, False), (head + b"\n", False), (head + b"\n\nmore", True)):
        rewriter = Rewriter(100)
        edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
        assert b"".join(rewriter.feed(data[begin:end]) for begin, end in pairwise(edges)) == b""
        assert (rewriter.too_long, rewriter.ended) == (True, ended)


def test_the_length_of_a_body_is_known() -> None:
    assert rewrite(POST) == (POST, 5)
    assert rewrite(GET) == (GET, 0)
    assert rewrite(b"CONNECT a:1 HTTP/1.1\r\n\r\n")[1] == -1


PIECES = st.lists(
    st.sampled_from(
        [
            GET, POST, b"12345", b"\n", b"\r\n", b"\r", b"GET / HTTP/1.1\n", b"Content-Length: 3\n", b"X:\n",
            b"Transfer-Encoding: chunked\n", b"abc", b"\n\n", b" ",
        ]
    ),
    max_size=12,
)  # fmt: skip


@given(PIECES, st.lists(st.integers(0, 300), max_size=6))
def test_any_split_gives_the_same_and_no_byte_but_line_ends_is_lost(
    pieces: list[bytes], cuts: list[int]
) -> None:
    data = b"".join(pieces)
    whole = Rewriter(1000)
    made = whole.feed(data)
    assert through(data, *cuts) == made
    # What is not out yet is the beginning of a head.
    visible = (made + whole.held).translate(None, b"\r\n")
    if visible != data.translate(None, b"\r\n"):
        assert data.lower().count(b"content-length: 3\n") > 1, "only a repeated length is left out"
