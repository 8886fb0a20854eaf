"""Looks up the proxies of an egress policy that have names: ``http://proxy.example.com:3128``.

The supervisor does so when the policy is set and with each SIGHUP, and gives workers the addresses with the
Config. Workers cannot look names up.
"""

import socket

from pipeline.config.errors import ConfigError
from pipeline.config.model import EgressPolicy
from pipeline.engines.proxy import via


def look_up_all(policy: EgressPolicy) -> dict[str, str]:
    """The address of each name, IPv4 first. It may wait for name servers. Raises ConfigError."""
    found: dict[str, str] = {}
    for index, rule in enumerate(policy.rules):
        name = via.name_of(rule.via) if rule.via else ""
        if name and name not in found:
            try:
                found[name] = _address(name)
            except OSError as error:
                words = (error.strerror or str(error)).lower()
                what = f"egress-policy.rules[{index}].via: {name} has no address: {words}"
                raise ConfigError(f"{what} (allowed: a name that this host knows, or an address)") from None
    return found


def _address(name: str) -> str:
    rows = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    best = min(rows, key=lambda row: row[0] != socket.AF_INET)
    return str(best[4][0]).partition("%")[0]
