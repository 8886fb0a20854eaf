"""Writes a Config as the keys of a file, for ``config show``. Reading the file gives the same Config."""

from typing import Final

from pipeline.config.keys import FileKeys
from pipeline.config.model import Config, Settings, forward_key
from pipeline.config.schema import adapter
from pipeline.wire import ip

Keys = dict[str, object]

_AS_THEY_ARE: Final = ("guest-api", "egress-policy")
"""Maps that are shown only if they are not the default."""


def as_file(config: Config) -> Keys:
    """The keys and their values, as texts, numbers, lists and maps. Leaves out what is empty by default."""
    network, forwards = config.network, config.access.forwards
    in_other_words: Settings = {
        "subnet": str(network.subnet),
        "gateway_ip": ip.text(network.gateway_ip),
        "device_ip": ip.text(network.device_ip),
        "host_ip": ip.text(network.host_ip),
        "further": tuple(f"{protocol}+{url}" for protocol, url in config.links.further),
        "forwards": {forward_key(forward): forward.remote for forward in forwards},
        "proxy_protocol": {
            forward_key(forward): f"v{forward.proxy_protocol}"
            for forward in forwards
            if forward.proxy_protocol
        },
    }
    shown = _written(FileKeys.of(config.settings() | in_other_words))
    default = _written(FileKeys())
    for key in _AS_THEY_ARE:
        if shown[key] == default[key]:
            del shown[key]
    return _filled(shown, default)


def _written(keys: FileKeys) -> Keys:
    written: Keys = adapter().dump_python(keys, mode="json", by_alias=True, warnings="error")
    return written


def _filled(keys: Keys, default: Keys) -> Keys:
    """Leave out empty values, except where the default is not empty: false and 0 mean something there."""
    found: Keys = {}
    for key, value in keys.items():
        by_default = default.get(key, value)
        filled = value
        if isinstance(value, dict):
            filled = _filled(value, by_default if isinstance(by_default, dict) else {})
        elif isinstance(value, list):
            filled = [_filled(item, {}) if isinstance(item, dict) else item for item in value]
        if filled or value != by_default:
            found[key] = filled
    return found
