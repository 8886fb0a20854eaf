"""The built-in DHCP client's states, driven by hand with a clock of the test's own."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.dhcp_states import (
    MAX_REQUESTS,
    Action,
    Bind,
    Client,
    Lease,
    Send,
    State,
    Unbind,
    parse_domain_names,
    parse_search_list,
)
from pipeline.wire import dhcp, ip
from pipeline.wire.dhcp import Message

MAC = bytes.fromhex("5a94efe40cee")
SERVER = ip.parse_ipv4("192.168.127.1")
ADDRESS = ip.parse_ipv4("192.168.127.2")
OPTIONS = {
    dhcp.SUBNET_MASK: bytes((255, 255, 255, 0)),
    dhcp.ROUTER: ip.ipv4_bytes(SERVER),
    dhcp.DNS_SERVER: ip.ipv4_bytes(SERVER),
    dhcp.INTERFACE_MTU: (1500).to_bytes(2, "big"),
    dhcp.LEASE_TIME: (3600).to_bytes(4, "big"),
    dhcp.SERVER_ID: ip.ipv4_bytes(SERVER),
    dhcp.DOMAIN_SEARCH: dhcp.build_search_list(["example.org", "crc.testing"]),
}
LEASE = Lease(ADDRESS, 24, SERVER, (SERVER,), ("example.org", "crc.testing"), 1500, SERVER, 3600.0)


class Bench:
    """A client, its clock and what it sent last."""

    def __init__(self) -> None:
        self.now = 100.0
        self.client = Client(MAC, self.now, lambda: 0.5)

    def wait(self) -> list[Action]:
        """Let the time pass to the deadline; what is done then."""
        self.now = max(self.now, self.client.deadline())
        self.client.on_timer(self.now)
        return self.client.take_actions()

    def sent(self) -> Send:
        """The one message sent at the deadline."""
        (action,) = self.wait()
        assert isinstance(action, Send)
        return action

    def answer(self, kind: int, request: Message, **changes: object) -> list[Action]:
        """The server's answer to request; what is done then."""
        options = {dhcp.MESSAGE_TYPE: bytes((kind,)), **OPTIONS}
        reply = Message(dhcp.BOOT_REPLY, request.xid, request.chaddr, options, yiaddr=ADDRESS)
        self.client.on_message(reply._replace(**changes), self.now)
        return self.client.take_actions()

    def bind(self) -> list[Action]:
        """From the start to BOUND."""
        (request,) = self.answer(dhcp.OFFER, self.sent().message)
        assert isinstance(request, Send)
        return self.answer(dhcp.ACK, request.message)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_it_discovers_at_once_by_broadcast(bench: Bench) -> None:
    send = bench.sent()
    assert bench.now == 100.0
    assert send.server == 0
    assert send.message.kind == dhcp.DISCOVER
    assert send.message.chaddr == MAC


def test_it_requests_what_was_offered_naming_the_server(bench: Bench) -> None:
    (action,) = bench.answer(dhcp.OFFER, bench.sent().message)
    assert isinstance(action, Send)
    assert action.message.kind == dhcp.REQUEST
    assert action.message.option_addr(dhcp.REQUESTED_ADDRESS) == ADDRESS
    assert action.message.option_addr(dhcp.SERVER_ID) == SERVER
    assert action.message.ciaddr == 0


def test_an_ack_binds_everything_the_server_said(bench: Bench) -> None:
    assert bench.bind() == [Bind(LEASE)]
    assert bench.client.state is State.BOUND
    assert bench.client.deadline() == bench.now + 1800


def test_silence_is_met_with_longer_and_longer_waits(bench: Bench) -> None:
    times = []
    for _ in range(9):
        assert bench.sent().message.kind == dhcp.DISCOVER
        times.append(bench.now)
    waits = [after - before for before, after in itertools.pairwise(times)]
    assert waits == [1, 2, 4, 8, 16, 32, 64, 64]


def test_requests_without_an_answer_lead_back_to_discover(bench: Bench) -> None:
    bench.answer(dhcp.OFFER, bench.sent().message)
    kinds = [bench.sent().message.kind for _ in range(MAX_REQUESTS)]
    assert kinds == [dhcp.REQUEST] * (MAX_REQUESTS - 1) + [dhcp.DISCOVER]


def test_a_lease_is_renewed_at_half_time_from_its_own_address(bench: Bench) -> None:
    bench.bind()
    send = bench.sent()
    assert bench.now == 1900.0
    assert send.server == SERVER
    assert send.message.ciaddr == ADDRESS
    assert dhcp.REQUESTED_ADDRESS not in send.message.options
    assert dhcp.SERVER_ID not in send.message.options
    assert bench.answer(dhcp.ACK, send.message) == []
    assert bench.client.deadline() == bench.now + 1800


def test_a_renewal_that_changes_the_lease_binds_again(bench: Bench) -> None:
    bench.bind()
    request = bench.sent().message
    options = {
        **OPTIONS,
        dhcp.MESSAGE_TYPE: bytes((dhcp.ACK,)),
        dhcp.INTERFACE_MTU: (4000).to_bytes(2, "big"),
    }
    assert bench.answer(dhcp.ACK, request, options=options) == [Bind(LEASE._replace(mtu=4000))]


