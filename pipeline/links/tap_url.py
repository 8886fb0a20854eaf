"""The place of a tap, as -link has it: ``NAME[?netns=NAMESPACE][&userns=PATH][&mac=MAC]``.

::

    tap+eth0                              an interface of the daemon's own network namespace
    tap+eth0?netns=blue                   of a named one: /run/netns/blue, which `ip netns` makes
    tap+eth0?netns=/proc/4711/ns/net      of the one that a path names
    ...&userns=/proc/4711/ns/user         enter this user namespace first; by default the owner of that
    ...&mac=5a:94:ef:e4:0c:ee             the address of the interface, if the daemon makes it

This module opens nothing. pipeline.links.tap_opener does.
"""

import re
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from pipeline.wire import ethernet

PROTOCOL: Final = "tap"
NAMED: Final = "/run/netns"

_NAME: Final = re.compile(r"[^/:%\s\0?&]{1,15}")
"""What Linux allows (dev_valid_name), without what has a meaning of its own here."""
_KEYS: Final = ("netns", "userns", "mac")


class TapPlace(NamedTuple):
    """Paths are "" and the MAC is empty where they are not given."""

    name: str
    netns: str = ""
    userns: str = ""
    mac: bytes = b""


def parse(text: str) -> TapPlace:
    """The place that a text means, which follows ``tap+``. Raises ValueError with what is wrong."""
    name, mark, query = text.partition("?")
    if not _NAME.fullmatch(name) or name in (".", "..") or not name.isascii():
        raise ValueError(f"{name!r} is not a name of an interface")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if mark else []
    except ValueError:
        raise ValueError(f"{query!r} is not a list of settings") from None
    given = dict(pairs)
    if len(given) < len(pairs):
        raise ValueError(f"a setting stands twice in {query!r}")
    for key, value in pairs:
        if key not in _KEYS:
            raise ValueError(f"unknown setting {key!r}")
        if not value or "\0" in value:
            raise ValueError(f"{key} has no value")
    return TapPlace(
        name,
        path_of("netns", given.get("netns", "")),
        path_of("userns", given.get("userns", "")),
        _mac(given),
    )


def path_of(key: str, text: str) -> str:
    """The path of a namespace. A network namespace (key "netns") may have a name. Raises ValueError."""
    if not text or text.startswith("/"):
        return text
    if key != "netns":
        raise ValueError(f"{key} {text!r} must be an absolute path, such as /proc/4711/ns/user")
    if "/" in text or text in (".", ".."):
        raise ValueError(f"netns {text!r} must be a name below {NAMED}, or an absolute path")
    return f"{NAMED}/{text}"


def _mac(given: dict[str, str]) -> bytes:
    text = given.get("mac", "")
    try:
        return ethernet.machine_mac_parse(text) if text else b""
    except ValueError:
        words = "is not the MAC address of a machine, such as 5a:94:ef:e4:0c:ee"
        raise ValueError(f"mac {text!r} {words}") from None
