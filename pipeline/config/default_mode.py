"""Settings without a configuration file, as in gvproxy: zones, search domains, a lease, the ssh forward."""

from typing import Final

from pipeline.config.errors import ConfigError
from pipeline.config.model import PortForward, Record, Settings, Zone
from pipeline.config.subnet import Addresses
from pipeline.go import flags
from pipeline.wire import ethernet, ip

GUEST_MAC: Final = ethernet.mac_parse("5a:94:ef:e4:0c:ee")
VPNKIT_UUID: Final = "c3d68012-0208-11ea-9fd7-f2189899ab08"
RESOLV_CONF: Final = "/etc/resolv.conf"


def forwards(parsed: flags.Parsed, network: Addresses) -> tuple[PortForward, ...]:
    """The forward to the first guest's ssh, unless -ssh-port is -1. Raises ConfigError."""
    port = parsed.number("ssh-port")
    if port == -1:
        return ()
    if not 1024 <= port <= 65535:
        raise ConfigError("ssh-port value must be between 1024 and 65535")
    return (PortForward("tcp", f"127.0.0.1:{port}", f"{ip.text(network.device_ip)}:22"),)


def settings(parsed: flags.Parsed, network: Addresses, resolv_conf: str) -> Settings:
    """The other settings by name."""
    gateway, host = map(ip.text, (network.gateway_ip, network.host_ip))
    records = (Record("gateway", gateway), Record("host", host))
    return {
        "capture_file": parsed.text("pcap"),
        "dns_zones": tuple(Zone(name, records) for name in ("containers.internal.", "docker.internal.")),
        "dns_search_domains": search_domains(resolv_conf),
        "dhcp_static_leases": {network.device_ip: GUEST_MAC},
        "vpnkit_macs": {VPNKIT_UUID: GUEST_MAC},
    }


def search_domains(resolv_conf: str) -> tuple[str, ...]:
    """The names of the first ``search`` line of a resolv.conf; none when it cannot be read."""
    try:
        with open(resolv_conf, encoding="utf-8", errors="replace") as file:
            for line in file:
                words = line.split()
                if words and words[0] == "search" and not line[0].isspace():
                    return tuple(words[1:])
    except OSError:
        return ()
    return ()
