"""What destinations of a guest mean on the host."""

import errno
from collections.abc import Collection, Set
from ipaddress import IPv4Network
from types import SimpleNamespace

import pytest
from hypothesis import given

from pipeline.counters import INDEX
from pipeline.engines.nat import (
    DNS_OFF,
    HOST_LOOPBACK_OFF,
    ICMP_OFF,
    OWN_PORT,
    SWITCHED_OFF,
    UDP_OFF,
    Nat,
    Target,
)
from pipeline.engines.neighbors.addresses import Ipv6Addresses
from pipeline.wire import ip
from tests.support.fuzz import addrs, u16

GATEWAY = ip.parse_ipv4("192.168.127.1")
HOST = ip.parse_ipv4("192.168.127.254")
LOOPBACK = ip.parse_ipv4("127.0.0.1")


def nat(
    *,
    ec2_metadata_access: bool = False,
    own_ports: Set[int] = frozenset(),
    disable: Collection[str] = (),
    name_server: int = 0,
    **changes: object,
) -> Nat:
    config = {
        "subnet": IPv4Network("192.168.127.0/24"),
        "gateway_ip": GATEWAY,
        "gateway_virtual_ips": (HOST,),
        "nat": {HOST: LOOPBACK},
    }
    return Nat(
        SimpleNamespace(**config | changes),
        ec2_metadata_access=ec2_metadata_access,
        own_ports=own_ports,
        disable=disable,
        name_server=name_server,
    )


def slirp4netns(*disable: str) -> Nat:
    """A gateway that means the host, with a name server beside it."""
    return nat(disable=("api", *disable), name_server=HOST, nat={GATEWAY: LOOPBACK}, gateway_virtual_ips=())


@pytest.mark.parametrize("port", [53, 80, 8080])
def test_a_gateway_that_means_the_host_leads_to_all_its_ports(port: int) -> None:
    assert slirp4netns().tcp_target(GATEWAY, port) == Target(LOOPBACK)
    assert slirp4netns().udp_target(GATEWAY, port) == Target(LOOPBACK)


def test_a_name_server_with_an_address_of_its_own_has_one_port() -> None:
    table = slirp4netns()
    assert table.tcp_target(HOST, 53).service == table.udp_target(HOST, 53).service == "dns"
    assert table.tcp_target(HOST, 80).refused == "nat_flow_refused_gateway_port"
    assert slirp4netns("dns").udp_target(HOST, 53).refused == DNS_OFF
    assert table.udp_target(GATEWAY, 67).service == "dhcp"


def test_without_the_hosts_loopback_such_a_gateway_is_unreachable() -> None:
    target = slirp4netns("host-loopback").tcp_target(GATEWAY, 8080)
    assert (target.refused, target.errno) == (HOST_LOOPBACK_OFF, errno.ENETUNREACH)


def test_without_the_api_port_80_of_the_gateway_is_closed() -> None:
    assert nat(disable=("api",)).tcp_target(GATEWAY, 80).refused == "nat_flow_refused_gateway_port"


@pytest.mark.parametrize(
    "addr, port, tcp, udp",
    [
        ("192.168.127.1", 53, "dns", "dns"),
        ("192.168.127.1", 80, "api", ""),
        ("192.168.127.1", 67, "", "dhcp"),
        ("192.168.127.1", 22, "", ""),
        ("192.168.127.254", 53, "", ""),
        ("8.8.8.8", 53, "", ""),
    ],
)
def test_services_live_on_the_gateways_address_alone(addr: str, port: int, tcp: str, udp: str) -> None:
    assert nat().tcp_target(ip.parse_ipv4(addr), port).service == tcp
    assert nat().udp_target(ip.parse_ipv4(addr), port).service == udp


@pytest.mark.parametrize("port", [1, 53, 80, 65535])
def test_the_host_address_means_the_hosts_loopback_on_every_port(port: int) -> None:
    assert nat().tcp_target(HOST, port) == Target(LOOPBACK)
    assert nat().udp_target(HOST, port) == Target(LOOPBACK)


def test_a_port_on_which_the_program_listens_is_for_the_host_alone() -> None:
    own = nat(own_ports={7000, 80})
    assert own.tcp_target(HOST, 7000) == Target(LOOPBACK, refused=OWN_PORT, errno=errno.ECONNREFUSED)
    assert own.tcp_target(HOST, 7001) == own.udp_target(HOST, 7000) == Target(LOOPBACK)
    assert own.tcp_target(GATEWAY, 80).service == "api"
    assert own.tcp_target(ip.parse_ipv4("10.0.0.1"), 7000) == Target(ip.parse_ipv4("10.0.0.1"))


