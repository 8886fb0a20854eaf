"""DHCPv6 messages and their options."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import dhcpv6, ip
from pipeline.wire.dhcpv6 import Ia, IaAddress, Message
from pipeline.wire.errors import WireError
from tests.support.fuzz import mutations, parsed, u8, u16, u32, windows

GUEST = ip.parse("fd12:3456:789a:1::1:5")
DUID = bytes.fromhex("00030001020000000001")
BAD_OPTIONS = "dhcpv6_message_dropped_bad_options"

kinds = u8.filter(lambda kind: kind not in (dhcpv6.RELAY_FORW, dhcpv6.RELAY_REPL))
options = st.lists(st.tuples(u16, st.binary(max_size=80)), max_size=8).map(tuple)
messages = st.builds(Message, kinds, st.integers(0, 0xFFFFFF), options)
ia_addresses = st.builds(IaAddress, st.integers(0, (1 << 128) - 1), u32, u32)
statuses = st.none() | u16
several = st.lists(ia_addresses, max_size=4).map(tuple)
ias = st.one_of(
    st.builds(Ia, st.just(dhcpv6.IA_NA), u32, u32, u32, several, statuses),
    st.builds(Ia, st.just(dhcpv6.IA_TA), u32, st.just(0), st.just(0), several, statuses),
    st.builds(Ia, st.just(dhcpv6.IA_PD), u32, u32, u32, st.just(()), statuses),
)

SOLICIT = dhcpv6.build(
    Message(
        dhcpv6.SOLICIT,
        0x123456,
        (
            (dhcpv6.CLIENT_ID, DUID),
            (dhcpv6.ORO, b"\0\x17\0\x18"),
            dhcpv6.build_ia(Ia(dhcpv6.IA_NA, 7, 0, 0, (IaAddress(GUEST, 0, 0),))),
            (dhcpv6.RAPID_COMMIT, b""),
        ),
    )
)


def read_all(view: memoryview | bytes, off: int, end: int) -> Message:
    """Read everything that a server reads of a message."""
    message = dhcpv6.parse(view, off, end)
    message.duid(dhcpv6.CLIENT_ID)
    message.duid(dhcpv6.SERVER_ID)
    message.requested()
    list(message.ias())
    return message


@given(messages)
def test_parse_gives_back_what_was_built(message: Message) -> None:
    data = dhcpv6.build(message)
    assert dhcpv6.parse(memoryview(b"-" + data + b"-"), 1, 1 + len(data)) == message


@given(ias)
def test_an_association_comes_back_as_it_was_built(ia: Ia) -> None:
    assert dhcpv6.parse_ia(*dhcpv6.build_ia(ia)) == ia


def test_the_fields_lie_where_rfc_8415_has_them() -> None:
    assert SOLICIT[:4].hex() == "01123456"
    assert SOLICIT[4:18].hex() == "0001000a" + DUID.hex()
    assert SOLICIT[18:26].hex() == "0006000400170018"
    ia = SOLICIT[26:-4].hex()
    assert ia == "00030028" + "00000007" + "00" * 8 + "00050018" + f"{GUEST:032x}" + "00" * 8
    assert SOLICIT[-4:].hex() == "000e0000"


def test_a_status_is_a_code_without_a_text() -> None:
    assert dhcpv6.build_status(dhcpv6.NO_BINDING) == (13, b"\0\x03")
    assert dhcpv6.parse_status(b"\0\x04not on link") == dhcpv6.NOT_ON_LINK


def test_a_duid_of_a_link_layer_address_has_its_type_and_hardware_type() -> None:
    assert dhcpv6.duid_ll(bytes.fromhex("5a94efe40cdd")).hex() == "00030001" + "5a94efe40cdd"


def test_the_group_of_servers() -> None:
    assert ip.text(dhcpv6.ALL_SERVERS) == "ff02::1:2"


@pytest.mark.parametrize("length", range(len(SOLICIT)))
def test_a_message_cut_anywhere_is_refused_or_ends_with_a_whole_option(length: int) -> None:
    ends = (4, 18, 26, len(SOLICIT) - 4)
    if length in ends:
        assert len(read_all(SOLICIT, 0, length).options) == ends.index(length)
        return
    with pytest.raises(WireError) as refused:
        read_all(SOLICIT, 0, length)
    assert refused.value.reason == ("dhcpv6_message_dropped_truncated" if length < 4 else BAD_OPTIONS)


@pytest.mark.parametrize("code", sorted(dhcpv6.IAS))
def test_an_association_cut_anywhere_is_refused_or_ends_with_a_whole_option(code: int) -> None:
    addresses = () if code == dhcpv6.IA_PD else (IaAddress(GUEST, 1, 2),)
    _, value = dhcpv6.build_ia(Ia(code, 7, addresses=addresses, status=0))
    head = 4 if code == dhcpv6.IA_TA else 12
    whole = {head, len(value) - 6, len(value)}
    for length in range(len(value) + 1):
        if length in whole:
            dhcpv6.parse_ia(code, value[:length])
            continue
        with pytest.raises(WireError, match=BAD_OPTIONS):
            dhcpv6.parse_ia(code, value[:length])


@pytest.mark.parametrize("kind", [dhcpv6.RELAY_FORW, dhcpv6.RELAY_REPL])
def test_messages_of_relay_agents_have_their_reason(kind: int) -> None:
    with pytest.raises(WireError, match="dhcpv6_message_dropped_relay"):
        dhcpv6.parse(bytes((kind,)) + bytes(40), 0, 41)


@pytest.mark.parametrize(("length", "fits"), [(0, False), (2, False), (3, True), (130, True), (131, False)])
def test_a_duid_has_a_type_and_1_to_128_bytes(length: int, fits: bool) -> None:
    message = Message(dhcpv6.SOLICIT, 1, ((dhcpv6.CLIENT_ID, bytes(length)),))
    if fits:
        assert message.duid(dhcpv6.CLIENT_ID) == bytes(length)
        return
    with pytest.raises(WireError, match="dhcpv6_message_dropped_bad_duid"):
        message.duid(dhcpv6.CLIENT_ID)


@given(st.binary(min_size=dhcpv6.MIN_DUID, max_size=dhcpv6.MAX_DUID))
def test_the_text_of_a_duid_reads_back_in_any_case_and_with_dashes(duid: bytes) -> None:
    text = dhcpv6.duid_text(duid)
    for each in (text, text.upper(), text.replace(":", "-")):
        assert dhcpv6.duid_parse(each) == duid


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00:03",
        ":".join(["00"] * 131),
        "0:3:0:1",
        "00:03-00",
        "000300",
        "00:03:0g",
        "00:03:00:",
        " 00:03:00",
    ],
)
def test_other_texts_are_no_duid(text: str) -> None:
    with pytest.raises(ValueError, match="invalid DUID"):
        dhcpv6.duid_parse(text)


def test_a_message_without_a_duid_has_an_empty_one() -> None:
    assert Message(dhcpv6.SOLICIT, 1, ()).duid(dhcpv6.CLIENT_ID) == b""


def test_half_a_code_of_a_requested_option_is_refused() -> None:
    whole = Message(dhcpv6.SOLICIT, 1, ((dhcpv6.ORO, b"\0\x17\0\x52"),))
    assert whole.requested() == {dhcpv6.DNS_SERVERS, 82}
    with pytest.raises(WireError, match=BAD_OPTIONS):
        Message(dhcpv6.SOLICIT, 1, ((dhcpv6.ORO, b"\0\x17\0"),)).requested()


@pytest.mark.parametrize("count", [dhcpv6.MAX_OPTIONS, dhcpv6.MAX_OPTIONS + 1])
def test_a_message_has_a_bounded_number_of_options(count: int) -> None:
    data = dhcpv6.build(Message(dhcpv6.SOLICIT, 1, ((200, b""),) * count))
    if count == dhcpv6.MAX_OPTIONS:
        assert len(dhcpv6.parse(data, 0, len(data)).options) == count
        return
    with pytest.raises(WireError, match=BAD_OPTIONS):
        dhcpv6.parse(data, 0, len(data))


def test_an_association_has_a_bounded_number_of_options() -> None:
    code, value = dhcpv6.build_ia(
        Ia(dhcpv6.IA_NA, 7, addresses=(IaAddress(GUEST, 1, 2),) * (dhcpv6.MAX_OPTIONS + 1))
    )
    with pytest.raises(WireError, match=BAD_OPTIONS):
        dhcpv6.parse_ia(code, value)


def test_options_in_an_address_must_be_whole_too() -> None:
    address = GUEST.to_bytes(16, "big") + bytes(8)
    for inner, fits in ((b"\0\x0d\0\x02\0\0", True), (b"\0\x0d\0\x02\0", False)):
        option = b"\0\x05" + len(address + inner).to_bytes(2, "big") + address + inner
        if fits:
            (found,) = dhcpv6.parse_ia(dhcpv6.IA_NA, bytes(12) + option).addresses
            assert found.addr == GUEST
            continue
        with pytest.raises(WireError, match=BAD_OPTIONS):
            dhcpv6.parse_ia(dhcpv6.IA_NA, bytes(12) + option)


@given(windows(320))
def test_any_bytes_are_a_message_or_refused_by_name(window: tuple[memoryview, int, int]) -> None:
    parsed(read_all, *window)


@given(mutations(SOLICIT))
def test_damaged_messages_are_read_or_refused_by_name(data: bytes) -> None:
    parsed(read_all, data, 0, len(data))
