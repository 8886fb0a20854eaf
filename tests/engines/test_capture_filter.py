"""Which frames fit a filter, and that a guest cannot break it with what it sends."""

import ipaddress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.engines import capture_filter
from pipeline.engines.capture_filter import ARP, HEAD_BYTES, NOTHING, Filter, FilterError, read
from pipeline.wire import arp, ethernet, ipv4, ipv6
from tests.support.frames import (
    FROM_GUEST,
    GATEWAY_MAC,
    GUEST,
    GUEST_MAC,
    REMOTE,
    TO_GUEST,
    tcp_frame,
    udp_frame,
)

LINK = 3
OTHER_LINK = 4
V6 = ipaddress.IPv6Address("2001:db8::1"), ipaddress.IPv6Address("2001:db8:1::2")


def fits(wanted: Filter, frame: bytes, link: int = LINK, from_guest: bool = True) -> bool:
    return wanted.fits(read(frame, 0, len(frame)), link, from_guest)


def ipv6_frame(proto: int, payload: bytes) -> bytes:
    header = b"\x60\0\0\0" + len(payload).to_bytes(2, "big") + bytes([proto, 64])
    return FROM_GUEST[:12] + b"\x86\xdd" + header + V6[0].packed + V6[1].packed + payload


QUESTION = ethernet.header(ethernet.BROADCAST, GUEST_MAC, ethernet.TYPE_ARP) + arp.build(
    arp.REQUEST, GUEST_MAC, GUEST, bytes(6), REMOTE
)
FRAMES = {
    "tcp": tcp_frame(1, b"hello"),
    "udp": udp_frame(b"hello"),
    "icmp": FROM_GUEST + ipv4.build(28, 0, 64, 1, GUEST, REMOTE) + b"\x08" + bytes(7),
    "icmp6": ipv6_frame(58, bytes(8)),
    "arp": QUESTION,
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_protocol_leaves_its_frames_alone(name: str) -> None:
    for protocol in ("arp", "icmp", "tcp", "udp"):
        assert fits(Filter(protocols=[protocol]), FRAMES[name]) == name.startswith(protocol)
    assert fits(Filter(), FRAMES[name])


def test_ports_after_extension_headers_are_read_unless_it_is_a_later_fragment() -> None:
    ports = (40000).to_bytes(2, "big") + (53).to_bytes(2, "big") + bytes(4)
    options = bytes((44, 0)) + bytes(6)
    for offset, is_read in ((0, True), (8, False)):
        frame = ipv6_frame(60, options + ipv6.build_fragment(17, offset, True, 1) + ports)
        assert fits(Filter(protocols=["udp"]), frame)
        assert fits(Filter(ports=["53"]), frame) is is_read


def test_one_entry_of_each_list_must_fit() -> None:
    wanted = Filter(hosts=["10.0.0.1", "93.184.216.34"], ports=["53", "80-90"], protocols=["tcp", "udp"])
    assert fits(wanted, tcp_frame(1))
    assert fits(wanted, tcp_frame(1, src=REMOTE, dst=GUEST, sport=80, dport=40000), from_guest=False)
    assert not fits(wanted, tcp_frame(1, dst=REMOTE + 1))
    assert not fits(wanted, tcp_frame(1, dport=91))
    assert not fits(wanted, FRAMES["icmp"])


def test_networks_of_both_versions_are_hosts() -> None:
    assert fits(Filter(hosts=["93.184.0.0/16"]), FRAMES["udp"])
    assert not fits(Filter(hosts=["93.185.0.0/16"]), FRAMES["udp"])
    assert fits(Filter(hosts=["2001:db8:1::/48"]), FRAMES["icmp6"])
    assert not fits(Filter(hosts=["2001:db8:2::/48"]), FRAMES["icmp6"])
    assert not fits(Filter(hosts=["::/0"]), FRAMES["tcp"]), "an IPv4 address is no IPv6 address"


@pytest.mark.parametrize("tags", [b"\x81\0\0\x05", b"\x88\xa8\0\x05\x81\0\0\x06"], ids=["tag", "two tags"])
def test_tags_of_vlans_are_skipped(tags: bytes) -> None:
    frame = FRAMES["tcp"][:12] + tags + FRAMES["tcp"][12:]
    assert fits(Filter(ports=["80"], hosts=["93.184.216.34"]), frame)


def test_ports_come_after_options_and_not_in_later_fragments() -> None:
    plain = tcp_frame(1, b"data")
    options = plain[:14] + b"\x4f" + plain[15:34] + bytes(40) + plain[34:]
    assert fits(Filter(ports=["80"]), options)
    later = plain[:20] + b"\x00\x10" + plain[22:]
    assert not fits(Filter(ports=["80"]), later)
    assert fits(Filter(hosts=["93.184.216.34"], protocols=["tcp"]), later)


@pytest.mark.parametrize("guest", [str(LINK), "5a:94:ef:e4:0c:ee", "5A-94-EF-E4-0C-EE", "192.168.127.2"])
def test_a_guest_is_its_link_its_mac_or_its_address(guest: str) -> None:
    wanted = Filter(guests=[guest])
    answer = tcp_frame(1, src=REMOTE, dst=GUEST, eth_header=TO_GUEST)
    assert fits(wanted, FRAMES["tcp"])
    assert fits(wanted, answer, from_guest=False)
    other = tcp_frame(1, src=GUEST + 1, eth_header=GATEWAY_MAC + bytes(6) + b"\x08\0")
    assert not fits(wanted, other, OTHER_LINK)


@pytest.mark.parametrize("guest", [str(V6[0]), "2001:DB8:0:0::1"])
def test_a_guest_is_its_ipv6_address_too(guest: str) -> None:
    frame = FRAMES["icmp6"]
    answer = TO_GUEST[:12] + frame[12:22] + V6[1].packed + V6[0].packed + frame[54:]
    assert fits(Filter(guests=[guest]), frame)
    assert fits(Filter(guests=[guest]), answer, from_guest=False)
    assert not fits(Filter(guests=[guest]), answer, OTHER_LINK), "another guest sends it"
    assert not fits(Filter(guests=[str(V6[1])]), frame)


def test_what_another_guest_sends_to_a_guest_is_of_that_guest_on_its_own_link_only() -> None:
    wanted = Filter(guests=["192.168.127.2"])
    frame = tcp_frame(1, src=GUEST + 1, dst=GUEST, eth_header=GUEST_MAC + bytes(6) + b"\x08\0")
    assert not fits(wanted, frame, OTHER_LINK, from_guest=True)
    assert fits(wanted, frame, LINK, from_guest=False)


def test_frames_to_a_group_are_of_the_guest_that_has_sent_from_the_link() -> None:
    wanted = Filter(guests=["5a:94:ef:e4:0c:ee"])
    flooded = ethernet.BROADCAST + bytes(6) + QUESTION[12:]
    assert not fits(wanted, flooded, from_guest=False)
    assert fits(wanted, QUESTION)
    assert fits(wanted, flooded, from_guest=False)
    assert not fits(wanted, flooded, OTHER_LINK, from_guest=False)
    wanted.forget_link(LINK)
    assert not fits(wanted, flooded, from_guest=False), "another guest may have the number now"


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ({"guests": ["guest"]}, "guest 'guest' is wrong (allowed: the number of a link, a MAC address"),
        ({"guests": [""]}, "guest '' is wrong"),
        ({"guests": ["1.2.3"]}, "guest '1.2.3' is wrong"),
        ({"hosts": ["example.com"]}, "host 'example.com' is wrong (allowed: an IPv4 or IPv6 address, or a"),
        ({"ports": ["0"]}, "port '0' is wrong (allowed: 1 to 65535, or a range low-high)"),
        ({"ports": ["90-80"]}, "port '90-80' is wrong"),
        ({"ports": ["65536"]}, "port '65536' is wrong"),
        ({"ports": ["http"]}, "port 'http' is wrong"),
        ({"protocols": ["sctp"]}, "protocol 'sctp' is wrong (allowed: arp, icmp, tcp, udp)"),
        ({"ports": ["1"] * 65}, "port is given 65 times (allowed: 64)"),
    ],
)
def test_a_wrong_entry_is_named(entries: dict[str, list[str]], text: str) -> None:
    with pytest.raises(FilterError) as failure:
        Filter(**entries)
    assert str(failure.value).startswith(text)


