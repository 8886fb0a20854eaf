"""Echo replies and error messages of the gateway."""

import pytest

from pipeline.engines import icmp as engine
from pipeline.wire import checksum, icmp, ip, ipv4
from pipeline.wire.errors import WireError

GATEWAY, HOST, GUEST, FAR, BROADCAST = map(
    ip.parse_ipv4, ("192.168.127.1", "192.168.127.254", "192.168.127.2", "8.8.8.8", "192.168.127.255")
)
GROUP, LOOPBACK, RESERVED = map(ip.parse_ipv4, ("224.0.0.251", "127.0.0.1", "240.0.0.1"))
OWN = frozenset((GATEWAY, HOST))


def packet(
    payload: bytes, proto: int = ipv4.PROTO_UDP, src: int = GUEST, dst: int = FAR, ident: int = 7,
    flags: int = 0, frag_off: int = 0, ttl: int = 5, tos: int = 0,
) -> bytes:  # fmt: skip
    header = ipv4.build(
        20 + len(payload), ident, ttl, proto, src, dst, flags=flags, frag_off=frag_off, tos=tos
    )
    return header + payload


def echo(**changes: int) -> bytes:
    message = icmp.build_echo(icmp.ECHO_REQUEST, 1, 2, b"ping")
    return packet(message, **{"proto": ipv4.PROTO_ICMP, "dst": GATEWAY} | changes)


def answerable(data: bytes) -> bool:
    header = ipv4.parse(data, 0, len(data))
    message = icmp.parse(data, header.ihl, len(data))
    return engine.is_answerable_echo(message, header.src, header.dst, OWN)


@pytest.mark.parametrize(
    "dst, want", [(GATEWAY, True), (HOST, True), (FAR, False), (GUEST, False), (BROADCAST, False)]
)
def test_only_own_addresses_answer_echo(dst: int, want: bool) -> None:
    assert answerable(echo(dst=dst)) is want


@pytest.mark.parametrize(
    "changes",
    [{"src": 0}, {"src": ip.BROADCAST}, {"src": GROUP}, {"src": LOOPBACK}, {"src": RESERVED}],
)
def test_impossible_senders_get_no_echo(changes: dict[str, int]) -> None:
    assert not answerable(echo(**changes))


def test_a_guest_with_an_inner_address_gets_echos_and_errors() -> None:
    inner = ip.parse_ipv4("240.0.2.1")
    assert answerable(echo(src=inner))
    error = errors().unreachable(packet(b"12345678", src=inner), 0, 1.0, icmp.HOST_UNREACHABLE)
    assert error is not None
    assert error.dst == inner


@pytest.mark.parametrize(
    "kind, code", [(icmp.ECHO_REPLY, 0), (icmp.UNREACHABLE, 1), (icmp.ECHO_REQUEST, 1), (13, 0)]
)
def test_other_messages_get_no_echo(kind: int, code: int) -> None:
    assert not answerable(packet(icmp.build(kind, code, 0), ipv4.PROTO_ICMP, dst=GATEWAY))


def errors(**changes: float) -> engine.IcmpErrors:
    return engine.IcmpErrors(GATEWAY, BROADCAST, **changes)


def read(error: engine.Error) -> icmp.Message:
    assert error.proto == ipv4.PROTO_ICMP
    return icmp.parse(error.message, 0, len(error.message))


def test_unreachable_quotes_header_and_eight_bytes() -> None:
    about = packet(b"12345678rest")
    error = errors().unreachable(b"-" + about, 1, 1.0, icmp.PORT_UNREACHABLE, src=FAR)
    assert error is not None
    assert (error.src, error.dst) == (FAR, GUEST)
    assert read(error)[:2] == (icmp.UNREACHABLE, icmp.PORT_UNREACHABLE)
    assert error.message[8:] == about[:28]


def test_errors_come_from_the_gateway_unless_told_otherwise() -> None:
    for code in (icmp.NET_UNREACHABLE, icmp.HOST_UNREACHABLE, icmp.PROTOCOL_UNREACHABLE):
        error = errors().unreachable(packet(b"12345678"), 0, 1.0, code)
        assert error is not None
        assert error.src == GATEWAY
        assert read(error).code == code


def test_fragmentation_needed_tells_the_mtu() -> None:
    error = errors().unreachable(packet(b"12345678"), 0, 1.0, icmp.FRAGMENTATION_NEEDED, mtu=1400)
    assert error is not None
    assert read(error).rest == 1400


def test_time_exceeded_quotes_header_and_eight_bytes() -> None:
    about = packet(b"12345678rest", flags=ipv4.FLAG_MF)
    error = errors().time_exceeded(about, 0, 1.0, icmp.REASSEMBLY_EXCEEDED)
    assert error is not None
    assert read(error)[:2] == (icmp.TIME_EXCEEDED, 1)
    assert error.message[8:] == about[:28]