@pytest.mark.parametrize(
    "addr", ["1.1.1.1", "10.0.0.1", "192.168.126.11", "192.168.128.1", "223.255.255.254"]
)
def test_other_addresses_are_dialled_as_they_are(addr: str) -> None:
    value = ip.parse_ipv4(addr)
    assert nat().tcp_target(value, 443) == nat().udp_target(value, 443) == Target(value)


@pytest.mark.parametrize(
    "addr, reason, error",
    [
        ("192.168.127.1", "gateway_port", errno.ECONNREFUSED),
        ("192.168.127.2", "unowned", errno.EHOSTUNREACH),
        ("192.168.127.0", "unowned", errno.EHOSTUNREACH),
        ("192.168.127.255", "broadcast", errno.ENETUNREACH),
        ("255.255.255.255", "broadcast", errno.ENETUNREACH),
        ("169.254.169.254", "link_local", errno.ECONNREFUSED),
        ("169.254.0.1", "link_local", errno.ECONNREFUSED),
        ("127.0.0.1", "loopback", errno.ENETUNREACH),
        ("127.255.255.255", "loopback", errno.ENETUNREACH),
        ("224.0.0.251", "multicast", errno.ENETUNREACH),
        ("239.255.255.250", "multicast", errno.ENETUNREACH),
        ("0.0.0.0", "reserved", errno.ENETUNREACH),
        ("0.1.2.3", "reserved", errno.ENETUNREACH),
        ("240.0.0.1", "reserved", errno.ENETUNREACH),
        ("255.255.255.254", "reserved", errno.ENETUNREACH),
    ],
)
def test_what_is_refused_has_a_reason_and_an_errno(addr: str, reason: str, error: int) -> None:
    value = ip.parse_ipv4(addr)
    want = Target(value, refused=f"nat_flow_refused_{reason}", errno=error)
    assert nat().tcp_target(value, 22) == want
    assert nat().udp_target(value, 22) == want
    assert want.refused in INDEX


NETWORK6 = ip.parse("fd12:3456:789a::")
GATEWAY6 = NETWORK6 | 1
HOST6 = NETWORK6 | 254
LOOPBACK6 = ip.parse("::1")


def nat6(*, metadata: bool = False, disable: Collection[str] = ()) -> Nat:
    """The rules of a gateway with both families."""
    config = {
        "subnet": IPv4Network("192.168.127.0/24"),
        "gateway_ip": GATEWAY,
        "gateway_virtual_ips": (HOST,),
        "nat": {HOST: LOOPBACK},
    }
    return Nat(
        SimpleNamespace(**config),
        ec2_metadata_access=metadata,
        own_ports={7000},
        disable=disable,
        ipv6=Ipv6Addresses(NETWORK6, bytes(6), gateway=GATEWAY6, host=HOST6),
    )


def test_both_gateways_have_the_services_and_both_host_addresses_mean_loopback() -> None:
    rules = nat6()
    for gateway in (GATEWAY, GATEWAY6):
        assert rules.tcp_target(gateway, 53).service == rules.udp_target(gateway, 53).service == "dns"
        assert rules.tcp_target(gateway, 80).service == "api"
        assert nat6(disable={"dns"}).tcp_target(gateway, 53).refused == DNS_OFF
    assert rules.tcp_target(HOST6, 22) == Target(LOOPBACK6)
    assert rules.tcp_target(HOST6, 7000).refused == OWN_PORT
    assert rules.seen_as(LOOPBACK6) == HOST6
    assert nat6(disable={"host-loopback"}).tcp_target(HOST6, 22).refused == HOST_LOOPBACK_OFF


