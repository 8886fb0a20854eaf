"""The name in QUIC Initial packets, with the keys of RFC 9001 appendix A."""

import itertools

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.stated.quic import MAX_PACKETS, Initials
from pipeline.wire.stated import CONTRADICTION, MORE, NAME, OTHER
from tests.support import hellos
from tests.support.hellos import crypto, initial, message, server_name

HELLO = message([hellos.GREASE, server_name(b"a.example"), hellos.POST_QUANTUM])


def test_one_packet_with_the_whole_hello_states_its_name() -> None:
    found = Initials().read(initial(crypto(0, message([server_name(b"a.Example")]))))
    assert (found.kind, found.name, found.protocol) == (NAME, "a.example", "quic")


def test_a_hello_in_two_datagrams_in_the_wrong_order() -> None:
    reader = Initials()
    assert reader.read(initial(crypto(700, HELLO[700:]), number=1)).kind == MORE
    assert reader.read(initial(crypto(0, HELLO[:700]))).name == "a.example"


@given(st.lists(st.integers(1, len(HELLO) - 1), max_size=8, unique=True), st.randoms(use_true_random=False))
def test_pieces_in_any_order_state_the_same_name(cuts: list[int], random: object) -> None:
    edges = [0, *sorted(cuts), len(HELLO)]
    pieces = [crypto(begin, HELLO[begin:end]) for begin, end in itertools.pairwise(edges)]
    random.shuffle(pieces)  # type: ignore[attr-defined]
    assert Initials().read(initial(b"\1".join(pieces))).name == "a.example"


def test_pieces_that_overlap_must_agree() -> None:
    again = crypto(0, HELLO[:900]) + crypto(500, HELLO[500:])
    assert Initials().read(initial(again)).name == "a.example"
    other = HELLO.replace(b"a.example", b"b.example")
    twice = crypto(0, HELLO[:900]) + crypto(50, other[50:])
    assert Initials().read(initial(twice)).kind == CONTRADICTION


def test_bytes_that_are_no_initial_packet_are_another_protocol() -> None:
    good = initial(crypto(0, HELLO))
    for data in (
        b"",
        b"x",
        b"\x40" + good[1:],
        good[:-1],
        good[:-1] + bytes((good[-1] ^ 1,)),
        b"\xc3\0\0\0\0" + good[5:],
    ):
        assert Initials().read(data).kind == OTHER


def test_a_hello_that_never_ends_is_given_up() -> None:
    reader = Initials()
    answers = [reader.read(initial(crypto(0, HELLO[:9]), number=n)).kind for n in range(MAX_PACKETS + 1)]
    assert answers == [MORE] * MAX_PACKETS + [CONTRADICTION]


@given(st.binary(max_size=300))
def test_no_payload_is_too_odd(payload: bytes) -> None:
    assert (found := Initials().read(initial(payload))).kind != NAME or found.name


@pytest.mark.parametrize("version", [1, 0x6B3343CF])
@pytest.mark.parametrize("extra", [0, 1500])
def test_what_a_real_client_sends_states_its_name(version: int, extra: int) -> None:
    alpn = ["h3", *(f"x{number:03}" for number in range(extra // 5))]
    settings = QuicConfiguration(is_client=True, alpn_protocols=alpn, server_name="www.example.com")
    settings.original_version = version
    settings.supported_versions = [version]
    client = QuicConnection(configuration=settings)
    client.connect(("192.0.2.1", 443), now=0.0)
    datagrams = [data for data, _ in client.datagrams_to_send(now=0.0)]
    assert len(datagrams) == (2 if extra else 1)
    reader = Initials()
    answers = [reader.read(data) for data in datagrams]
    assert [answer.kind for answer in answers[:-1]] == [MORE] * (len(datagrams) - 1)
    assert (answers[-1].kind, answers[-1].name) == (NAME, "www.example.com")
