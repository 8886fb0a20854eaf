"""The name in a TLS ClientHello, however it is cut, and hellos that two readers may read in two ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire.stated import CONTRADICTION, MORE, NAME, NAMELESS, OTHER, Stated
from pipeline.wire.tls_hello import MAX_HELLO, HelloStream
from tests.support import hellos


def stated(data: bytes) -> Stated:
    return HelloStream().read(data)


def test_the_hello_of_openssl_states_its_name() -> None:
    found = stated(hellos.of_openssl("www.Example.com"))
    assert (found.kind, found.name, found.protocol, found.ech) == (NAME, "www.example.com", "tls", False)
    assert stated(hellos.of_openssl(None)).kind == NAMELESS


@given(st.integers(1, 3000), st.lists(st.integers(1, 2500), max_size=20), st.booleans())
def test_a_hello_in_any_pieces_and_records_states_the_same_name(
    size: int, cuts: list[int], large: bool
) -> None:
    more = [hellos.POST_QUANTUM] if large else []
    data = hellos.hello("a.example", extensions=[*more, hellos.ECH], size=size)
    stream = HelloStream()
    for cut in sorted(cuts):
        if cut < len(data):
            assert stream.read(data[:cut]).kind == MORE
    found = stream.read(data + b"\x17\3\3 more")
    assert (found.kind, found.name, found.ech) == (NAME, "a.example", True)


def test_a_hello_in_segments_and_records_of_one_byte() -> None:
    data = hellos.hello("a.example", extensions=[hellos.POST_QUANTUM], size=1)
    stream = HelloStream()
    answers = [stream.read(data[:end]).kind for end in range(len(data) + 1)]
    assert set(answers[:-1]) == {MORE}
    assert answers[-1] == NAME


@pytest.mark.parametrize(
    "data",
    [
        hellos.hello("a.example", "b.example"),
        hellos.hello("a.example", extensions=[hellos.server_name(b"b.example")]),
        hellos.records(hellos.message([hellos.server_name()])),
        hellos.records(hellos.message([hellos.server_name(b"a.example", kind=1)])),
        hellos.records(hellos.message([hellos.server_name(b"a.\0example")])),
        hellos.records(hellos.message([hellos.server_name("ä.example".encode())])),
        hellos.records(hellos.message([(0, b"\0\5\0\0\7a.example")])),
        hellos.records(hellos.message([])[:-2] + b"\0\7"),
        hellos.records(b"\1" + (MAX_HELLO + 1).to_bytes(3, "big")),
        hellos.records(b"\2\0\0\1x"),
        b"\x16\3\1\0\0",
        b"\x16\3\1\x40\1",
        hellos.hello("a.example", size=20)[:50] + b"\x15\3\3\0\2\1\0",
    ],
)
def test_what_two_readers_may_read_in_two_ways_is_a_contradiction(data: bytes) -> None:
    assert stated(data).kind == CONTRADICTION


def test_a_hello_without_extensions_or_of_ssl_2_states_no_name() -> None:
    bare = b"\3\3" + b"r" * 32 + b"\0" + b"\0\2\x13\1" + b"\1\0"
    assert stated(hellos.records(b"\1" + len(bare).to_bytes(3, "big") + bare)).kind == NAMELESS
    assert stated(b"\x80\x2e\1\3\1" + bytes(40)).kind == NAMELESS
    assert stated(b"\x80\x2e\1\0\2" + bytes(40)).kind == NAMELESS
    assert stated(b"\x80\x2e").kind == MORE


@pytest.mark.parametrize("data", [b"\0", b"\x80\x2e\2\3\1", b"\x16\2\1\0\5", b"\x17\3\3\0\5"])
def test_other_bytes_are_another_protocol(data: bytes) -> None:
    assert stated(data).kind == OTHER


@given(st.binary(max_size=400), st.booleans())
def test_no_bytes_are_too_odd(data: bytes, as_record: bool) -> None:
    found = stated(hellos.records(b"\1\0\0" + bytes((len(data) % 256,)) + data) if as_record else data)
    assert (found.kind == NAME) == bool(found.name)


@given(st.data())
def test_a_damaged_hello_never_states_a_name_that_it_does_not_have(data: st.DataObject) -> None:
    good = bytearray(hellos.hello("a.example"))
    good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    found = stated(bytes(good))
    assert found.kind != NAME or found.name.encode() in bytes(good).lower()
