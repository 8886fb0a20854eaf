"""Checks the settings of guests' way out together: name servers, the source of sockets, what is switched off.

keys.py has checked each single value of a file before. Values of flags are checked here, by the same rules.
"""

from collections.abc import Callable, Sequence
from typing import Final

from pipeline.config.choices import DISABLED, DNS, UDP
from pipeline.config.errors import ConfigError
from pipeline.config.keys import FileKeys
from pipeline.config.model import Config, Network, Settings, Zone, forward_key
from pipeline.config.scalars import Scalar, interface, ip_range, name_server, source_address, zone_name
from pipeline.engines.dns.zones import MAX_ZONES
from pipeline.go import flags
from pipeline.system import inet
from pipeline.wire import ip

MAX_SERVERS: Final = 4
"""The most name servers: one question is sent at most that often (pipeline.host.upstream)."""


def settings(parsed: flags.Parsed, keys: FileKeys, gateway: int) -> Settings:
    """The settings by name. A flag wins over the file, except that both switch things off.

    Raises ConfigError.
    """
    disable = {*_flags(parsed, "disable", _switch), *keys.disable}
    return {
        "disable": tuple(word for word in DISABLED if word in disable),
        "dns_servers": _servers(
            _flags(parsed, "dns-server", name_server) or keys.dns_servers, keys.dns_address or gateway
        ),
        "dhcp_range": _range(parsed, keys),
        "guest_names": _flag(parsed, "guest-names", zone_name) or keys.guest_names,
        "outbound_address": _flag(parsed, "outbound-address", source_address) or keys.outbound_address,
        "outbound_interface": _flag(parsed, "outbound-interface", interface) or keys.outbound_interface,
    }


def check_together(config: Config) -> None:
    """Raise ConfigError if one of the settings needs what another one switches off."""
    network, access = config.network, config.access
    _check_dns_address(network)
    _check_dhcp_range(network)
    if DNS in access.disable:
        wanting = [key for key in ("dns_servers", "guest_names") if getattr(network, key)]
        rules = enumerate(access.egress_policy.rules)
        wanting += [f"egress_policy.rules[{index}].names" for index, rule in rules if rule.has_names]
        if wanting:
            key = wanting[0].replace("_", "-")
            raise ConfigError(f"{key} needs the gateway's name server, {_off(DNS)}")
    if UDP in access.disable:
        for forward in access.forwards:
            if forward.protocol in inet.UDP:
                raise ConfigError(f"forward {flags.quote(forward_key(forward))} is for udp, {_off(UDP)}")
    _check_zone(network.guest_names, network.dns_zones)


def _check_dns_address(network: Network) -> None:
    """Raise ConfigError for an address of the name server that a guest has, or that means the host."""
    address, subnet = network.dns_address, network.subnet
    if not address or address == network.gateway_ip:
        return
    taken = {network.device_ip, *network.nat, *network.dhcp_static_leases}
    first, last = ip.of(subnet.network_address), ip.of(subnet.broadcast_address)
    if not first < address < last or address in taken:
        words = f"an address of {subnet} that neither a guest nor the host has"
        raise ConfigError(f"dns-address: {ip.text(address)} cannot be the name server's (allowed: {words})")


def _check_dhcp_range(network: Network) -> None:
    """Raise ConfigError for a range that is not one of guests' addresses."""
    subnet, (first, last) = network.subnet, network.dhcp_range
    if (first or last) and not (
        ip.of(subnet.network_address) < first and last < ip.of(subnet.broadcast_address)
    ):
        words = f"{ip.text(first)}-{ip.text(last)}"
        raise ConfigError(f"dhcp-range: {words} is not a range of guests (allowed: addresses of {subnet})")


def _off(word: str) -> str:
    return f"which disable: [{word}] switches off"


def _check_zone(name: str, zones: Sequence[Zone]) -> None:
    """Raise ConfigError if names of this zone would belong to a zone that was configured for others."""
    keys = [zone.name.lower().rstrip(".") for zone in zones]
    if not name or name in keys:
        return
    if len(keys) >= MAX_ZONES:
        raise ConfigError(
            f"guest-names: {flags.quote(name)} needs a zone of its own, but stack.dns has {len(keys)} "
            f"(allowed: at most {MAX_ZONES} in all)"
        )
    for zone, key in zip(zones, keys, strict=True):
        if not key or name.endswith(f".{key}"):
            above = flags.quote(zone.name)
            raise ConfigError(
                f"guest-names: {flags.quote(name)} lies below the zone {above} of stack.dns, which would "
                "answer for its names (allowed: a zone of stack.dns that has a name, or one below none)"
            )


def _servers(texts: Sequence[str], gateway: int) -> tuple[str, ...]:
    servers = tuple(dict.fromkeys(texts))
    if len(servers) > MAX_SERVERS:
        raise ConfigError(f"dns-servers: at most {MAX_SERVERS} servers are allowed, not {len(servers)}")
    own = ip.text(gateway)
    for server in servers:
        if server.rpartition(":")[0] == own:
            raise ConfigError(f"dns-servers: {flags.quote(server)} is the gateway, which would ask itself")
    return servers


# --- flags --------------------------------------------------------------------------------


def _flag(parsed: flags.Parsed, name: str, check: Callable[[object], str]) -> str:
    text = parsed.text(name)
    return _checked(name, text, check) if text else ""


def _range(parsed: flags.Parsed, keys: FileKeys) -> tuple[int, int]:
    text = parsed.text("dhcp-range")
    try:
        return ip_range(Scalar(text, plain=True)) if text else keys.dhcp_range
    except ValueError as error:
        raise ConfigError(f"dhcp-range {error}, not {flags.quote(text)}") from None


def _flags(parsed: flags.Parsed, name: str, check: Callable[[object], str]) -> tuple[str, ...]:
    return tuple(_checked(name, text, check) for text in parsed.lists[name])


def _checked(name: str, text: str, check: Callable[[object], str]) -> str:
    try:
        return check(Scalar(text, plain=True))
    except ValueError as error:
        raise ConfigError(f"{name} {error}, not {flags.quote(text)}") from None


def _switch(value: object) -> str:
    text = str(value)
    if text not in DISABLED:
        raise ValueError(f"must be {' or '.join(DISABLED)}")
    return text
