"""Where a flow of a guest goes on the host: to a translated address, to a service of the gateway, or nowhere.

Only destination addresses are translated, by exact match (``192.168.127.254 -> 127.0.0.1``). The flow's key
keeps the address that the guest sent to, so answers come from that address. Datagrams without a flow
(``udp-nat: full-cone``) are translated back with the same table.

The gateway's services are checked first, then the table, then the refusals. So an entry of the table allows
an address that would be refused otherwise: the user has configured it. What the setting ``disable`` switches
off is refused in any case.

Addresses of both families follow the same rules. An address of 64:ff9b::/96 goes where the IPv4 address in it
goes (RFC 6146), or is refused like it. Only the gateway's services are not there under such an address.
"""

import errno
from collections.abc import Collection, Mapping, Set
from ipaddress import IPv4Network
from typing import Final, NamedTuple, Protocol

from pipeline.engines.neighbors.addresses import Ipv6Addresses
from pipeline.wire import dhcpv6, ip

DNS_PORT: Final = 53
API_PORT: Final = 80
DHCP_PORT: Final = 67
DHCPV6_PORT: Final = 547
LINK_LOCAL: Final = "nat_flow_refused_link_local"
OWN_PORT: Final = "nat_flow_refused_own_port"
DNS_OFF: Final = "nat_flow_refused_dns_off"
UDP_OFF: Final = "nat_flow_refused_udp_off"
ICMP_OFF: Final = "nat_flow_refused_icmp_off"
HOST_LOOPBACK_OFF: Final = "nat_flow_refused_host_loopback_off"
SWITCHED_OFF: Final = frozenset({DNS_OFF, UDP_OFF, ICMP_OFF, HOST_LOOPBACK_OFF})
"""Refusals by the setting ``disable``. The guest always gets an answer, as from the egress policy."""

_TCP_SERVICES: Final[Mapping[int, str]] = {DNS_PORT: "dns", API_PORT: "api"}
_UDP_SERVICES: Final[Mapping[int, str]] = {DNS_PORT: "dns"}


class Target(NamedTuple):
    """Where a flow goes: to a service of the gateway, nowhere, or to ``addr``.

    service: "dns", "api" or "dhcp", or empty. refused: the name of a counter, or empty. If refused, errno is
    the error that the guest's program gets.
    """

    addr: int
    service: str = ""
    refused: str = ""
    errno: int = 0


class NatConfig(Protocol):
    """The part of the configuration that Nat needs."""

    @property
    def subnet(self) -> IPv4Network: ...
    @property
    def gateway_ip(self) -> int: ...
    @property
    def gateway_virtual_ips(self) -> tuple[int, ...]:
        """Further addresses that the gateway answers ARP for."""

    @property
    def nat(self) -> Mapping[int, int]: ...