def test_another_address_takes_the_old_one_away_first(bench: Bench) -> None:
    bench.bind()
    actions = bench.answer(dhcp.ACK, bench.sent().message, yiaddr=ADDRESS + 1)
    assert actions == [Unbind(LEASE), Bind(LEASE._replace(address=ADDRESS + 1))]


def test_a_server_that_is_gone_is_replaced_by_broadcast_and_then_by_a_new_start(bench: Bench) -> None:
    bench.bind()
    bound_at = bench.now
    sends = []
    while True:
        actions = bench.wait()
        if isinstance(actions[0], Unbind):
            break
        sends.append((bench.now - bound_at, actions[0]))
    assert bench.now - bound_at == 3600
    assert [isinstance(action, Send) for action in actions[1:]] == [True]
    for age, send in sends:
        assert isinstance(send, Send)
        assert send.server == (SERVER if age < 3150 else 0)
    assert any(send.server == 0 for _, send in sends if isinstance(send, Send))


def test_a_nak_starts_again(bench: Bench) -> None:
    bench.bind()
    assert bench.answer(dhcp.NAK, bench.sent().message) == [Unbind(LEASE)]
    assert bench.sent().message.kind == dhcp.DISCOVER


@pytest.mark.parametrize(
    "changes",
    [{"xid": 1}, {"chaddr": b"\2" * 6}, {"op": dhcp.BOOT_REQUEST}, {"yiaddr": 0}, {"options": {53: b"\2"}}],
)
def test_messages_for_others_and_useless_offers_are_ignored(bench: Bench, changes: dict[str, object]) -> None:
    assert bench.answer(dhcp.OFFER, bench.sent().message, **changes) == []
    assert bench.client.state is State.SELECTING


def test_a_lease_without_end_is_never_renewed(bench: Bench) -> None:
    (request,) = bench.answer(dhcp.OFFER, bench.sent().message)
    assert isinstance(request, Send)
    options = {**OPTIONS, dhcp.MESSAGE_TYPE: bytes((dhcp.ACK,)), dhcp.LEASE_TIME: b"\xff" * 4}
    bench.answer(dhcp.ACK, request.message, options=options)
    assert bench.client.deadline() == math.inf


def test_a_search_list_may_be_compressed() -> None:
    # eng.apple.com, then marketing plus a pointer to apple.com (the example of RFC 3397).
    value = b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04"
    assert parse_search_list(value) == ("eng.apple.com", "marketing.apple.com")


@pytest.mark.parametrize("value", [b"\xc0\x00", b"\x03ab", b"\x05a\nb.c\x00", b"\xc0", b"\x01a"])
def test_a_broken_search_list_gives_no_name(value: bytes) -> None:
    assert parse_search_list(value) == ()


@given(st.binary(max_size=300))
def test_any_bytes_as_search_list_give_plain_names(value: bytes) -> None:
    for name in parse_search_list(value):
        assert name.replace(".", "").replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize(
    "value, names",
    [
        (b"example.org", ("example.org",)),
        (b"example.org.\0", ("example.org",)),
        (b"a.test b.test", ("a.test", "b.test")),
        (b"", ()),
        (b"a.test b..test c.test", ("a.test",)),
        (b"a.test\nnameserver 6.6.6.6", ()),
    ],
)
def test_the_domain_name_option_is_one_name_or_several(value: bytes, names: tuple[str, ...]) -> None:
    assert parse_domain_names(value) == names


@given(st.binary(max_size=60))
def test_any_bytes_as_domain_names_give_plain_names(value: bytes) -> None:
    for name in parse_domain_names(value):
        assert set(name.lower()) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
        assert all(name.split("."))


@pytest.mark.parametrize(
    "search, names", [((), ("home.test",)), (("a.test", "b.test"), ("a.test", "b.test"))]
)
def test_the_search_list_stands_for_the_domain_name(
    bench: Bench, search: tuple[str, ...], names: tuple[str, ...]
) -> None:
    options = {**OPTIONS, dhcp.MESSAGE_TYPE: bytes((dhcp.OFFER,)), dhcp.DOMAIN_NAME: b"home.test"}
    options[dhcp.DOMAIN_SEARCH] = dhcp.build_search_list(search)
    (request,) = bench.answer(dhcp.OFFER, bench.sent().message, options=options)
    assert isinstance(request, Send)
    options[dhcp.MESSAGE_TYPE] = bytes((dhcp.ACK,))
    (bound,) = bench.answer(dhcp.ACK, request.message, options=options)
    assert isinstance(bound, Bind)
    assert bound.lease.search == names


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 5000), st.booleans()), max_size=40))
def test_no_order_of_messages_and_times_breaks_it(events: list[tuple[int, float, bool]]) -> None:
    bench = Bench()
    request = bench.sent().message
    for kind, later, timer in events:
        bench.now += later
        actions = bench.wait() if timer else bench.answer(kind, request)
        for action in actions:
            if isinstance(action, Send):
                request = action.message
        assert bench.client.deadline() > bench.now or not timer
