"""The words that mean port forwards, such as ``8080:80``, of ``start -forward``, ``expose`` and ``unexpose``.

A word is ``[HOST:]PORTS:[GUEST:]PORTS[/PROTOCOL]``. PORTS is a port, or a range such as ``8000-8010`` with
as many ports on both sides. HOST is an address or a name of the host: without it 127.0.0.1, and every address
if it is empty (``:8080:80``). GUEST is an address, an IPv6 one in brackets: without it the first guest's.
PROTOCOL is tcp, or one of PROTOCOLS. Port 0 of the host means that the system chooses a port.
"""

import ipaddress
import re
from typing import Final, NamedTuple

from pipeline.config.address_words import is_bracketed_ipv6, is_ipv4
from pipeline.config.choices import FORWARD_FORM
from pipeline.config.model import PortForward
from pipeline.go import flags
from pipeline.system import inet

LOOPBACK: Final = "127.0.0.1"
MAX_RANGE: Final = 1024
"""Ports of one word."""
PROTOCOLS: Final = (*inet.TCP, *inet.UDP)

_HOST: Final = r"(?:(?P<host>\[[^\[\]/]*\]|[^\[\]/:]*):)?"
_PORTS: Final = r"[0-9]{1,5}(?:-[0-9]{1,5})?"
_LOCAL: Final = re.compile(rf"{_HOST}(?P<ports>{_PORTS})", re.ASCII)
_FORWARD: Final = re.compile(
    rf"{_HOST}(?P<ports>{_PORTS}):(?:(?P<guest>[0-9.]*\.[0-9.]*|\[[^\[\]/]*\]):)?(?P<guest_ports>{_PORTS})",
    re.ASCII,
)
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?", re.ASCII)


class WordError(ValueError):
    """A word that means no forward. The text has the word, and what is allowed."""


class Local(NamedTuple):
    """The host's side of a forward: protocol, and address with port, as the API takes it."""

    protocol: str
    address: str


def forwards(word: str, guest: str) -> list[PortForward]:
    """The forwards that a word means, one for each port. Raises WordError.

    guest: the address of the guest if the word names none. It may be empty.
    """
    text, protocol = _protocol(word)
    found = _FORWARD.fullmatch(text)
    if found is None:
        raise WordError(f"{flags.quote(word)} is not a forward (allowed: {FORWARD_FORM}, such as 8080:80)")
    remote = found["guest"] or guest
    if found["guest"] and not (is_ipv4(remote) or is_bracketed_ipv6(remote)):
        raise WordError(
            f"{flags.quote(word)}: {remote} is not an address of a guest (allowed: an IPv4 address, or an "
            "IPv6 address in brackets)"
        )
    ports, guest_ports = _range(word, found["ports"]), _range(word, found["guest_ports"])
    if len(ports) != len(guest_ports):
        sizes = f"{len(ports)} ports of the host and {len(guest_ports)} of the guest"
        raise WordError(f"{flags.quote(word)} has {sizes} (allowed: as many of each)")
    if guest_ports[0] == 0:
        raise WordError(f"{flags.quote(word)}: port 0 of a guest (allowed: 1 to 65535)")
    host = _host(word, found["host"])
    return [
        PortForward(protocol, f"{host}:{port}", f"{remote}:{guest_port}")
        for port, guest_port in zip(ports, guest_ports, strict=True)
    ]


def locals_of(word: str) -> list[Local]:
    """The host's sides that a word means. The guest's part may be missing: ``8080/udp``. Raises WordError.

    The path of a unix socket, or its URL, stands for itself.
    """
    if word.startswith(("/", "unix://")):
        return [Local("unix", word)]
    text, protocol = _protocol(word)
    found = _FORWARD.fullmatch(text) or _LOCAL.fullmatch(text)
    if found is None:
        short = "[HOST:]PORT[-PORT][/udp]"
        raise WordError(f"{flags.quote(word)} is not a forward (allowed: {FORWARD_FORM}, {short}, /path)")
    host = _host(word, found["host"])
    return [Local(protocol, f"{host}:{port}") for port in _range(word, found["ports"])]


def _protocol(word: str) -> tuple[str, str]:
    text, slash, protocol = word.rpartition("/")
    if not slash:
        return word, PROTOCOLS[0]
    if protocol not in PROTOCOLS:
        allowed = ", ".join(PROTOCOLS)
        raise WordError(f"{flags.quote(word)}: unknown protocol {flags.quote(protocol)} (allowed: {allowed})")
    return text, protocol


def _range(word: str, text: str) -> range:
    low_text, dash, high_text = text.partition("-")
    low, high = int(low_text), int(high_text or low_text)
    if high > 65535:
        raise WordError(f"{flags.quote(word)}: {high} is not a port (allowed: 0 to 65535)")
    if dash and not 1 <= low <= high:
        raise WordError(f"{flags.quote(word)}: {text} is not a range (allowed: LOW-HIGH from 1 to 65535)")
    if high - low >= MAX_RANGE:
        raise WordError(f"{flags.quote(word)}: {text} has {high - low + 1} ports (allowed: {MAX_RANGE})")
    return range(low, high + 1)


def _host(word: str, host: str | None) -> str:
    """The host as it stands in a local address. None: the word names none."""
    if host is None:
        return LOOPBACK
    if not host:
        return ""
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise WordError(f"{flags.quote(word)}: {host} is not an IPv6 address in brackets") from None
        return host
    # A name of digits alone is most often a port too many, and IPv4 in its old form: 8080 is 0.0.31.144.
    is_number = not host.strip("0123456789.")
    if not _HOST_NAME.fullmatch(host) or (is_number and not is_ipv4(host)):
        raise WordError(
            f"{flags.quote(word)}: {host} is not an address or name of the host (allowed: an IPv4 "
            "address, an IPv6 address in brackets, a name, or nothing for every address)"
        )
    return host