class Nat:
    """The translation table and the rules for all other addresses. Neither changes."""

    def __init__(
        self,
        config: NatConfig,
        *,
        ec2_metadata_access: bool = False,
        own_ports: Set[int] = frozenset(),
        disable: Collection[str] = (),
        ipv6: Ipv6Addresses | None = None,
        name_server: int = 0,
    ) -> None:
        """own_ports: TCP ports of the host's loopback on which the program listens. No guest may reach them.

        ipv6: the addresses of the network; None without IPv6.
        disable: what is switched off: "dns", "udp", "icmp", "host-loopback", "api".
        name_server: the IPv4 address of the network's name server; 0 for the gateway's.
        """
        self.network, self.broadcast = ip.prefix(
            ip.of(config.subnet.network_address), config.subnet.prefixlen
        )
        self._ipv6 = ipv6
        self.gateway = config.gateway_ip
        self.gateways = frozenset((self.gateway, *((ipv6.gateway, ipv6.link_local) if ipv6 else ())))
        """The addresses at which the gateway's services are."""
        servers6 = (ipv6.gateway, ipv6.link_local, ipv6.prefix, dhcpv6.ALL_SERVERS) if ipv6 else ()
        self._dhcp = frozenset(((self.gateway, DHCP_PORT), *((addr, DHCPV6_PORT) for addr in servers6)))
        """Where guests ask the DHCP servers. That of IPv6 answers unicast by RFC 8415 section 18.4."""
        self._name_servers = frozenset(
            (
                name_server or self.gateway,
                *((ipv6.name_server or ipv6.gateway,) if ipv6 else ()),
                *((ipv6.link_local,) if ipv6 and not ipv6.name_server else ()),
            )
        )
        """The addresses at which the name server is."""
        own = (self.gateway, *config.gateway_virtual_ips, *self._name_servers)
        self.own = frozenset((*own, *(ipv6.own if ipv6 else ())))
        self.table = {**config.nat, **({ipv6.host: ip.LOOPBACK6} if ipv6 else {})}
        loopback_off = "host-loopback" in disable
        self._translated = {
            addr: Target(to, refused=HOST_LOOPBACK_OFF, errno=self._error_of(addr))
            if loopback_off and _is_loopback(to)
            else Target(to)
            for addr, to in self.table.items()
        }
        """What the table says, and what is switched off, for each address in it."""
        self._tcp_services, self._udp_services = dict(_TCP_SERVICES), dict(_UDP_SERVICES)
        self._dns_off = "dns" in disable
        if self._dns_off:
            del self._tcp_services[DNS_PORT], self._udp_services[DNS_PORT]
        if "api" in disable:
            del self._tcp_services[API_PORT]
        self._udp_off = "udp" in disable
        self._icmp_off = "icmp" in disable
        # If several addresses are translated to one address of the host, guests see the first one.
        self._seen_as = {to: addr for addr, to in reversed(self.table.items())}
        self.ec2_metadata_access = ec2_metadata_access
        self.own_ports = frozenset(own_ports)

    def in_subnet(self, addr: int) -> bool:
        """Whether addr is in the guests' subnet of its family (the first and last address included)."""
        return self.network <= addr <= self.broadcast or (
            self._ipv6 is not None and addr >> 64 == self._ipv6.prefix >> 64
        )

    def tcp_target(self, remote_addr: int, port: int) -> Target:
        """Where a guest's SYN to this address and port goes."""
        target = self._target(self._tcp_services, remote_addr, port)
        if port in self.own_ports and ip.is_loopback(target.addr) and not target.refused:
            return Target(target.addr, refused=OWN_PORT, errno=errno.ECONNREFUSED)
        return target

    def udp_target(self, remote_addr: int, port: int) -> Target:
        """Where a guest's datagram to this address and port goes."""
        if (remote_addr, port) in self._dhcp:
            return Target(remote_addr, service="dhcp")
        target = self._target(self._udp_services, remote_addr, port)
        if self._udp_off and not (target.service or target.refused):
            return Target(target.addr, refused=UDP_OFF, errno=errno.EACCES)
        return target

    def icmp_target(self, remote_addr: int) -> Target:
        """Where a guest's echo request to this address goes. Metadata addresses may always be pinged."""
        target = self._target({}, remote_addr, 0)
        if target.refused == LINK_LOCAL and ip.is_metadata(target.addr):
            target = Target(target.addr)
        if self._icmp_off and not target.refused:
            return Target(target.addr, refused=ICMP_OFF, errno=errno.EACCES)
        return target

    def seen_as(self, host_addr: int) -> int:
        """The address that guests use for an address of the host: the table's entry for it, or itself."""
        return self._seen_as.get(host_addr, host_addr)

    def _error_of(self, addr: int) -> int:
        """The error for an address that means the host's loopback, which is switched off.

        A gateway that means it is slirp4netns', whose guests get this other error.
        """
        return errno.ENETUNREACH if addr in self.gateways else errno.EACCES

    def _target(self, services: Mapping[int, str], addr: int, port: int) -> Target:
        if port in services and addr in (self._name_servers if port == DNS_PORT else self.gateways):
            return Target(addr, service=services[port])
        if addr in self._translated:
            return self._translated[addr]
        addr = ip.embedded(addr)
        if addr in self._translated:
            return self._translated[addr]
        if addr in self._name_servers and port == DNS_PORT and self._dns_off:
            return Target(addr, refused=DNS_OFF, errno=errno.ECONNREFUSED)
        reason, error = self.refusal(addr)
        return Target(addr, refused=reason, errno=error)

    def refusal(self, addr: int) -> tuple[str, int]:
        """(counter name, errno) if a guest may not reach addr, else ("", 0). addr: see ip.embedded()."""
        if addr in self.own:
            return "nat_flow_refused_gateway_port", errno.ECONNREFUSED
        if ip.is_multicast(addr):
            return "nat_flow_refused_multicast", errno.ENETUNREACH
        if addr in (ip.BROADCAST, self.broadcast):
            return "nat_flow_refused_broadcast", errno.ENETUNREACH
        if self.in_subnet(addr):
            return "nat_flow_refused_unowned", errno.EHOSTUNREACH
        if ip.is_loopback(addr):
            return "nat_flow_refused_loopback", errno.ENETUNREACH
        if ip.is_metadata(addr):
            # Clients that look for a cloud's metadata server give up at once after a reset.
            return ("", 0) if self.ec2_metadata_access else (LINK_LOCAL, errno.ECONNREFUSED)
        if ip.is_link_local(addr):
            # No router forwards fe80::/10 (RFC 4291 section 2.5.6).
            return LINK_LOCAL, errno.ECONNREFUSED
        if ip.is_reserved(addr):
            # 0.0.0.0 and :: would reach the host's own loopback.
            return "nat_flow_refused_reserved", errno.ENETUNREACH
        return "", 0


def _is_loopback(addr: int) -> bool:
    """Whether a host socket to this address reaches the host's own loopback. 0.0.0.0 does too."""
    return ip.is_loopback(addr) or addr == 0
