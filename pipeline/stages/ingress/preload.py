"""Loads what listeners and links of the configuration need: ingress can read no file when guests come."""

from collections.abc import Mapping
from importlib import import_module
from typing import Final

from pipeline.config.choices import TAP, VXLAN
from pipeline.config.model import Links

_MODULES: Final[Mapping[str, str]] = {
    "vhost-user": "pipeline.links.vhost_user",
    TAP: "pipeline.links.tap",
    VXLAN: "pipeline.links.vxlan",
    "fd": "pipeline.links.tap",
}
"""By protocol. Clients of ``fd`` may pass taps."""


def load(links: Links) -> None:
    """Load them. Takes a few milliseconds if there are any."""
    used = {protocol for protocol, _ in links.further}
    if links.vhost_user:
        used.add("vhost-user")
    for protocol in sorted(used & _MODULES.keys()):
        import_module(_MODULES[protocol])
