"""DHCP messages and configurations for tests of the DHCP server."""

from dataclasses import replace
from ipaddress import IPv4Network

from pipeline.config.model import Network
from pipeline.counters import INDEX
from pipeline.engines.dhcp.server import Dhcp, Ignored, Reply
from pipeline.wire import dhcp, ip

GATEWAY = ip.parse_ipv4("192.168.127.1")
GUEST = ip.parse_ipv4("192.168.127.2")
HOST = ip.parse_ipv4("192.168.127.254")
NETWORK = ip.parse_ipv4("192.168.127.0")
GATEWAY_MAC = bytes.fromhex("5a94efe40cdd")
GUEST_MAC = bytes.fromhex("5a94efe40cee")


def config(**changes: object) -> Network:
    base = Network(
        mtu=1500,
        subnet=IPv4Network("192.168.127.0/24"),
        gateway_ip=GATEWAY,
        device_ip=GUEST,
        host_ip=HOST,
        gateway_mac=GATEWAY_MAC,
        dns_zones=(),
        dns_search_domains=(),
        nat={},
        gateway_virtual_ips=(),
        dhcp_static_leases={GUEST: GUEST_MAC},
        vpnkit_macs={},
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def small(**changes: object) -> Network:
    """A /29: .1 is the gateway, .6 the host, .7 broadcast. Clients can have .2 to .5."""
    subnet = IPv4Network("192.168.127.0/29")
    return config(subnet=subnet, dhcp_static_leases={}, host_ip=NETWORK + 6, **changes)


def mac(n: int) -> bytes:
    return b"\x02\x00\x00" + n.to_bytes(3, "big")


def message(
    kind: int, chaddr: bytes = GUEST_MAC, options: dict[int, bytes] | None = None, **fields: int
) -> bytes:
    all_options = {dhcp.MESSAGE_TYPE: bytes((kind,)), **(options or {})}
    return dhcp.build(dhcp.Message(dhcp.BOOT_REQUEST, fields.pop("xid", 7), chaddr, all_options, **fields))


def send(
    engine: Dhcp, payload: bytes, guest_addr: int = 0, port: int = 68, now: float = 0.0, link: int = 1
) -> Reply | Ignored:
    return engine.on_message(payload, 0, len(payload), link, guest_addr, port, now)


def parsed(reply: Reply | Ignored) -> dhcp.Message:
    assert isinstance(reply, Reply), reply
    assert reply.counter in INDEX
    return dhcp.parse(reply.payload, 0, len(reply.payload))


def ignored(reply: Reply | Ignored) -> str:
    assert isinstance(reply, Ignored), reply
    assert reply.counter in INDEX
    return reply.counter


def address(engine: Dhcp, n: int, kind: int = dhcp.REQUEST, now: float = 0.0, link: int = 1) -> int:
    """The last number of the address that client n gets; 0 if there is no reply."""
    reply = send(engine, message(kind, mac(n)), now=now, link=link)
    return parsed(reply).yiaddr & 0xFF if isinstance(reply, Reply) else 0


def bootp(n: int, *, cookie: bool = True, sname: bytes = b"", **fields: int) -> bytes:
    """A BOOTP request: it has no message type, and without the cookie also no options."""
    wire = dhcp.build(dhcp.Message(dhcp.BOOT_REQUEST, 7, mac(n), {}, **fields)._replace(sname=sname))
    return wire if cookie else wire[:236] + bytes(64)


def decline(n: int, last: int) -> bytes:
    return message(dhcp.DECLINE, mac(n), {dhcp.REQUESTED_ADDRESS: ip.ipv4_bytes(NETWORK + last)})
