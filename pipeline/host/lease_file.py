"""The file that keeps the leases of DHCP and DHCPv6 while the program does not run.

The file is JSON: ``{"version": 1, "leases": [{"ip", "mac", "expires"}]}``. ``expires`` is in seconds since
1970. Leases of DHCPv6 are in a list ``leases6``, which also has "iaid" and "duid". It may be missing. The
supervisor replaces the whole file, so a crash cannot leave half of it. load() refuses a file that it does not
understand, and does not change it.
"""

import json
import re
from collections.abc import Iterable
from math import isfinite
from typing import Any, Final, NamedTuple

from pipeline.system import small_file
from pipeline.wire import ip

VERSION: Final = 1
ALLOWED: Final = (
    'allowed: {"version": 1, "leases": [{"ip": "192.168.127.3", "mac": "5a:94:ef:e4:0c:ee", "expires": 1}]}'
)

_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_DUID: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){2,129}")
_MAC_LEN: Final = 6
_IAID_LEN: Final = 4

Row = tuple[int, bytes, float]
"""Address, MAC, seconds left."""


class Rows(NamedTuple):
    """The leases of a file. In those of IPv6, the IAID (4 bytes) and the DUID follow the MAC."""

    ipv4: list[Row]
    ipv6: list[Row]


class LeaseFileError(Exception):
    """The file exists and cannot be read. The text says why."""


def load(path: str, wall_now: float) -> Rows:
    """The rows of the file; none if there is no file yet. Raises LeaseFileError."""
    try:
        document = json.loads(small_file.read(path).decode("utf-8"))
    except FileNotFoundError:
        return Rows([], [])
    except RecursionError:
        raise LeaseFileError(
            f"state file {path} cannot be read: it is nested too deeply ({ALLOWED})"
        ) from None
    except OSError as error:
        raise LeaseFileError(f"state file {path} cannot be read: {error.strerror}") from error
    except small_file.FileError as error:
        raise LeaseFileError(f"state file {path} cannot be read: {error}") from error
    except ValueError as error:
        raise LeaseFileError(f"state file {path} cannot be read: {error} ({ALLOWED})") from error
    try:
        if document["version"] != VERSION:
            raise LeaseFileError(f"state file {path} is of version {document['version']}, not {VERSION}")
        return Rows(
            [_row(lease, wall_now) for lease in document["leases"]],
            [_row6(lease, wall_now) for lease in document.get("leases6", [])],
        )
    except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise LeaseFileError(f"state file {path} is not a list of leases: {error!r} ({ALLOWED})") from error


def _row(lease: Any, wall_now: float) -> Row:
    address, mac, seconds = _common(lease, wall_now)
    return ip.parse_ipv4(address), mac, seconds


def _common(lease: Any, wall_now: float) -> tuple[str, bytes, float]:
    """Address, MAC and seconds left, which both kinds of lease have."""
    address, mac, expires = lease["ip"], lease["mac"], lease["expires"]
    if not isinstance(address, str) or not isinstance(mac, str) or not _MAC.fullmatch(mac):
        raise ValueError(f"bad address {address!r} or MAC address {mac!r}")
    if isinstance(expires, bool) or not isinstance(expires, int | float) or not isfinite(expires):
        raise ValueError(f"bad time {expires!r}")
    return address, bytes.fromhex(mac.replace(":", "")), float(expires) - wall_now


def _row6(lease: Any, wall_now: float) -> Row:
    address, mac, seconds = _common(lease, wall_now)
    iaid, duid = lease["iaid"], lease["duid"]
    if isinstance(iaid, bool) or not isinstance(iaid, int):
        raise ValueError(f"bad IAID {iaid!r}")
    if not isinstance(duid, str) or not _DUID.fullmatch(duid):
        raise ValueError(f"bad DUID {duid!r}")
    client = mac + iaid.to_bytes(_IAID_LEN, "big") + bytes.fromhex(duid.replace(":", ""))
    return ip.parse(address), client, seconds


def content(rows: Iterable[Row], wall_now: float, rows6: Iterable[Row] = ()) -> bytes:
    """What the file says about these leases."""
    leases = [_entry(row, wall_now) for row in sorted(rows)]
    document: dict[str, object] = {"version": VERSION, "leases": leases}
    if leases6 := [_entry6(row, wall_now) for row in sorted(rows6)]:
        document["leases6"] = leases6
    return (json.dumps(document, indent=1) + "\n").encode()


def _entry(row: Row, wall_now: float) -> dict[str, object]:
    address, client, seconds = row
    return {
        "ip": ip.text(address),
        "mac": client[:_MAC_LEN].hex(":"),
        "expires": round(wall_now + seconds),
    }


def _entry6(row: Row, wall_now: float) -> dict[str, object]:
    after_mac = row[1][_MAC_LEN:]
    iaid, duid = after_mac[:_IAID_LEN], after_mac[_IAID_LEN:]
    return _entry(row, wall_now) | {"iaid": int.from_bytes(iaid, "big"), "duid": duid.hex(":")}
