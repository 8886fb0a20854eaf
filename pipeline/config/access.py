"""Checks settings of access together or with a file: policy, token, PROXY protocol.

keys.py has checked each single value before.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.config.address_words import split_network
from pipeline.config.choices import DENY, PROXY
from pipeline.config.errors import ConfigError
from pipeline.config.model import MAX_QUOTAS, EgressPolicy, PolicyRule, PortForward, Quota, forward_key
from pipeline.engines import quota_limits
from pipeline.engines.proxy import via
from pipeline.go import flags
from pipeline.system import inet, small_file


def check_policy(policy: EgressPolicy) -> EgressPolicy:
    """The policy, with the networks of each rule merged.

    Raises ConfigError for a rule about ports of a protocol without ports, and the like.
    """
    if policy.preset and policy.default == DENY:
        raise ConfigError("egress-policy.default: a preset stands in its place (allowed: one of the two)")
    for index, rule in enumerate(policy.rules):
        if rule.ports and "icmp" in rule.protocols:
            raise ConfigError(f"egress-policy.rules[{index}]: icmp has no ports (allowed: tcp, udp)")
        _check_proxy(rule, f"egress-policy.rules[{index}]")
    if len(policy.quotas) > MAX_QUOTAS:
        raise ConfigError(f"egress-policy.quotas: has {len(policy.quotas)} entries (allowed: {MAX_QUOTAS})")
    for index, quota in enumerate(policy.quotas):
        _check_quota(quota, quota_limits.rule(index))
    rules = [replace(rule, networks=_merged(rule.networks)) for rule in policy.rules]
    return replace(policy, rules=tuple(rules))


def _check_proxy(rule: PolicyRule, where: str) -> None:
    if rule.action != PROXY:
        if rule.via:
            raise ConfigError(f"{where}.via: only a rule with action: {PROXY} has it, not {rule.action}")
        return
    if not rule.via:
        raise ConfigError(f"{where}.via: is missing, and action: {PROXY} needs it (allowed: {via.FORM})")
    if via.is_hidden(rule.via):
        raise ConfigError(f"{where}.via: has {via.HIDDEN} in place of the password")
    for protocol in rule.protocols:
        if protocol not in inet.TCP:
            raise ConfigError(f"{where}.protocols: a proxy carries no {protocol} (allowed: tcp)")


def _check_quota(quota: Quota, where: str) -> None:
    if not quota_limits.limits(quota):
        allowed = ", ".join(quota_limits.KEYS.values())
        raise ConfigError(f"{where}: bounds nothing (allowed: one or several of {allowed})")


def _merged(networks: tuple[str, ...]) -> tuple[str, ...]:
    """Networks with the same addresses that do not overlap, as few as possible, IPv4 first."""
    if len(networks) < 2:
        return networks
    # Lists of networks are long, and seldom.
    import netaddr  # noqa: PLC0415

    return tuple(str(each) for each in netaddr.cidr_merge(networks))


def check_token_file(path: str) -> str:
    """The path of a file that holds a token, or an empty text. Raises ConfigError.

    The token itself is read again by the code that checks requests.
    """
    if not path:
        return ""
    try:
        token = small_file.read(path).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        words = os.strerror(error.errno or 0).lower() if isinstance(error, OSError) else "not ASCII"
        raise ConfigError(f"token file {flags.quote(path)} can't be read: {words}") from None
    except small_file.FileError as error:
        raise ConfigError(f"token file {flags.quote(path)} can't be read: {error}") from None
    if not re.fullmatch(r"[!-~]+", token):
        raise ConfigError(f"token file {flags.quote(path)} must hold one word")
    return path


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
            f"proxy-protocol: {key} is not a TCP forward of stack.forwards (known: {keys or 'none'})"
        )
    return tuple(found)
