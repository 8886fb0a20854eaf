"""The flags of ``gvtap-pipeline start``: gvproxy's, then our own.

Only this table names them: the parser, the usage text and the documentation come from it. The text of a flag
lists the kinds of addresses from the table that checks them. merge.py says what the flags mean together.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.config.choices import (
    DISABLED,
    FORWARD_FORM,
    GUESTS,
    IPV6,
    LINK_SCHEMES,
    METRICS_SCHEMES,
    NAT64,
    PLACEMENTS,
    SANDBOXES,
    STREAM_SCHEMES,
    TAP,
    TAP_FORM,
    UDP_NATS,
    VNET_LINKS,
)
from pipeline.go.flags import Flag
from pipeline.links import vxlan_url

_URLS: Final[Mapping[str, str]] = {
    "unix": "unix:///path",
    "unixpacket": "unixpacket:///path",
    "unixgram": "unixgram:///path",
    "tcp": "tcp://host:port",
    "tcp4": "tcp4://host:port",
    "tcp6": "tcp6://host:port",
    "vsock": "vsock://[cid]:port",
    "fd": "fd://3, fd://name",
}


def _urls(schemes: Sequence[str]) -> str:
    return ", ".join(_URLS[scheme] for scheme in schemes)


def _links() -> str:
    """Protocols of ``-link``, those with the same schemes together."""
    protocols: dict[tuple[str, ...], list[str]] = {}
    for protocol, schemes in LINK_SCHEMES.items():
        protocols.setdefault(schemes, []).append(f"{protocol}+")
    texts = [f"{', '.join(names)} with {_urls(schemes)}" for schemes, names in protocols.items()]
    header = f"?vnet after {', '.join(VNET_LINKS)}: virtio-net headers before frames"
    return "; ".join((*texts, f"{TAP}+{TAP_FORM}", vxlan_url.FORM, header))


GVPROXY: Final[tuple[Flag, ...]] = (
    Flag("config", "string", "path of a YAML configuration file", is_file=True),
    Flag("listen", "string", f"control endpoint, repeats: {_urls(STREAM_SCHEMES)}", repeats=True),
    Flag("services", "string", f"the control endpoint's services without /connect: {_urls(STREAM_SCHEMES)}"),
    Flag("debug", "bool", "log at level debug"),
    Flag("mtu", "int", "MTU of the virtual network; 0 means that of the configuration file, else 1500"),
    Flag("ssh-port", "int", "port on 127.0.0.1 forwarded to port 22 of the guest; -1 for none", default=2222),
    Flag("subnet", "string", "subnet of the virtual network", default="192.168.127.0/24"),
    Flag("gatewayIP", "string", "address of the gateway; the first usable one of the subnet if empty"),
    Flag("deviceIP", "string", "address of the first guest; the second usable one of the subnet if empty"),
    Flag("hostIP", "string", "address that stands for the host; the last usable one of the subnet if empty"),
    Flag("listen-vpnkit", "string", f"endpoint for hyperkit and vpnkit: {_urls(LINK_SCHEMES['vpnkit'])}"),
    Flag("listen-qemu", "string", f"endpoint for QEMU's stream sockets: {_urls(LINK_SCHEMES['qemu'])}"),
    Flag("listen-bess", "string", f"endpoint for packet sockets: {_urls(LINK_SCHEMES['bess'])}"),
    Flag("listen-stdio", "string", "any value: frames on standard input and output"),
    Flag("listen-vfkit", "string", f"endpoint for vfkit: {_urls(LINK_SCHEMES['vfkit'])}"),
    Flag("forward-sock", "string", "socket to make on the host, repeats", repeats=True),
    Flag("forward-dest", "string", "socket in the guest that it leads to, repeats", repeats=True),
    Flag("forward-user", "string", "ssh user of the guest, repeats", repeats=True),
    Flag("forward-identity", "string", "path of an ssh private key, repeats", repeats=True, is_file=True),
    Flag("pid-file", "string", "path of a file that gets the process id", is_file=True),
    Flag("log-file", "string", "path of the log; it is emptied first", is_file=True),
    Flag("pcap", "string", "path of a packet capture; only without -config", is_file=True),
    Flag("notification", "string", "socket that gets notifications: unix:///path"),
    Flag("ec2-metadata-access", "bool", "let guests reach 169.254.0.0/16"),
    Flag("version", "bool", "print the version and exit"),
)  # fmt: skip

FLEET: Final[tuple[Flag, ...]] = (
    Flag(
        "fleet",
        "string",
        "other hosts of this network know each other by NATS servers: nats://HOST,HOST or tls://HOST",
    ),
    Flag("fleet-host", "string", "name of this host in the fleet; the first label of its own name if empty"),
    Flag("fleet-network", "string", "name of the network in the fleet; gvtap if empty"),
    Flag("fleet-credentials", "string", "file with credentials for the NATS servers", is_file=True),
    Flag("fleet-nkey", "string", "file with the seed of an nkey for the NATS servers", is_file=True),
    Flag(
        "fleet-ca",
        "string",
        "file with the authorities that the NATS servers' certificates need",
        is_file=True,
    ),
    Flag(
        "fleet-certificate", "string", "file with this host's certificate for the NATS servers", is_file=True
    ),
    Flag("fleet-key", "string", "file with the key of -fleet-certificate", is_file=True),
)

OWN: Final[tuple[Flag, ...]] = (
    Flag("listen-vhost-user", "string", f"endpoint for vhost-user-net: {_urls(LINK_SCHEMES['vhost-user'])}"),
    Flag("link", "string", f"further place for guests, repeats: {_links()}", repeats=True),
    Flag("forward", "string", f"port of the host for a guest, repeats: {FORWARD_FORM}", repeats=True),
    Flag(
        "listen-connect",
        "string",
        f"socket on which guests attach by /connect, without the API, repeats: {_urls(STREAM_SCHEMES)}",
        repeats=True,
    ),
    Flag("metrics", "string", f"endpoint for Prometheus alone: host:port or {_urls(METRICS_SCHEMES)}"),
    Flag("web", "string", "a page for browsers on this host: 127.0.0.1:port, [::1]:port or localhost:port"),
    Flag("flow-log", "string", "path of a log with a line for each flow that has ended", is_file=True),
    Flag("tcp-workers", "int", "TCP worker processes; 0 means as configured, else 1"),
    Flag("egress-workers", "int", "worker processes for host sockets; 0 means as configured, else 1"),
    Flag(
        "api-token-file",
        "string",
        "file with the token that the API on the host asks for; none if empty",
        is_file=True,
    ),
    Flag("state-file", "string", "file that keeps the leases while the program does not run", is_file=True),
    Flag(
        "placement",
        "string",
        "separate: a process for each worker; auto: fewer on a small machine",
        words=PLACEMENTS,
    ),
    Flag(
        "sandbox",
        "string",
        "what workers give up after their start: on, what the system can take; strict, all of it; or off",
        words=SANDBOXES,
    ),
    Flag("user", "string", "user that the daemon becomes after its start, if root starts it"),
    Flag(
        "udp-nat",
        "string",
        "who may answer datagrams of guests: symmetric, only whom they were for, or full-cone, all",
        words=UDP_NATS,
    ),
    Flag(
        "guests",
        "string",
        "what guests may send each other: guarded, honest frames; isolated, nothing; apart, nothing, and they"
        " may have the same addresses; or open, anything",
        words=GUESTS,
    ),
    Flag("ipv6", "string", "whether guests have IPv6; by default auto, in gvtap-gvproxy off", words=IPV6),
    Flag(
        "nat64",
        "string",
        "with IPv6, names of IPv4 hosts get IPv6 addresses: off; on; or auto, if asked for over IPv6",
        words=NAT64,
    ),
    Flag(
        "disable",
        "string",
        "what no guest has, repeats: the gateway's dns or api (port 80), udp, icmp (pings), or host-loopback",
        repeats=True,
        words=DISABLED,
    ),
    Flag(
        "dns-server",
        "string",
        "name server to ask, repeats: an IP address, perhaps with a port; those of resolv.conf if empty",
        repeats=True,
    ),
    Flag(
        "dhcp-range",
        "string",
        "addresses that DHCP gives to unknown guests: FIRST-LAST; all of the subnet if empty",
    ),
    Flag("guest-names", "string", "zone that gets the host names which guests send by DHCP; none if empty"),
    *FLEET,
    Flag("outbound-address", "string", "IPv4 address of this host from which guests' traffic leaves"),
    Flag("outbound-interface", "string", "network interface through which guests' traffic leaves"),
    Flag("slots", "int", "slots of 72 KiB in shared memory; 0 means as configured, else 512"),
    Flag(
        "busy-poll",
        "int",
        "microseconds to look for more work before sleeping, 0 to 50; -1 means as configured, else 50",
        default=-1,
    ),
    Flag(
        "limit", "string", "name=number, repeats: one of the limits of the configuration file", repeats=True
    ),
)

START: Final = GVPROXY + OWN
FLEET_COMMANDS: Final = (GVPROXY[0], *FLEET)
"""The flags of the commands that look at a fleet."""