HOSTILE = st.one_of(
    st.binary(max_size=HEAD_BYTES),
    st.tuples(
        st.binary(min_size=12, max_size=12),
        st.sampled_from([b"", b"\x81\0\0\x05", b"\x81\0\0\x05" * 2, b"\x81\0\0\x05" * 3]),
        st.sampled_from([b"\x08\0", b"\x08\x06", b"\x86\xdd", b"\x81\0", b"\x88\xa8"]),
        st.sampled_from([b"", b"\x45", b"\x4f", b"\x40", b"\x60"]),
        st.binary(max_size=70),
    ).map(b"".join),
)
FILTER = Filter(["5a:94:ef:e4:0c:ee", "1.2.3.4"], ["1.2.3.4", "::1"], ["53"], ["udp", "arp"])


@settings(deadline=None)
@given(frame=HOSTILE, after=st.binary(min_size=100, max_size=100), cut=st.integers(0, 120))
@example(frame=FRAMES["tcp"], after=bytes(100), cut=36)
def test_no_byte_after_a_frame_counts_and_nothing_is_raised(frame: bytes, after: bytes, cut: int) -> None:
    frame = frame[:cut]
    alone = read(frame, 0, len(frame))
    among = read(memoryview(b"\xff" * 7 + frame + after), 7, 7 + len(frame))
    for name in capture_filter.Head.__slots__:
        assert getattr(alone, name) == getattr(among, name), name
    assert NOTHING <= alone.protocol <= 255
    assert -1 <= alone.src_port <= 0xFFFF
    FILTER.fits(alone, LINK, True)
    FILTER.fits(alone, LINK, False)


def test_the_head_of_an_arp_message_has_its_addresses() -> None:
    head = read(QUESTION, 0, len(QUESTION))
    assert (head.protocol, head.src, head.dst) == (ARP, GUEST, REMOTE)
    short = QUESTION[: 14 + arp.LEN - 1]
    assert read(short, 0, len(short)).protocol == NOTHING
