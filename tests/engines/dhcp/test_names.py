"""Host names of DHCP clients: which are taken, who keeps one, and when it ends."""

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.dhcp import names
from pipeline.engines.dhcp.names import INVALID, MAX_NAMES, MAX_OF_A_GUEST, TAKEN, TOO_MANY, HostNames
from pipeline.engines.dhcp.server import Dhcp
from pipeline.wire import dhcp, ip
from tests.support.dhcp_clients import GUEST_MAC, NETWORK, config, mac, message, send, small


class Server:
    """A DHCP server with names in the zone vm.internal, and its clients."""

    def __init__(self, taken: Collection[str] = (), is_small: bool = False) -> None:
        self.names = HostNames("vm.internal", lambda label: label in taken)
        made = small() if is_small else config()
        self.dhcp = Dhcp(made, names=self.names)

    def ask(
        self,
        n: int,
        name: bytes | None,
        *,
        kind: int = dhcp.REQUEST,
        now: float = 0.0,
        link: int = 1,
        chaddr: bytes = b"",
    ) -> str:
        """Client n sends a message with this name. Returns the counter of the refusal of the name."""
        options = {} if name is None else {dhcp.HOST_NAME: name}
        send(self.dhcp, message(kind, chaddr or mac(n), options), now=now, link=link)
        return self.dhcp.name_refusal

    def shown(self) -> dict[str, int]:
        """The names, with the last number of each address. Both maps must agree."""
        found = {label: address[3] for label, address in self.names.addresses.items()}
        pointers = {name: address[3] for address, name in self.names.pointers.items()}
        assert pointers == {f"{label}.vm.internal": last for label, last in found.items()}
        assert len(self.names) == len(found)
        return found


@pytest.fixture
def server() -> Server:
    return Server(taken={"db"})


def test_a_client_has_its_name_when_its_lease_is_acknowledged(server: Server) -> None:
    server.ask(1, b"web", kind=dhcp.DISCOVER)
    assert server.shown() == {}
    assert not server.names.take_changed()
    assert server.ask(1, b"Web\0") == ""
    assert server.shown() == {"web": 3}
    assert server.names.take_changed()
    assert not server.names.take_changed()
    assert server.names.pointers == {ip.ipv4_bytes(NETWORK + 3): "web.vm.internal"}


def test_a_static_client_has_its_name_too(server: Server) -> None:
    server.ask(0, b"static", chaddr=GUEST_MAC)
    assert server.shown() == {"static": 2}
    assert server.ask(0, b"other", chaddr=GUEST_MAC, link=2) == ""
    assert server.shown() == {"static": 2}
    release = message(dhcp.RELEASE, GUEST_MAC, ciaddr=NETWORK + 2)
    send(server.dhcp, release, link=2)
    assert server.shown() == {"static": 2}
    send(server.dhcp, release, link=1)
    assert server.shown() == {}


def test_an_accepted_release_ends_the_name(server: Server) -> None:
    server.ask(1, b"web")
    release = message(dhcp.RELEASE, mac(1), ciaddr=NETWORK + 3)
    assert send(server.dhcp, release, link=2).counter == "dhcp_release_dropped_not_holder"
    assert server.shown() == {"web": 3}
    assert send(server.dhcp, release).counter == "dhcp_release_accepted"
    assert server.shown() == {}
    assert server.ask(2, b"web") == ""
    assert list(server.shown()) == ["web"]


def test_the_name_may_have_the_zone(server: Server) -> None:
    server.ask(1, b"one.VM.Internal")
    server.ask(2, b"two.vm.internal.")
    assert server.shown() == {"one": 3, "two": 4}


@pytest.mark.parametrize(
    "name",
    [
        *(
            b".",
            b"-a",
            b"a-",
            b"a_b",
            b"a b",
            b"a.b",
            b"*",
            b"a" * 64,
            b"a\0b",
            b"\xc3\xa9",
            b"a..vm.internal",
        ),
        *(b".vm.internal", b"vm.internal.", b"\0", b"a" * 200),
    ],
)
def test_what_is_not_one_label_is_refused(server: Server, name: bytes) -> None:
    assert server.ask(1, name) == INVALID
    assert server.shown() == {}


@pytest.mark.parametrize("name", sorted(names.RESERVED | {"db", "GATEWAY", "Db.vm.internal"}))
def test_no_client_takes_a_name_of_the_gateway_or_of_the_configuration(server: Server, name: str) -> None:
    assert server.ask(1, name.encode()) == TAKEN
    assert server.shown() == {}


def test_the_first_client_keeps_a_name_and_the_next_gets_it_afterwards(server: Server) -> None:
    assert server.ask(1, b"web") == ""
    assert server.ask(2, b"WEB") == TAKEN
    assert server.shown() == {"web": 3}
    send(server.dhcp, message(dhcp.RELEASE, mac(1), ciaddr=NETWORK + 3))
    assert server.shown() == {}
    assert server.ask(2, b"web") == ""
    assert server.shown() == {"web": 4}


def test_a_client_may_change_its_name_and_keeps_the_old_one_if_it_may_not(server: Server) -> None:
    server.ask(1, b"old")
    server.ask(1, b"new")
    assert server.shown() == {"new": 3}
    assert server.ask(1, b"db") == TAKEN
    assert server.ask(1, None) == ""
    assert server.shown() == {"new": 3}


