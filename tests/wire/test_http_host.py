"""The name in the head of an HTTP/1 request, and heads that two servers may read in two ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire.http_host import RequestStream
from pipeline.wire.stated import CONTRADICTION, MORE, NAME, NAMELESS, OTHER, Stated


def stated(data: bytes) -> Stated:
    return RequestStream().read(data)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET / HTTP/1.1\nhost:A.Example.:8080\nX: y\n\n",
        b"\r\n\r\nPOST /x HTTP/1.0\r\nX: a:b\r\nHOST:\ta.example \r\n\r\nbody\r\nHost: b.example\r\n\r\n",
        b"GET http://a.example/path?x HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET http://a.example:80 HTTP/1.0\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET //b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ],
)
def test_a_head_states_its_host(head: bytes) -> None:
    found = stated(head)
    assert (found.kind, found.name, found.protocol) == (NAME, "a.example", "http")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.example\r\nhost: b.example\r\n\r\n",
        b"GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET HTTPS://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"CONNECT b.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET b.example HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: b.example\r\nHost: a.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: y\r\n Host: b.example\r\nHost: a.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : b.example\r\nHost: a.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: y\rHost: b.example\r\nHost: a.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a@b.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.example/\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.example\0\r\n\r\n",
        b"GET / HTTP/1.1\r\nnonsense\r\nHost: a.example\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET\t/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b" GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET / http/1.1\r\nHost: a.example\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost: a.example\r\n\r\n",
        b"GET http://a.example\\@b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ],
)
def test_what_two_servers_may_read_in_two_ways_is_a_contradiction(head: bytes) -> None:
    assert stated(head).kind == CONTRADICTION


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET /\r\n",
        b"  GET /\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_a_request_without_a_host_states_no_name(head: bytes) -> None:
    assert stated(head).kind == NAMELESS


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-OpenSSH_9.2\r\n", b"EHLO me\r\n", b"GET key\r\n", b"a\0", b"\x16"]
)
def test_other_lines_are_another_protocol(data: bytes) -> None:
    assert stated(data).kind == OTHER


def test_an_address_as_host_is_a_name_that_no_pattern_has() -> None:
    assert stated(b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n").name == "[::1]"
    assert stated(b"GET / HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n").name == "10.0.0.1"


@given(st.lists(st.integers(0, 80), max_size=80), st.sampled_from([b"\r\n", b"\n"]))
def test_a_head_in_any_pieces_states_the_same_name(cuts: list[int], end: bytes) -> None:
    head = end.join([b"", b"GET / HTTP/1.1", b"X: y", b"Host: a.example", b"Y: z", b"", b""])
    stream = RequestStream()
    for cut in sorted(cuts):
        if cut < len(head):
            assert stream.read(head[:cut]).kind == MORE
    assert stream.read(head).name == "a.example"


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_are_too_odd(data: bytes, as_head: bool) -> None:
    found = stated(b"GET / HTTP/1.1\r\n" + data + b"\r\n\r\n" if as_head else data)
    assert (found.kind == NAME) == bool(found.name)
