"""Keys and values of the store: what is written is read, and anything else is an error with a name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.fleet import values
from pipeline.engines.fleet.entries import Claim, Member
from pipeline.engines.fleet.values import Host, Name, Place, StoredValueError
from pipeline.wire import ip

READERS = (values.host_of, values.member_of, values.claim_of, values.place_of, values.name_of, values.zone_of)


def test_what_is_written_is_read() -> None:
    host = Host("2001:db8::1", 4789, "net", "run", 7)
    assert values.host_of(values.host_bytes(host)) == host
    member = Member(3, 9, True)
    assert values.member_of(values.member_bytes(member)) == member
    for mac in (b"", b"\2\0\0\0\0\1"):
        claim = Claim("alpha", 3, mac)
        assert values.claim_of(values.claim_bytes(claim)) == claim
    place = Place("alpha", (bytes((10, 0, 0, 1)), bytes(range(16))))
    assert values.place_of(values.place_bytes(place)) == place
    name = Name("alpha", bytes((10, 0, 0, 1)))
    assert values.name_of(values.name_bytes(name)) == name


def test_keys_have_their_addresses() -> None:
    mac, addr = b"\2\0\0\0\0\1", ip.parse_ipv4("192.168.127.9")
    assert values.mac_key(mac) == "place.020000000001"
    assert values.mac_of("place.020000000001") == mac
    assert values.addr_of(values.claim_key(addr)) == addr
    for key in ("place.02000000000", "place.0200000000zz", "place.02 00000000001"):
        with pytest.raises(StoredValueError):
            values.mac_of(key)
    with pytest.raises(StoredValueError):
        values.addr_of("claim.192.168.127")


@given(st.binary(max_size=80) | st.recursive(st.none(), st.lists).map(str).map(str.encode))
def test_any_bytes_are_a_value_or_an_error(value: bytes) -> None:
    for read in READERS:
        try:
            read(value)
        except StoredValueError:
            continue


@pytest.mark.parametrize(
    "value",
    [
        b'{"host":"a","epoch":-1,"mac":""}',
        b'{"host":"a","epoch":true,"mac":""}',
        b'{"host":"a","epoch":1,"mac":"02"}',
        b'{"host":7,"epoch":1,"mac":""}',
        b'{"host":"a","epoch":1e999,"mac":""}',
        b'["host"]',
        b"{" + b" " * values.MAX_VALUE + b"}",
        b"[" * 5000,
    ],
)
def test_a_claim_that_is_wrong_is_refused(value: bytes) -> None:
    with pytest.raises(StoredValueError):
        values.claim_of(value)
