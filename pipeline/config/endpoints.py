"""Checks the URLs of the sockets for guests and clients, in gvproxy's order and words. It binds nothing."""

import os
import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from pipeline.config.choices import LINK_SCHEMES, METRICS_SCHEMES, TAP, TAP_FORM, VNET_LINKS, VXLAN
from pipeline.config.errors import ConfigError
from pipeline.config.keys import FileKeys
from pipeline.config.model import LINKS
from pipeline.go import flags
from pipeline.links import tap_url, vnet, vxlan_url
from pipeline.links.addresses import unix_path
from pipeline.system import inet, path_mtu, socket_file

_VSOCK: Final = re.compile(r"([0-9]*:[0-9]+|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})", re.ASCII)

_METRICS_HINT: Final = "allowed: host:port or unix:///path"
_TCP: Final = "tcp://"
_FD: Final = "fd"
_WEB_HINT: Final = "allowed: 127.0.0.1:port, [::1]:port or localhost:port"


def links_of(parsed: flags.Parsed, keys: FileKeys, *, bound: bool = False) -> dict[str, str]:
    """The URL of each of LINKS, "" for none. Raises ConfigError.

    bound: the sockets are bound already, so their files may exist.
    """
    links = {
        name: parsed.text(f"listen-{name.replace('_', '-')}") or getattr(keys.interfaces, name)
        for name in LINKS
    }
    if links["qemu"]:
        check(links["qemu"], "invalid value for qemu listen address", LINK_SCHEMES["qemu"])
        _check_option("qemu", links["qemu"], "invalid value for qemu listen address")
        if not bound:
            _must_not_exist(links["qemu"], "unix")
    for name, scheme in (("bess", "unixpacket"), ("vfkit", "unixgram")):
        url = links[name]
        if url:
            if not url.startswith(tuple(f"{allowed}://" for allowed in LINK_SCHEMES[name])):
                raise ConfigError(f"{name} listen address must be {scheme}:// address")
            _check_option(name, url, f"{name} listen address")
            if not bound:
                _must_not_exist(url, scheme)
    if links["vhost_user"]:
        check(links["vhost_user"], "listen-vhost-user", LINK_SCHEMES["vhost-user"])
        _check_option("vhost-user", links["vhost_user"], "listen-vhost-user")
        if not bound:
            _must_not_exist(links["vhost_user"], "unix")
    if links["vpnkit"]:
        check(links["vpnkit"], "invalid value for vpnkit listen address", LINK_SCHEMES["vpnkit"])
        _check_option("vpnkit", links["vpnkit"], "invalid value for vpnkit listen address")
    for one, other in (("qemu", "vpnkit"), ("bess", "vpnkit"), ("qemu", "bess")):
        if links[one] and links[other]:
            raise ConfigError(f"cannot use {one} and {other} protocol at the same time")
    return links


def further_links(texts: Sequence[str], *, bound: bool = False) -> tuple[tuple[str, str], ...]:
    """Protocol and URL of each ``protocol+url``. Raises ConfigError. bound: as for links_of().

    A tap has its place (pipeline.links.tap_url) instead of a URL. There is at most one link to other hosts.
    """
    found: list[tuple[str, str]] = []
    for text in texts:
        protocol, plus, url = text.partition("+")
        if protocol == TAP and plus:
            _check_tap(url, found)
            found.append((protocol, url))
            continue
        if protocol == VXLAN and plus:
            _check_vxlan(url, found)
            found.append((protocol, url))
            continue
        schemes = LINK_SCHEMES.get(protocol)
        if not plus or schemes is None:
            allowed = ", ".join(f"{name}+" for name in (*LINK_SCHEMES, TAP, VXLAN))
            raise ConfigError(f"link: {flags.quote(text)} must begin with a protocol (allowed: {allowed})")
        check(url, f"link: {protocol}", schemes)
        _check_option(protocol, url, f"link: {protocol}")
        for scheme in () if bound else ("unix", "unixpacket", "unixgram"):
            _must_not_exist(url, scheme)
        found.append((protocol, url))
    return tuple(found)


def _check_tap(text: str, before: Sequence[tuple[str, str]]) -> None:
    if text.startswith(f"{_FD}://"):
        check(text, f"link: {TAP}", (_FD,))
        if (TAP, text) in before:
            raise ConfigError(f"link: {TAP}: {flags.quote(text)} is a link already (allowed: once)")
        return
    try:
        place = tap_url.parse(text)
    except ValueError as error:
        raise ConfigError(f"link: {TAP}: {error} (allowed: {TAP}+{TAP_FORM})") from None
    for protocol, other in before:
        if protocol == TAP and not other.startswith(f"{_FD}://") and tap_url.parse(other)[:2] == place[:2]:
            raise ConfigError(f"link: {TAP}: {flags.quote(text)} is a link already (allowed: once)")


