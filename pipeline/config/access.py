"""From the configuration file's keys about access to Config: guests' API, egress policy, PROXY protocol.

keys.py has checked each value by itself. This module puts them together and checks them against each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.config.file import ConfigError
from pipeline.config.keys import EgressPolicyKeys, GuestApiKeys
from pipeline.config.model import EgressPolicy, GuestApi, PolicyRule, PortForward, forward_key
from pipeline.config.scalars import split_network
from pipeline.go import flags
from pipeline.system import inet


def guest_api(keys: GuestApiKeys) -> GuestApi:
    """What guests may do through the gateway's port 80."""
    return GuestApi(keys.enabled, keys.unix, tuple(keys.addresses), tuple(keys.ports))


def egress_policy(keys: EgressPolicyKeys) -> EgressPolicy:
    """Where guests may connect to. Raises ConfigError for a rule about ports of a protocol without ports."""
    rules = []
    for index, key in enumerate(keys.rules):
        if key.ports and "icmp" in key.protocols:
            raise ConfigError(f"egress-policy.rules[{index}]: icmp has no ports (allowed: tcp, udp)")
        rules.append(
            PolicyRule(
                key.action,
                tuple(key.guests),
                tuple(key.networks),
                tuple(key.names),
                tuple(key.ports),
                tuple(key.protocols),
            )
        )
    return EgressPolicy(keys.default, tuple(rules))


def with_proxy_protocol(
    forwards: Sequence[PortForward], versions: Mapping[str, str]
) -> tuple[PortForward, ...]:
    """The forwards, with the versions given by their keys. Raises ConfigError for one that is not for TCP."""
    left = {split_network(key): (key, version) for key, version in versions.items()}
    found = []
    for forward in forwards:
        known = forward.protocol in inet.TCP
        _, version = left.pop((forward.protocol, forward.local), ("", "")) if known else ("", "")
        found.append(replace(forward, proxy_protocol=int(version[1:]) if version else 0))
    if left:
        keys = ", ".join(forward_key(forward) for forward in forwards if forward.protocol in inet.TCP)
        key = flags.quote(next(iter(left.values()))[0])
        raise ConfigError(
            f"proxy-protocol: {key} is no TCP forward of stack.forwards (known: {keys or 'none'})"
        )
    return tuple(found)
