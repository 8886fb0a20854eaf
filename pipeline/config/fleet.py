"""Checks the settings of a fleet: several hosts whose guests share one network (docs/fleet.md).

-fleet has the form ``nats://HOST[:PORT][,HOST[:PORT]...]``, or ``tls://`` for encrypted connections. A host
is a name or an address, and an IPv6 address stands in brackets. Whether the files can be used shows when the
program connects.
"""

import os
import re
from typing import Final

from pipeline.blake2 import blake2b
from pipeline.config.choices import VXLAN
from pipeline.config.errors import ConfigError
from pipeline.config.keys import FileKeys
from pipeline.config.model import Config, Fleet, Settings
from pipeline.config.scalars import Scalar, fleet_name, fleet_servers
from pipeline.go import flags
from pipeline.links import vxlan_url
from pipeline.wire import ethernet, ipv6

NETWORK: Final = "gvtap"
"""The name of the network if none is given."""

_FILES: Final = ("credentials", "nkey", "ca", "certificate", "key")
_ANY: Final = re.compile(r"(0\.0\.0\.0|::)")


def settings(parsed: flags.Parsed, keys: FileKeys) -> Settings:
    """The settings by name. A flag wins over the file. Raises ConfigError."""
    own = keys.fleet
    servers = _checked("fleet", parsed.text("fleet"), fleet_servers) or own.fleet_servers
    host = _checked("fleet-host", parsed.text("fleet-host"), fleet_name) or own.fleet_host
    network = _checked("fleet-network", parsed.text("fleet-network"), fleet_name) or own.fleet_network
    paths = {
        f"fleet_{name}": parsed.text(f"fleet-{name}") or getattr(own, f"fleet_{name}") for name in _FILES
    }
    given = {"fleet_host": host, "fleet_network": network, **paths}
    if not servers:
        for name, value in given.items():
            if value:
                raise ConfigError(f"{name.replace('_', '-')} needs -fleet (fleet.servers)")
    else:
        _check_files(paths)
        given["fleet_host"] = host or _own_name()
        given["fleet_network"] = network or NETWORK
    return {"fleet_servers": servers, "fleet_ttl": own.fleet_ttl, **given}


def _checked(name: str, text: str, check: object) -> str:
    if not text:
        return ""
    try:
        return str(check(Scalar(text, plain=True)))  # type: ignore[operator]
    except ValueError as error:
        raise ConfigError(f"{name} {error}, not {flags.quote(text)}") from None


def _own_name() -> str:
    text = os.uname().nodename.partition(".")[0].lower()
    try:
        return fleet_name(Scalar(text, plain=True))
    except ValueError:
        raise ConfigError(
            f"fleet-host is missing, and the name of this host {flags.quote(text)} will not do"
        ) from None


def _check_files(paths: Settings) -> None:
    for name, path in paths.items():
        option = name.replace("_", "-")
        if path and not os.path.isfile(str(path)):
            raise ConfigError(
                f"{option}: {flags.quote(str(path))} is not a file (allowed: a file that exists)"
            )
    if bool(paths["fleet_certificate"]) != bool(paths["fleet_key"]):
        raise ConfigError("fleet-certificate and fleet-key are needed together, or not at all")
    if paths["fleet_credentials"] and paths["fleet_nkey"]:
        raise ConfigError("fleet-credentials and fleet-nkey cannot be used together (allowed: one of them)")


def station_mac(fleet: Fleet) -> bytes:
    """The MAC address by which a host of a fleet is a station of the network itself; b"" without a fleet.

    It follows from the names of network and host. So it is the same after each start, and all hosts know it.
    """
    if not fleet.fleet_servers:
        return b""
    return station_mac_of(fleet.fleet_network, fleet.fleet_host)


def station_mac_of(network: str, host: str) -> bytes:
    """The same for a host with this name."""
    text = f"station {network} {host}"
    return ethernet.local_mac(blake2b(text.encode(), digest_size=ethernet.MAC_LEN).digest())


def station_addr6(config: Config) -> int:
    """The IPv6 address of this host as a station; 0 without a fleet, or while guests have no IPv6.

    It follows from the MAC address, which no guest may have. So no pool is needed.
    """
    mac = station_mac(config.fleet)
    first = config.network.ipv6_first
    return ipv6.of_mac(first, mac) if mac and first else 0


def check_link(config: Config) -> None:
    """Raise ConfigError if the link to other hosts and the fleet do not fit together."""
    places = [vxlan_url.parse(url) for protocol, url in config.links.further if protocol == VXLAN]
    if not config.fleet.fleet_servers:
        if places and not places[0].remotes:
            raise ConfigError(f"link: {VXLAN}: remote is missing (allowed: {vxlan_url.FORM})")
        return
    if not places:
        raise ConfigError(
            f"fleet needs a link to the other hosts (allowed: -link {VXLAN}+udp://ADDRESS?vni=NUMBER)"
        )
    if _ANY.fullmatch(places[0].local.address):
        raise ConfigError(
            f"link: {VXLAN}: {places[0].local.address} is not one address, and the fleet needs one "
            "(allowed: the address of this host)"
        )
