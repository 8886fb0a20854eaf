"""Local DNS zones, which the gateway answers itself: names, patterns and default addresses.

A name belongs to the first zone in the list that it lies below, which may not be the closest one. If it lies
below no zone, it belongs to the zone that has exactly its name. Zones made for gvproxy expect this.

Inside the zone, the prefix of the name (the labels before the zone's) is compared with the records in order.
The first record with an equal name, or with a pattern that matches, decides. If there is none, the answer is
the zone's default address. A question about a name of a zone never goes upstream, whatever its type is.

Names are compared without regard to case. Zones have no wildcards except patterns. They have A and AAAA
records, and PTR for the addresses of these. They have no other types. Wire formats are in message.py.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from pipeline.engines.dns.patterns import Regexp, RegexpError

MAX_ZONES: Final = 256
MAX_RECORDS: Final = 1024
"""The most records of one zone."""
MAX_NAME: Final = 253

A: Final = 1
PTR: Final = 12
AAAA: Final = 28
ANY: Final = 255

NOERROR: Final = 0
NXDOMAIN: Final = 3

_BYTES_OF: Final = {A: 4, AAAA: 16, ANY: 4}


class ZoneError(ValueError):
    """A zone that cannot be added. The text is for the user."""


class Record(NamedTuple):
    """A name or pattern, and its address. ``key``: the name to compare. ``address``: 4, 16 or 0 bytes."""

    name: str
    key: str
    address: bytes
    regexp: Regexp | None = None

    def matches(self, prefix: str) -> bool:
        """Whether this record decides for a name with this prefix before the zone's name."""
        if self.regexp is None:
            return self.key == prefix
        return (self.key == prefix and prefix != "") or self.regexp.search(prefix)


class Zone(NamedTuple):
    """``key``: the name in lower case without the final dot, "" for the zone of all names."""

    name: str
    key: str
    records: tuple[Record, ...]
    default: bytes = b""


class Local(NamedTuple):
    """The gateway's own answer: response code and addresses (4 or 16 bytes) or, for PTR, a name.

    ttl: of its records, in seconds.
    """

    rcode: int
    addresses: tuple[bytes, ...] = ()
    pointer: str = ""
    ttl: int = 0


def _label_text(label: bytes) -> str:
    """A label as zones and patterns compare it: in lower case, with dots inside it escaped."""
    return label.lower().replace(b".", b"\\.").decode("latin-1")


def parse_zone(zone: Mapping[str, object]) -> Zone:
    """A zone from the API or the configuration: Name, DefaultIP, and Records of Name, IP and Regexp.

    The case of keys does not matter. A missing or null value is empty. Raises ZoneError.
    """
    keys = _keys(zone)
    name = _text(keys, "name")
    key = name.lower().rstrip(".")
    if len(key) > MAX_NAME:
        raise ZoneError(f"zone name is longer than {MAX_NAME} characters")
    rows = keys.get("records") or ()
    if not isinstance(rows, list | tuple):
        raise ZoneError("Records must be a list")
    if len(rows) > MAX_RECORDS:
        raise ZoneError(f"a zone has at most {MAX_RECORDS} records")
    return Zone(name, key, tuple(_record(row) for row in rows), _address(_text(keys, "defaultip")))


def _record(row: object) -> Record:
    if not isinstance(row, Mapping):
        raise ZoneError("a record must be a map of Name, IP and Regexp")
    keys = _keys(row)
    name = _text(keys, "name")
    if len(name) > MAX_NAME:
        raise ZoneError(f"record name is longer than {MAX_NAME} characters")
    pattern = _text(keys, "regexp")
    try:
        regexp = Regexp(pattern) if pattern else None
    except RegexpError as error:
        raise ZoneError(f"error parsing regexp: {error}") from None
    return Record(name, name.lower().rstrip("."), _address(_text(keys, "ip")), regexp)


def _keys(given: Mapping[str, object]) -> dict[str, object]:
    return {str(key).lower().replace("_", ""): value for key, value in given.items()}


def _text(keys: Mapping[str, object], key: str) -> str:
    value = keys.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ZoneError(f"{key} must be a text")
    return value


def _address(text: str) -> bytes:
    if not text:
        return b""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ZoneError(f"invalid IP address: {text}") from None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).packed