def test_a_name_ends_with_its_lease_and_lives_on_with_each_renewal(server: Server) -> None:
    server.ask(1, b"web")
    server.ask(2, b"other", now=100.0)
    assert server.names.deadline() == 3600.0
    server.ask(1, None, now=1800.0)
    server.names.expire(3600.0)
    assert server.shown() == {"web": 3, "other": 4}
    assert server.names.deadline() == 3700.0
    server.names.expire(3700.0)
    assert server.shown() == {"web": 3}
    server.names.expire(5400.0)
    assert server.shown() == {}
    assert server.names.deadline() == float("inf")


def test_a_name_goes_when_its_address_goes_to_another_client() -> None:
    server = Server(is_small=True)
    for n in range(4):
        server.ask(n, b"vm%d" % n)
    assert server.shown() == {"vm0": 2, "vm1": 3, "vm2": 4, "vm3": 5}
    server.ask(9, b"vm9", now=4000.0)
    assert server.shown()["vm9"] == 2
    assert "vm0" not in server.shown()
    send(server.dhcp, message(dhcp.DECLINE, mac(9), {dhcp.REQUESTED_ADDRESS: ip.ipv4_bytes(NETWORK + 2)}))
    assert "vm9" not in server.shown()


def test_another_guest_cannot_change_or_end_a_name_with_the_clients_hardware_address(server: Server) -> None:
    server.ask(1, b"web", link=1)
    assert server.ask(1, b"evil", link=2) == ""
    send(server.dhcp, message(dhcp.RELEASE, mac(1), ciaddr=NETWORK + 3), link=2)
    assert server.shown() == {"web": 3}


def test_a_name_goes_when_the_lease_moves_to_the_link_of_another_guest(server: Server) -> None:
    server.ask(1, b"web", link=1)
    server.ask(1, b"evil", link=2)
    server.dhcp.on_link_down(1)
    assert server.shown() == {}


def test_a_guest_that_reconnects_keeps_its_name_and_may_change_it(server: Server) -> None:
    server.ask(1, b"web", link=1)
    server.dhcp.on_link_down(1)
    assert server.shown() == {"web": 3}
    server.ask(1, b"new", link=2)
    assert server.shown() == {"new": 3}


def test_names_are_bounded_for_each_guest_and_in_all() -> None:
    store = HostNames("vm", lambda _: False)
    count = 0
    for guest in range(1, 40):
        for n in range(MAX_OF_A_GUEST + 1):
            who = guest << 8 | n
            said = store.on_ack(mac(who), who, guest, guest, b"n%d" % who, 10.0)
            full = n >= MAX_OF_A_GUEST or count >= MAX_NAMES
            assert said == (TOO_MANY if full else "")
            count += not full
    assert len(store) == len(store.addresses) == len(store.pointers) == MAX_NAMES
    store.expire(10.0)
    assert len(store) == len(store.addresses) == len(store.pointers) == 0


def test_without_names_option_12_does_nothing() -> None:
    engine = Dhcp(config())
    send(engine, message(dhcp.REQUEST, mac(1), {dhcp.HOST_NAME: b"web"}))
    assert engine.name_refusal == ""


def test_a_name_server_with_an_address_of_its_own_is_named() -> None:
    engine = Dhcp(config(), name_server=ip.parse_ipv4("192.168.127.3"))
    reply = send(engine, message(dhcp.REQUEST, mac(1)))
    options = dhcp.parse(reply.payload, 0, len(reply.payload)).options
    assert options[dhcp.DNS_SERVER] == bytes((192, 168, 127, 3))


def test_without_a_name_server_the_reply_names_none() -> None:
    reply = send(Dhcp(config(), has_dns=False), message(dhcp.REQUEST, mac(1)))
    assert dhcp.DNS_SERVER not in dhcp.parse(reply.payload, 0, len(reply.payload)).options


@given(
    st.lists(
        st.tuples(
            *(st.integers(0, 3), st.sampled_from([b"", b"a", b"b", b"A", b"gateway", b"\xff"])),
            *(st.integers(1, 3), st.sampled_from(["ask", "release", "down", "expire"]), st.integers(0, 2000)),
        )
    )
)
def test_whatever_clients_do_both_maps_agree_and_each_name_has_one_holder(
    steps: list[tuple[int, bytes, int, str, int]],
) -> None:
    server = Server(is_small=True)
    now = 0.0
    for n, name, link, what, seconds in steps:
        now += seconds
        server.names.expire(now)
        if what == "ask":
            server.ask(n, name, now=now, link=link)
        elif what == "release":
            leases = server.dhcp.leases()
            addr = next((addr for addr, each in leases.items() if each == mac(n)), 0)
            send(server.dhcp, message(dhcp.RELEASE, mac(n), ciaddr=addr), now=now, link=link)
        elif what == "down":
            server.dhcp.on_link_down(link)
        shown = server.shown()
        assert set(shown) <= {"a", "b"}
        leased = {ip.text(addr) for addr in server.dhcp.leases()}
        assert all(f"192.168.127.{last}" in leased for last in shown.values())
        assert not shown or server.names.deadline() > now
