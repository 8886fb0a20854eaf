"""Answers names that the host knows without a server: those of its hosts file, and localhost (RFC 6761)."""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.engines.dns import message as m
from pipeline.engines.dns.zones import AAAA, ANY, PTR, A, Local

_LOCALHOST: Final = (b"\x7f\0\0\1", bytes(15) + b"\1")


class Hosts:
    """Addresses by name, and names by address."""

    def __init__(self) -> None:
        self._addresses: dict[bytes, tuple[bytes, ...]] = {}
        """By the name in wire form, in lower case."""
        self._pointers: dict[bytes, str] = {}

    def replace(self, names: Mapping[str, Sequence[bytes]]) -> None:
        """The file has these names now: name -> addresses (4 or 16 bytes).

        A loopback address of a name with one label is left out. It means the host, but in a guest it would
        mean the guest.
        """
        self._addresses.clear()
        self._pointers.clear()
        for name, addresses in names.items():
            text = name.lower().rstrip(".")
            wire = m.text_wire(text)
            useful = tuple(a for a in addresses if "." in text or not _is_loopback(a))
            if not wire or not useful:
                continue
            self._addresses[wire] = useful
            for address in useful:
                if any(address) and not _is_loopback(address):
                    self._pointers.setdefault(address, text)

    def answer(self, query: m.Query) -> Local | None:
        """The answer to a query of class IN; None if the name is not known."""
        labels, rdtype = query.labels, query.rdtype
        if labels and labels[-1].lower() == b"localhost":
            return _of_type(_LOCALHOST, rdtype)
        name = query.question[: -m.TAIL.size].lower()
        known = self._addresses.get(name)
        if known is not None and rdtype in (A, AAAA, ANY):
            return _of_type(known, rdtype)
        if rdtype == PTR and self._pointers and name.endswith(b"\x04arpa\0"):
            address = _reverse(labels)
            pointer = self._pointers.get(address.packed) if address is not None else None
            return Local(m.NOERROR, pointer=pointer) if pointer else None
        return None


def _reverse(labels: Sequence[bytes]) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address of a name below in-addr.arpa or ip6.arpa; None if it has none."""
    import dns.exception  # noqa: PLC0415  see message.py
    import dns.name  # noqa: PLC0415  see message.py
    import dns.reversename  # noqa: PLC0415  see message.py

    try:
        return ipaddress.ip_address(dns.reversename.to_address(dns.name.Name((*labels, b""))))
    except (dns.exception.DNSException, ValueError):
        return None


def _of_type(addresses: Sequence[bytes], rdtype: int) -> Local:
    """The addresses of the wanted type. An empty list is an answer too, because the name exists."""
    wanted = {A: (4,), AAAA: (16,), ANY: (4, 16)}.get(rdtype, ())
    return Local(m.NOERROR, tuple(address for address in addresses if len(address) in wanted))


def _is_loopback(address: bytes) -> bool:
    return address[0] == 127 if len(address) == 4 else address == _LOCALHOST[1]