def test_ip_options_of_the_offender_are_quoted_whole() -> None:
    head = bytearray(packet(b"12345678"))
    head[0], head[3] = 0x46, 32
    head[10:12] = b"\0\0"
    about = bytearray(head[:20] + b"\x01\x01\x01\x00" + head[20:])
    about[10:12] = checksum.checksum(about[:24]).to_bytes(2, "big")
    error = errors().unreachable(bytes(about), 0, 1.0, icmp.HOST_UNREACHABLE)
    assert error is not None
    assert error.message[8:] == about


def test_a_short_offender_is_quoted_as_far_as_it_goes() -> None:
    about = packet(b"abc") + b"padding of the frame"
    error = errors().unreachable(about, 0, 1.0, icmp.HOST_UNREACHABLE)
    assert error is not None
    assert error.message[8:] == about[:23]


@pytest.mark.parametrize("kind", sorted(icmp.ERRORS))
def test_no_error_about_an_error(kind: int) -> None:
    about = packet(icmp.build(kind, 0, 0, bytes(28)), ipv4.PROTO_ICMP)
    assert errors().unreachable(about, 0, 1.0, icmp.HOST_UNREACHABLE) is None


def test_an_error_about_an_echo_request_but_not_about_an_empty_icmp_packet() -> None:
    assert errors().unreachable(echo(dst=FAR), 0, 1.0, icmp.HOST_UNREACHABLE) is not None
    assert errors().unreachable(packet(b"", ipv4.PROTO_ICMP), 0, 1.0, icmp.HOST_UNREACHABLE) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"frag_off": 8},
        {"dst": ip.BROADCAST},
        {"dst": BROADCAST},
        {"dst": GROUP},
        {"src": ip.BROADCAST},
        {"src": BROADCAST},
        {"src": GROUP},
        {"src": 0},
        {"src": LOOPBACK},
        {"src": RESERVED},
    ],
)
def test_no_error_about_fragments_groups_or_impossible_senders(changes: dict[str, int]) -> None:
    about = packet(b"12345678", **changes)
    assert errors().unreachable(about, 0, 1.0, icmp.HOST_UNREACHABLE) is None
    assert errors().time_exceeded(about, 0, 1.0, icmp.TTL_EXCEEDED) is None


def test_errors_are_no_faster_than_the_rate_and_what_is_not_sent_is_counted() -> None:
    limited = errors(per_second=2.0, burst=3.0)
    about = packet(b"12345678")

    def sent(now: float, tries: int) -> int:
        return sum(limited.unreachable(about, 0, now, 1) is not None for _ in range(tries))

    assert sent(100.0, 5) == 3
    assert limited.suppressed == 2
    assert sent(100.5, 5) == 1
    assert sent(1000.0, 5) == 3


@pytest.mark.parametrize("proto", [ipv4.PROTO_TCP, ipv4.PROTO_UDP])
def test_an_error_can_be_made_about_a_flow_alone(proto: int) -> None:
    about = engine.quote_flow(GUEST, FAR, proto, 4000, 443, 0x01020304)
    header = ipv4.parse(about, 0, len(about))
    assert (header.src, header.dst, header.proto, header.total_len) == (GUEST, FAR, proto, 28)
    assert about[20:24] == bytes.fromhex("0fa001bb")
    assert about[24:] == (bytes.fromhex("01020304") if proto == ipv4.PROTO_TCP else bytes.fromhex("00080000"))
    assert errors().unreachable(about, 0, 1.0, icmp.HOST_UNREACHABLE) is not None


def quoted(total_len: int) -> icmp.Quoted:
    return icmp.Quoted(total_len, ipv4.PROTO_TCP, GATEWAY, GUEST, 443, 4000, 1)


@pytest.mark.parametrize(
    "told, total, want", [(1400, 1500, 1400), (68, 69, 68), (0, 1500, 1492), (0, 1492, 1006), (0, 69, 68)]
)
def test_the_mtu_of_a_hop_is_what_it_says_or_the_next_usual_size(told: int, total: int, want: int) -> None:
    assert engine.next_hop_mtu(told, quoted(total)) == want


@pytest.mark.parametrize("told, total", [(67, 1500), (1, 1500), (1500, 1500), (1501, 1500), (0, 68), (0, 0)])
def test_a_size_that_no_hop_has_is_refused_by_name(told: int, total: int) -> None:
    with pytest.raises(WireError, match="icmp_error_dropped_bad_mtu"):
        engine.next_hop_mtu(told, quoted(total))
