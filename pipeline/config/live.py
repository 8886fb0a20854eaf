"""Which settings may change while the program runs, and what a new configuration comes to then.

A setting belongs here if every worker can replace it between two breaths, without a guest noticing more than
the setting itself. All others are bound to what exists since the start: sockets, processes, shared memory,
addresses that guests have.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import Final, NamedTuple

from pipeline.config import limits
from pipeline.config.keys import FileKeys, Map, dashed
from pipeline.config.model import Config

LIVE: Final = frozenset(
    {
        *("egress_policy", "name_lists", "proxy_hosts", "guest_api", "forwards", "socket_forwards"),
        *("dns_zones", "dns_search_domains", "log_level"),
        *(limit.name for limit in limits.TABLE),
    }
)
"""Settings by their names in Config."""


class Reloaded(NamedTuple):
    """``config``: the settings from now on. ``changed``: keys with another value than before.

    ``kept``: keys that stand in the file with another value, but cannot change while the program runs.
    """

    config: Config
    changed: tuple[str, ...]
    kept: tuple[str, ...]


def reloaded(running: Config, read: Config) -> Reloaded:
    """What follows ``running`` when ``read`` is read."""
    before, after = running.settings(), read.settings()
    differ = [(name, key) for name, key in KEYS if name in before and before[name] != after[name]]
    return Reloaded(
        Config.of(before | {name: after[name] for name in LIVE}),
        tuple(key for name, key in differ if name in LIVE),
        tuple(key for name, key in differ if name not in LIVE),
    )


def _keys(keys: Map, path: str) -> Iterator[tuple[str, str]]:
    """Each setting of a map and of the maps in it, with its key: ("host_ip", "stack.hostIP")."""
    for each in fields(keys):
        key = path + each.metadata.get("alias", dashed(each.name))
        value = getattr(keys, each.name)
        if isinstance(value, Map):
            yield from _keys(value, f"{key}.")
        else:
            yield each.name, key


KEYS: Final = (
    *_keys(FileKeys(), ""),
    ("name_lists", "egress-policy.rules.name-files"),
    ("proxy_hosts", "egress-policy.rules.via"),
)
"""All settings of a file, each with its key."""