class Zones:
    """The list of zones, in the order in which they are tried.

    ``subnet``: (network, mask) of the addresses whose reverse names are the gateway's own.
    """

    def __init__(
        self, zones: Iterable[Zone] = (), subnet: tuple[int, int] = (0xFFFFFFFF, 0xFFFFFFFF)
    ) -> None:
        self._subnet = subnet
        self._zones: list[Zone] = []
        self._index: dict[str, int] = {}
        self._pointers: dict[bytes, str] = {}
        self._guest_zone = -1
        """The index of the zone that has guests' names; -1 for none."""
        self._guest_names: Mapping[str, bytes] = {}
        self._guest_pointers: Mapping[bytes, str] = {}
        for zone in zones:
            self.add(zone)

    def add(self, zone: Zone) -> None:
        """Add a zone after the others, or extend the one with the same name.

        In an existing zone the new records come before the old ones. The new default address replaces the old
        one even if it is empty. Raises ZoneError when there are too many zones or records.
        """
        at = self._index.get(zone.key)
        if at is None:
            if len(self._zones) >= MAX_ZONES:
                raise ZoneError(f"there are {MAX_ZONES} zones already")
            self._index[zone.key] = len(self._zones)
            self._zones.append(zone)
        else:
            old = self._zones[at]
            records = zone.records + old.records
            if len(records) > MAX_RECORDS:
                # A repeated record never decides. Some clients add the same records at each of their starts.
                records = tuple({_identity(record): record for record in reversed(records)}.values())[::-1]
            if len(records) > MAX_RECORDS:
                raise ZoneError(f"a zone has at most {MAX_RECORDS} records")
            self._zones[at] = old._replace(records=records, default=zone.default)
        self._pointers.clear()
        for each in self._zones:
            for record in each.records:
                if record.key and record.regexp is None and record.address:
                    full = f"{record.key}.{each.key}" if each.key else record.key
                    self._pointers.setdefault(record.address, full)

    def __iter__(self) -> Iterator[Zone]:
        return iter(self._zones)

    def ensure(self, key: str) -> None:
        """Add an empty zone of this name, unless there is one. Raises ZoneError."""
        if key not in self._index:
            self.add(Zone(f"{key}.", key, ()))

    def add_guests(self, key: str, names: Mapping[str, bytes], pointers: Mapping[bytes, str]) -> None:
        """Let a zone also have guests' names, which count where no record does. ensure() has made the zone.

        names: label -> IPv4 address. pointers: IPv4 address -> name. Both are read at each question.
        """
        self._guest_zone = self._index[key]
        self._guest_names = names
        self._guest_pointers = pointers

    def has_record(self, key: str, prefix: str) -> bool:
        """Whether a record of a zone decides for the name with this prefix."""
        at = self._index.get(key)
        return at is not None and any(record.matches(prefix) for record in self._zones[at].records)

    def resolve(self, labels: Sequence[bytes], rdtype: int) -> Local | None:
        """The answer for a name (labels without the root) and type; None when no zone has the name."""
        parts = [_label_text(label) for label in labels]
        if parts[-2:] == ["in-addr", "arpa"] and (local := self._reverse(parts, rdtype)) is not None:
            return local
        best = len(self._zones)
        prefix = ""
        for count in range(1, len(parts) + 1):
            at = self._index.get(".".join(parts[count:]))
            if at is not None and at < best:
                best = at
                prefix = ".".join(parts[:count])
        if best == len(self._zones):
            apex = self._index.get(".".join(parts))
            if apex is None:
                return None
            best = apex
        guest = self._guest_names.get(prefix, b"") if best == self._guest_zone else b""
        return _decide(self._zones[best], prefix, rdtype, guest)

    def _reverse(self, parts: list[str], rdtype: int) -> Local | None:
        octets = parts[-3::-1]
        if len(octets) != 4 or not all(_is_octet(octet) for octet in octets):
            return None
        address = bytes(map(int, octets))
        network, mask = self._subnet
        if int.from_bytes(address, "big") & mask != network & mask:
            return None
        pointer = self._pointers.get(address, "") or self._guest_pointers.get(address, "")
        if not pointer:
            return Local(NXDOMAIN)
        return Local(NOERROR, pointer=pointer if rdtype in (PTR, ANY) else "")

    def as_list(self) -> list[dict[str, object]]:
        """All zones as the API shows them."""
        return [
            {
                "Name": zone.name,
                "Records": [
                    {"Name": record.name, "IP": _address_text(record.address)}
                    | ({"Regexp": record.regexp.pattern} if record.regexp else {})
                    for record in (*zone.records, *self._guest_records(at))
                ],
                "DefaultIP": _address_text(zone.default),
            }
            for at, zone in enumerate(self._zones)
        ]

    def _guest_records(self, at: int) -> list[Record]:
        names = self._guest_names if at == self._guest_zone else {}
        return [Record(label, label, address) for label, address in names.items()]


def _decide(zone: Zone, prefix: str, rdtype: int, guest: bytes) -> Local:
    """The answer for a name with this prefix before the zone's name ("": the zone itself).

    guest: the address of the guest with that name, or empty.
    """
    wanted = _BYTES_OF.get(rdtype, -1)
    found = False
    for record in zone.records:
        if not record.matches(prefix):
            continue
        found = True
        if len(record.address) == wanted:
            return Local(NOERROR, (record.address,))
        if not record.address:
            break
    if found:
        return Local(NOERROR)
    if guest:
        return Local(NOERROR, (guest,) if len(guest) == wanted else ())
    if zone.default:
        return Local(NOERROR, (zone.default,) if len(zone.default) == wanted else ())
    # The zone's own name exists. So does a name without a record if there is a record below it (RFC 8020).
    below = "." + prefix
    exists = prefix == "" or any(not record.regexp and record.key.endswith(below) for record in zone.records)
    return Local(NOERROR if exists else NXDOMAIN)


def _is_octet(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= 255


def _identity(record: Record) -> tuple[str, bytes, str]:
    return record.key, record.address, record.regexp.pattern if record.regexp else ""


def _address_text(address: bytes) -> str:
    return str(ipaddress.ip_address(address)) if address else ""
