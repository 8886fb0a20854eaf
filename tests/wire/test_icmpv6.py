"""ICMPv6 messages, neighbour discovery and router advertisements."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import dhcp, icmpv6, ip, ipv6
from pipeline.wire.errors import WireError
from tests.support.fuzz import macs, mutations, parsed, u8, u16, u32, windows
from tests.support.ipv6 import ALL_ROUTERS

SRC, DST = ipv6.link_local(b"\x02\0\0\0\0\x01"), ipv6.link_local(b"\x02\0\0\0\0\x02")
MAC = bytes.fromhex("5a94efe40cdd")
TARGET = 0xFD00 << 112 | 5
addrs6 = st.integers(0, (1 << 128) - 1)
targets = addrs6.filter(lambda addr: not ip.is_multicast(addr))


def packet_header(src: int = SRC, dst: int = DST, hops: int = 255) -> ipv6.Header:
    return ipv6.Header(0, 0, 0, 58, hops, src, dst)


def read(message: bytes, header: ipv6.Header) -> icmpv6.Discovery:
    """The message after both checks, as a stage reads it."""
    view = memoryview(b"??" + message + b"after")
    end = 2 + len(message)
    icmpv6.parse(view, 2, end, header.src, header.dst)
    return icmpv6.parse_discovery(view, 2, end, header)


def raw(kind: int, body: bytes, rest: int = 0, code: int = 0) -> bytes:
    return icmpv6.build(kind, code, rest, SRC, DST, body)


@given(u8, u8, u32, addrs6, addrs6, st.binary(max_size=60))
def test_parse_gives_back_what_was_built(
    kind: int, code: int, rest: int, src: int, dst: int, data: bytes
) -> None:
    message = icmpv6.build(kind, code, rest, src, dst, data)
    found = icmpv6.parse(memoryview(message), 0, len(message), src, dst)
    assert (found.type, found.code, found.rest) == (kind, code, rest)
    assert message[icmpv6.HEADER_LEN :] == data


def test_the_checksum_covers_the_pseudo_header_word_by_word() -> None:
    """RFC 8200 section 8.1."""
    built = icmpv6.build_solicitation(TARGET, MAC, SRC, ipv6.solicited_node(TARGET))
    ends = SRC.to_bytes(16, "big") + ipv6.solicited_node(TARGET).to_bytes(16, "big")
    words = ends + len(built).to_bytes(4, "big") + b"\0\0\0\x3a" + built
    total = sum(words[at] << 8 | words[at + 1] for at in range(0, len(words), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF


@pytest.mark.parametrize("where", range(1, 12))
def test_a_flipped_bit_anywhere_is_a_wrong_checksum(where: int) -> None:
    message = bytearray(icmpv6.build(icmpv6.ECHO_REQUEST, 0, 7, SRC, DST, b"data"))
    message[where] ^= 1
    with pytest.raises(WireError, match="icmpv6_message_dropped_bad_checksum"):
        icmpv6.parse(bytes(message), 0, len(message), SRC, DST)


@given(windows(60), addrs6, addrs6)
def test_any_bytes_are_a_message_or_refused_by_name(
    window: tuple[memoryview, int, int], src: int, dst: int
) -> None:
    parsed(icmpv6.parse, *window, src, dst)


# --- neighbour discovery ---------------------------------------------------------------------


@given(targets, macs)
def test_a_solicitation_is_read_as_it_was_built(target: int, mac: bytes) -> None:
    found = read(icmpv6.build_solicitation(target, mac, SRC, DST), packet_header())
    assert found == (icmpv6.NEIGHBOR_SOLICITATION, target, mac, 0)


@given(targets, macs, st.sampled_from([0, 1 << 29, 1 << 30, 1 << 31, 7 << 29]))
def test_an_advertisement_is_read_as_it_was_built(target: int, mac: bytes, flags: int) -> None:
    found = read(icmpv6.build_advertisement(target, mac, flags, SRC, DST), packet_header())
    assert found == (icmpv6.NEIGHBOR_ADVERTISEMENT, target, mac, flags)


def test_a_router_solicitation_may_name_its_sender() -> None:
    assert read(raw(133, b""), packet_header()) == (133, 0, b"", 0)
    assert read(raw(133, b"\x01\x01" + MAC), packet_header()) == (133, 0, MAC, 0)


def test_unknown_options_are_skipped() -> None:
    body = TARGET.to_bytes(16, "big") + b"\x0e\x02" + bytes(14) + b"\x01\x01" + MAC
    assert read(raw(135, body), packet_header()).mac == MAC


@pytest.mark.parametrize(
    "message",
    [
        raw(135, TARGET.to_bytes(16, "big")[:-1]),
        raw(135, ipv6.ALL_NODES.to_bytes(16, "big")),
        raw(135, TARGET.to_bytes(16, "big"), code=1),
        raw(135, TARGET.to_bytes(16, "big") + b"\x01\x00" + MAC),
        raw(135, TARGET.to_bytes(16, "big") + b"\x01\x02" + MAC),
        raw(135, TARGET.to_bytes(16, "big") + b"\x01\x02" + MAC + bytes(8)),
        raw(135, TARGET.to_bytes(16, "big") + b"\x01"),
        raw(135, TARGET.to_bytes(16, "big") + (b"\x0e\x01" + bytes(6)) * (icmpv6.MAX_OPTIONS + 1)),
    ],
)
def test_messages_that_a_node_must_ignore_are_malformed(message: bytes) -> None:
    with pytest.raises(WireError, match="nd_message_dropped_malformed"):
        read(message, packet_header())


def test_a_hop_limit_below_255_comes_from_beyond_the_link() -> None:
    with pytest.raises(WireError, match="nd_message_dropped_bad_hop_limit"):
        read(icmpv6.build_solicitation(TARGET, MAC, SRC, DST), packet_header(hops=254))


def test_who_has_no_address_asks_the_group_and_names_no_mac() -> None:
    group = ipv6.solicited_node(TARGET)
    bare = icmpv6.build(135, 0, 0, 0, group, TARGET.to_bytes(16, "big"))
    assert read(bare, packet_header(0, group)).target == TARGET
    for dst, message in (
        (group, icmpv6.build_solicitation(TARGET, MAC, 0, group)),
        (TARGET, icmpv6.build(135, 0, 0, 0, TARGET, TARGET.to_bytes(16, "big"))),
        (ALL_ROUTERS, icmpv6.build(133, 0, 0, 0, ALL_ROUTERS, b"\x01\x01" + MAC)),
    ):
        with pytest.raises(WireError, match="nd_message_dropped_malformed"):
            read(message, packet_header(0, dst))


def test_an_advertisement_to_a_group_does_not_answer_a_question() -> None:
    message = icmpv6.build_advertisement(TARGET, MAC, icmpv6.FLAG_SOLICITED, SRC, ipv6.ALL_NODES)
    with pytest.raises(WireError, match="nd_message_dropped_malformed"):
        read(message, packet_header(dst=ipv6.ALL_NODES))


@given(
    st.sampled_from([icmpv6.build_solicitation(TARGET, MAC, SRC, DST), raw(133, b"\x01\x01" + MAC)]).flatmap(
        mutations
    ),
    addrs6,
    u8,
)
def test_damaged_messages_are_read_or_refused_by_name(data: bytes, src: int, hops: int) -> None:
    if len(data) >= icmpv6.HEADER_LEN:
        found = parsed(icmpv6.parse_discovery, data, 0, len(data), packet_header(src, DST, hops))
        assert found is None or len(found.mac) in (0, 6)


# --- router advertisements ---------------------------------------------------------------------


def options(message: bytes) -> dict[int, bytes]:
    """The options of a router advertisement by their type, read as RFC 4861 section 4.6 has it."""
    found = {}
    rest = message[16:]
    while rest:
        kind, units = rest[0], rest[1]
        assert units, "an option has a length"
        assert kind not in found
        found[kind], rest = rest[2 : units * 8], rest[units * 8 :]
    return found


@given(macs, u16, u32, targets, u32, u32, st.lists(st.sampled_from(["a", "b.example", "x" * 63]), max_size=9))
def test_a_router_advertisement_says_what_it_was_made_of(
    mac: bytes, lifetime: int, mtu: int, prefix: int, valid: int, preferred: int, names: list[str]
) -> None:
    search = dhcp.build_search_list(names)
    says = icmpv6.RouterAdvertisement(mac, lifetime, mtu, prefix, valid, preferred, TARGET, search, 1800)
    message = icmpv6.build_router_advertisement(says, SRC, ipv6.ALL_NODES)
    head = icmpv6.parse(message, 0, len(message), SRC, ipv6.ALL_NODES)
    # RFC 4861 section 4.2: M and O say that DHCPv6 has addresses and other parameters.
    assert (head.type, head.code, head.rest) == (134, 0, 64 << 24 | 0xC0 << 16 | lifetime)
    found = options(message)
    assert found[1] == mac
    assert found[5] == bytes(2) + mtu.to_bytes(4, "big")
    times = valid.to_bytes(4, "big") + preferred.to_bytes(4, "big")
    assert found[3] == bytes((64, 0xC0)) + times + bytes(4) + prefix.to_bytes(16, "big")
    assert found[25] == bytes(2) + (1800).to_bytes(4, "big") + TARGET.to_bytes(16, "big")
    if names:
        padded = found[31][6:]
        assert padded.startswith(search)
        assert set(padded[len(search) :]) <= {0}
        assert len(padded) - len(search) < 8
    else:
        assert 31 not in found


def test_without_names_there_is_no_option_about_them() -> None:
    says = icmpv6.RouterAdvertisement(MAC, 0, 1500, TARGET, 1, 1, 0, b"", 1)
    assert set(options(icmpv6.build_router_advertisement(says, SRC, DST))) == {1, 3, 5}


@pytest.mark.parametrize(
    ("seconds", "lifetime_and_length"),
    # 13 bits in units of 8 seconds, rounded up, then the prefix length code 0.
    [(0, "0000"), (1, "0008"), (8, "0008"), (9, "0010"), (1800, "0708"), (65528, "fff8"), (70000, "fff8")],
)
def test_pref64_has_a_scaled_lifetime_and_the_first_96_bits(seconds: int, lifetime_and_length: str) -> None:
    says = icmpv6.RouterAdvertisement(MAC, 0, 1500, TARGET, 1, 1, 0, b"", 1, ip.NAT64, seconds)
    message = icmpv6.build_router_advertisement(says, SRC, ipv6.ALL_NODES)
    # RFC 8781 section 4: type 38, length 2, lifetime, prefix.
    assert bytes.fromhex(f"2602 {lifetime_and_length} 0064ff9b 00000000 00000000") in message
    assert set(options(message)) == {1, 3, 5, 24, 38}
    assert icmpv6.parse(message, 0, len(message), SRC, ipv6.ALL_NODES).type == 134


def test_packets_of_neighbour_discovery_have_the_hop_limit_255_and_others_have_not() -> None:
    for message, hops in ((icmpv6.build_solicitation(TARGET, MAC, SRC, DST), 255), (raw(129, b""), 64)):
        packet = icmpv6.frame(MAC, MAC, SRC, DST, message)[14:]
        header = ipv6.parse(packet, 0, len(packet))
        assert (header.hop_limit, header.next_header) == (hops, 58)
    assert ipaddress.IPv6Address(header.dst).is_link_local