def _check_vxlan(url: str, before: Sequence[tuple[str, str]]) -> None:
    try:
        vxlan_url.parse(url)
    except ValueError as error:
        raise ConfigError(f"link: {VXLAN}: {error} (allowed: {vxlan_url.FORM})") from None
    if any(protocol == VXLAN for protocol, _ in before):
        raise ConfigError(f"link: {VXLAN}: there is a link to other hosts already (allowed: one)")


def tunnel_mtu(links: Sequence[tuple[str, str]]) -> int:
    """The longest packet that fits the path to all other hosts now; 0 without a link to other hosts."""
    for protocol, url in links:
        if protocol == VXLAN:
            place = vxlan_url.parse(url)
            if not place.remotes:
                return vxlan_url.inner_mtu(place, path_mtu.of_interface(place.local.address))
            return vxlan_url.inner_mtu(place, path_mtu.shortest(remote.address for remote in place.remotes))
    return 0


def metrics_url(text: str) -> str:
    """The URL of the endpoint for monitors, from ``host:port`` or a URL; "" for none. Raises ConfigError."""
    if not text:
        return ""
    url = text if "://" in text else f"tcp://{text}"
    try:
        check(url, "metrics", METRICS_SCHEMES)
    except ConfigError as error:
        raise ConfigError(f"{error}; {_METRICS_HINT}") from None
    parts = urlsplit(url)
    if parts.scheme in inet.TCP and not parts.hostname:
        raise ConfigError(
            f"metrics: address {parts.netloc}: missing host, such as 127.0.0.1; {_METRICS_HINT}"
        )
    return url


def web_url(text: str) -> str:
    """The URL of the web page, from ``host:port`` or this URL; "" for none. Raises ConfigError.

    Only loopback will do: the page is not encrypted, and it can open ports of the host.
    """
    if not text:
        return ""
    address = text.removeprefix(_TCP)
    try:
        parts = urlsplit(f"//{address}")
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        port, host = None, ""
    if port is None or not inet.is_loopback(host) or parts.netloc != address or "@" in address:
        raise ConfigError(f"web: {flags.quote(text)} is not an address of this host alone; {_WEB_HINT}")
    return f"{_TCP}{address}"


def check(url: str, what: str, schemes: tuple[str, ...]) -> None:
    """Raise ConfigError for a URL that is not of these schemes, or wrong. what: how the text begins."""
    try:
        parts = urlsplit(url)
        port = parts.port if parts.scheme in inet.TCP else None
    except ValueError as error:
        words = str(error)
        scheme, _, place = url.partition("://")
        address, _, tail = place.rpartition(":")
        if scheme in inet.TCP and ":" in address and not address.startswith("["):
            words = f"an IPv6 address stands in brackets: {scheme}://[{address}]:{tail}"
        raise ConfigError(f"{what}: {url}: {words}") from None
    if parts.scheme not in schemes:
        allowed = ", ".join(f"{scheme}://" for scheme in schemes)
        raise ConfigError(f"{what}: unexpected scheme: {flags.quote(url)} (allowed: {allowed})")
    if parts.scheme.startswith("unix") and not parts.path:
        raise ConfigError(f"{what}: {url}: missing path of the socket")
    if parts.scheme.startswith("unix") and (fault := socket_file.fault(unix_path(url), relative=True)):
        raise ConfigError(f"{what}: {url}: {fault}")
    if parts.scheme in inet.TCP and port is None:
        raise ConfigError(f"{what}: address {parts.netloc}: missing port in address")
    if parts.scheme == "vsock" and not _VSOCK.fullmatch(parts.netloc) and not parts.path.strip("/"):
        raise ConfigError(f"{what}: {url}: vsock addresses have the form vsock://:port or vsock://cid:port")
    if parts.scheme == "fd" and not parts.netloc:
        raise ConfigError(f"{what}: {url}: descriptors have the form fd://3 or fd://name")


def _check_option(protocol: str, url: str, what: str) -> None:
    """Raise ConfigError if what follows the ? of a link's URL is wrong. what: how the text begins."""
    try:
        taken = vnet.guest_features(url)
    except ValueError as error:
        raise ConfigError(f"{what}: {url}: {error}") from None
    if taken is not None and protocol not in VNET_LINKS:
        allowed = ", ".join(VNET_LINKS)
        raise ConfigError(
            f"{what}: {url}: option {vnet.OPTION}: frames of {protocol} cannot have a virtio-net header "
            f"(allowed: {allowed})"
        )


def _must_not_exist(url: str, scheme: str) -> None:
    # The file that a killed program left is replaced when the socket is bound.
    if not url.startswith(f"{scheme}://") or not os.path.lexists(path := unix_path(url)):
        return
    if not socket_file.is_abandoned(path):
        raise ConfigError(f"{flags.quote(path)} already exists")
