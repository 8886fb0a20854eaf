"""The proxy of a rule: where it is, and what it speaks. As text: ``socks5://user:password@192.0.2.1:1080``.

Sans-IO. A user or password may have any byte, as ``%XX``. Only url() has them.
"""

import re
from typing import Final, NamedTuple

from pipeline.engines.told import is_host
from pipeline.wire import ip

SOCKS5: Final = "socks5"
HTTP: Final = "http"
HIDDEN: Final = "***"
"""What stands in place of a password where a policy is shown."""
FORM: Final = "socks5://[user:password@]host:port or http://[user:password@]host:port"
MAX_CREDENTIAL: Final = 255
"""Bytes of a user or of a password (RFC 1929)."""

_SCHEMES: Final = {"socks5": SOCKS5, "socks5h": SOCKS5, "http": HTTP}
_URL: Final = re.compile(
    r"([A-Za-z0-9]+)://(?:([^@/?#]*)@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})/?"
)
_TEXT: Final = re.compile(r"(?:[!$&'()*+,;=A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})*")
_CREDENTIALS: Final = re.compile(r"(//[^@/?#:]*:)[^@/?#]*@")


class Via(NamedTuple):
    """One proxy. ``address``: a number of pipeline.wire.ip. ``user``: None without credentials."""

    protocol: str
    address: int
    port: int
    user: bytes | None = None
    password: bytes = b""

    def __repr__(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        """The proxy without credentials, for logs."""
        return f"{self.protocol}://{ip.host_port(self.address, self.port)}"

    def is_same(self, other: "Via | None") -> bool:
        """Whether the other one is at the same place. Its credentials may differ."""
        return other is not None and self[:3] == other[:3]


def parse(text: str) -> Via:
    """The proxy of a URL with an address. Raises ValueError.

    The text of the error has no part of the URL, which may hold a password.
    """
    found = _URL.fullmatch(text)
    protocol = _SCHEMES.get(found[1].lower()) if found else None
    if found is None or protocol is None:
        raise ValueError(f"must be {FORM}")
    port = int(found[4])
    if not 0 < port <= 0xFFFF:
        raise ValueError(f"must have a port from 1 to 65535: {FORM}")
    try:
        address = ip.parse(found[3].strip("[]"))
    except ValueError:
        raise ValueError(f"must have the name of a host, or an IP address: {FORM}") from None
    if found[2] is None:
        return Via(protocol, address, port)
    user, _, password = found[2].partition(":")
    return Via(protocol, address, port, _decoded(user, "user"), _decoded(password, "password"))


def check(text: str) -> None:
    """Raise ValueError unless the URL is one of a proxy. Its host may have a name."""
    parse(with_address(text, "192.0.2.1") if name_of(text) else text)


def name_of(text: str) -> str:
    """The name of the host in a URL, in lower case; "" if it has an address, or is wrong."""
    found = _URL.fullmatch(text)
    name = found[3].lower().removesuffix(".") if found else ""
    return name if is_host(name) else ""


def with_address(text: str, address: str) -> str:
    """The URL with an address in place of the host's name."""
    found = _URL.fullmatch(text)
    assert found is not None
    host = f"[{address}]" if ":" in address else address
    begin, end = found.span(3)
    return text[:begin] + host + text[end:]


def _decoded(text: str, what: str) -> bytes:
    if not _TEXT.fullmatch(text):
        raise ValueError(f"has a {what} with a character that must be written as %XX")
    found = bytearray()
    for part in re.findall(r"%[0-9A-Fa-f]{2}|[^%]", text):
        found.append(int(part[1:], 16) if part[0] == "%" else ord(part))
    if len(found) > MAX_CREDENTIAL:
        raise ValueError(f"has a {what} longer than {MAX_CREDENTIAL} bytes")
    return bytes(found)


def hidden(url: str) -> str:
    """The URL with HIDDEN in place of the password."""
    return _CREDENTIALS.sub(rf"\g<1>{HIDDEN}@", url)


def is_hidden(url: str) -> bool:
    """Whether hidden() has made this URL of one with a password."""
    return f":{HIDDEN}@" in url