@pytest.mark.parametrize(
    "addr, reason, error",
    [
        ("fd12:3456:789a::1", "gateway_port", errno.ECONNREFUSED),
        ("fd12:3456:789a::2", "unowned", errno.EHOSTUNREACH),
        ("fd12:3456:789a::", "gateway_port", errno.ECONNREFUSED),
        ("fd12:3456:789a:0:ffff:ffff:ffff:ffff", "unowned", errno.EHOSTUNREACH),
        ("::1", "loopback", errno.ENETUNREACH),
        ("::", "reserved", errno.ENETUNREACH),
        ("::127.0.0.1", "reserved", errno.ENETUNREACH),
        ("64:ff9b:1::7f00:1", "reserved", errno.ENETUNREACH),
        ("fe80::1", "link_local", errno.ECONNREFUSED),
        ("febf::1", "link_local", errno.ECONNREFUSED),
        ("fd00:ec2::254", "link_local", errno.ECONNREFUSED),
        ("fd20:ce::254", "link_local", errno.ECONNREFUSED),
        ("fd00:c1::a9fe:a9fe", "link_local", errno.ECONNREFUSED),
        ("ff02::1", "multicast", errno.ENETUNREACH),
        ("ff0e::1", "multicast", errno.ENETUNREACH),
    ],
)
def test_ipv6_destinations_are_refused_like_their_counterparts(addr: str, reason: str, error: int) -> None:
    value = ip.parse(addr)
    want = Target(value, refused=f"nat_flow_refused_{reason}", errno=error)
    assert nat6().tcp_target(value, 22) == nat6().udp_target(value, 22) == want


@pytest.mark.parametrize("addr", ["2001:db8::1", "fd12:3456:789b::1", "fd00:ec2::253", "2606:4700::1111"])
def test_other_ipv6_addresses_are_dialled_as_they_are(addr: str) -> None:
    value = ip.parse(addr)
    assert nat6().tcp_target(value, 443) == nat6().udp_target(value, 443) == Target(value)
    assert nat6().icmp_target(value) == Target(value)


@given(addrs, u16)
def test_an_embedded_address_goes_where_the_ipv4_address_goes(addr: int, port: int) -> None:
    rules = nat6()
    spelt = ip.NAT64 | ip.to_ipv4(addr)
    assert rules.icmp_target(spelt) == rules.icmp_target(addr)
    for find in (rules.tcp_target, rules.udp_target):
        if not find(addr, port).service:
            assert find(spelt, port) == find(addr, port)


def test_the_gateways_services_are_not_at_an_embedded_address() -> None:
    target = nat6().udp_target(ip.NAT64 | ip.to_ipv4(GATEWAY), 53)
    assert (target.service, target.refused) == ("", "nat_flow_refused_gateway_port")
    assert nat6().tcp_target(ip.NAT64 | ip.to_ipv4(HOST), 22) == Target(LOOPBACK)


def test_metadata_access_opens_the_service_of_both_families_and_not_the_link() -> None:
    for text in ("169.254.169.254", "fd00:ec2::254", "64:ff9b::169.254.169.254"):
        value = ip.parse(text)
        assert nat6(metadata=True).tcp_target(value, 80) == Target(ip.embedded(value))
        assert nat6().icmp_target(value) == Target(ip.embedded(value))
    assert nat6(metadata=True).tcp_target(ip.parse("fe80::1"), 80).refused
    assert nat6().icmp_target(ip.parse("fe80::1")).refused


def test_link_local_addresses_may_be_pinged() -> None:
    value = ip.parse_ipv4("169.254.7.7")
    assert nat().icmp_target(value) == Target(value)


def test_metadata_access_opens_link_local_addresses() -> None:
    value = ip.parse_ipv4("169.254.169.254")
    assert nat(ec2_metadata_access=True).tcp_target(value, 80) == Target(value)
    assert nat(ec2_metadata_access=True).udp_target(value, 80) == Target(value)


def test_an_entry_of_the_table_wins_over_every_refusal() -> None:
    metadata = ip.parse_ipv4("169.254.169.254")
    table = {GATEWAY: LOOPBACK, metadata: ip.parse_ipv4("10.9.9.9")}
    rules = nat(nat=table)
    assert rules.tcp_target(metadata, 80) == Target(ip.parse_ipv4("10.9.9.9"))
    assert rules.tcp_target(GATEWAY, 22) == Target(LOOPBACK)
    assert rules.tcp_target(GATEWAY, 53).service == "dns"


def test_a_virtual_address_without_entry_is_the_gateways_and_refuses() -> None:
    assert nat(nat={}).tcp_target(HOST, 22).refused == "nat_flow_refused_gateway_port"


@given(addrs, u16)
def test_every_destination_has_exactly_one_meaning(addr: int, port: int) -> None:
    for target in (nat().tcp_target(addr, port), nat().udp_target(addr, port)):
        assert not (target.service and target.refused)
        assert bool(target.refused) == bool(target.errno)
        if target.refused:
            assert target.refused in INDEX
        elif not target.service:
            assert target.addr in (addr, LOOPBACK)


