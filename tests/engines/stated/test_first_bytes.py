"""The first bytes of a connection: which protocol it may be, and how many bytes are asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.stated.first_bytes import MAX_BYTES, FirstBytes
from pipeline.wire.stated import CONTRADICTION, MORE, NAME, NAMELESS, OTHER
from tests.support import hellos


@pytest.mark.parametrize(
    ("data", "kind", "name"),
    [
        (hellos.hello("a.example"), NAME, "a.example"),
        (b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", NAME, "a.example"),
        (b"SSH-2.0-x\r\n", OTHER, ""),
        (b"\0\1", OTHER, ""),
        (b"", MORE, ""),
    ],
)
def test_the_first_byte_says_which_protocol_it_may_be(data: bytes, kind: int, name: str) -> None:
    found = FirstBytes().read(data)
    assert (found.kind, found.name) == (kind, name)


@pytest.mark.parametrize(
    ("begin", "fill", "kind"),
    [
        (b"\x16\3\1\0\4\1\0\x3f\0", b"\x16\3\1\0\1x", NAMELESS),
        (b"GET /", b"x", NAMELESS),
        (b"GET / HTTP/1.1\r\n", b"X: y\n", NAMELESS),
        (b"x", b"x", OTHER),
    ],
)
def test_no_more_bytes_are_asked_for_than_a_long_hello_needs(begin: bytes, fill: bytes, kind: int) -> None:
    reader = FirstBytes()
    data = begin
    while reader.read(data).kind == MORE:
        data += fill * 100
        assert len(data) < MAX_BYTES + 600
    assert reader.read(data).kind == kind


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"GET / HTTP/1.1\r\nHost: a.exam", NAMELESS),
        (b"GET / HTTP/1.1", NAMELESS),
        (b"\r\nG", NAMELESS),
        (b"\r\n", NAMELESS),
        (b"PROPFIND /x", NAMELESS),
        (b"\x16", NAMELESS),
        (b"JDWP-Handshake", OTHER),
    ],
)
def test_a_head_that_stops_states_no_name_and_is_no_other_protocol(data: bytes, kind: int) -> None:
    # At port 8080 another protocol is allowed. The guest would send the rest of its head later.
    reader = FirstBytes()
    assert reader.read(data).kind == MORE
    assert reader.end().kind == kind


def test_an_empty_record_before_a_hello_does_not_make_it_another_protocol() -> None:
    empty = b"\x16\3\1\0\0"
    assert FirstBytes().read(empty + hellos.hello("a.example")).kind == CONTRADICTION
    assert FirstBytes().read(b"\x16\3\1\xff\xff").kind == CONTRADICTION
    assert FirstBytes().read(b"\x16\4\1\0\1").kind == OTHER


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=10))
def test_pieces_of_any_bytes_have_one_answer(data: bytes, cuts: list[int]) -> None:
    whole = FirstBytes().read(data)
    reader = FirstBytes()
    for cut in sorted(cuts):
        found = reader.read(data[:cut])
        if found.kind != MORE:
            break
    else:
        found = reader.read(data)
    if whole.kind != MORE:
        assert found.kind != MORE
        assert found.name == whole.name