def test_an_address_of_the_host_is_seen_as_what_the_table_translates_to_it() -> None:
    first, second, loopback = (
        ip.parse_ipv4(text) for text in ("192.168.127.254", "192.168.127.253", "127.0.0.1")
    )
    rules = nat(nat={first: loopback, second: loopback})
    assert rules.seen_as(loopback) == first
    assert rules.seen_as(ip.parse_ipv4("192.0.2.1")) == ip.parse_ipv4("192.0.2.1")


# --- what is switched off -------------------------------------------------------------------


def test_the_hosts_loopback_is_refused_under_every_address_that_means_it() -> None:
    other, wildcard, elsewhere = map(ip.parse_ipv4, ("192.168.127.253", "10.0.0.1", "10.0.0.2"))
    table = {
        HOST: LOOPBACK,
        other: ip.parse_ipv4("127.8.8.8"),
        wildcard: 0,
        elsewhere: ip.parse_ipv4("10.9.9.9"),
    }
    off = nat(nat=table, gateway_virtual_ips=(HOST, other), disable={"host-loopback"})
    for addr in (HOST, other, wildcard):
        for target in (off.tcp_target(addr, 53), off.udp_target(addr, 53), off.icmp_target(addr)):
            assert (target.refused, target.errno) == (HOST_LOOPBACK_OFF, errno.EACCES)
    for text in ("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.0.0.1"):
        addr = ip.parse_ipv4(text)
        assert off.tcp_target(addr, 80).refused
        assert off.udp_target(addr, 80).refused
        assert off.icmp_target(addr).refused
    assert off.tcp_target(elsewhere, 80) == Target(ip.parse_ipv4("10.9.9.9"))
    assert off.tcp_target(GATEWAY, 53).service == "dns"


def test_without_udp_only_services_of_the_gateway_take_datagrams() -> None:
    off = nat(disable={"udp"})
    for text in ("192.168.127.254", "8.8.8.8", "169.254.169.254"):
        assert off.udp_target(ip.parse_ipv4(text), 53).errno
    target = off.udp_target(ip.parse_ipv4("8.8.8.8"), 53)
    assert (target.refused, target.errno) == (UDP_OFF, errno.EACCES)
    assert [off.udp_target(GATEWAY, port).service for port in (53, 67)] == ["dns", "dhcp"]
    assert off.udp_target(ip.parse_ipv4("224.0.0.251"), 5353).refused == "nat_flow_refused_multicast"
    assert off.tcp_target(ip.parse_ipv4("8.8.8.8"), 53) == off.icmp_target(ip.parse_ipv4("8.8.8.8"))


def test_without_icmp_no_other_host_is_pinged() -> None:
    off = nat(disable={"icmp"})
    for text in ("8.8.8.8", "169.254.7.7"):
        assert off.icmp_target(ip.parse_ipv4(text)).refused == ICMP_OFF
        assert not off.tcp_target(ip.parse_ipv4("8.8.8.8"), 1).refused


def test_without_dns_the_gateways_port_53_is_closed_and_other_name_servers_are_not() -> None:
    off = nat(disable={"dns"})
    for target in (off.tcp_target(GATEWAY, 53), off.udp_target(GATEWAY, 53)):
        assert (target.service, target.refused, target.errno) == ("", DNS_OFF, errno.ECONNREFUSED)
    assert off.tcp_target(GATEWAY, 80).service == "api"
    assert off.udp_target(GATEWAY, 67).service == "dhcp"
    assert off.udp_target(ip.parse_ipv4("8.8.8.8"), 53) == Target(ip.parse_ipv4("8.8.8.8"))
    assert off.udp_target(HOST, 53) == Target(LOOPBACK)


@pytest.mark.parametrize("name", sorted(SWITCHED_OFF))
def test_each_refusal_has_a_counter(name: str) -> None:
    assert name in INDEX


def test_each_dhcp_server_answers_over_its_own_family() -> None:
    rules = nat6()
    for gateway, dhcp, dhcpv6 in ((GATEWAY, "dhcp", ""), (GATEWAY6, "", "dhcp")):
        assert rules.udp_target(gateway, 67).service == dhcp
        assert rules.udp_target(gateway, 547).service == dhcpv6
    assert rules.udp_target(ip.parse("ff02::1:2"), 547).service == "dhcp"
    assert rules.udp_target(ip.parse("ff02::1:2"), 53).refused == "nat_flow_refused_multicast"
