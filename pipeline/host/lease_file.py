"""Reads and writes the file that keeps DHCP leases while the program does not run.

The file is JSON: ``{"version": 1, "leases": [{"ip", "mac", "expires"}]}``. ``expires`` is in seconds since
1970. save() replaces the whole file, so a crash cannot leave half of it. load() refuses a file that it does
not understand, and does not change it.
"""

import json
import re
from collections.abc import Iterable
from math import isfinite
from typing import Any, Final

from pipeline.system import output_file, small_file
from pipeline.wire import ip

VERSION: Final = 1
MODE: Final = 0o600
ALLOWED: Final = (
    'allowed: {"version": 1, "leases": [{"ip": "192.168.127.3", "mac": "5a:94:ef:e4:0c:ee", "expires": 1}]}'
)

_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")

Row = tuple[int, bytes, float]
"""Address, MAC, seconds left."""


class LeaseFileError(Exception):
    """The file exists and cannot be read. The text says why."""


def load(path: str, wall_now: float) -> list[Row]:
    """The rows of the file; an empty list if there is no file yet. Raises LeaseFileError."""
    try:
        document = json.loads(small_file.read(path).decode("utf-8"))
    except FileNotFoundError:
        return []
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
        return [_row(lease, wall_now) for lease in document["leases"]]
    except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise LeaseFileError(f"state file {path} is not a list of leases: {error!r} ({ALLOWED})") from error


def _row(lease: Any, wall_now: float) -> Row:
    address, mac, expires = lease["ip"], lease["mac"], lease["expires"]
    if not isinstance(address, str) or not isinstance(mac, str) or not _MAC.fullmatch(mac):
        raise ValueError(f"bad address {address!r} or MAC address {mac!r}")
    if isinstance(expires, bool) or not isinstance(expires, int | float) or not isfinite(expires):
        raise ValueError(f"bad time {expires!r}")
    return ip.parse_ipv4(address), bytes.fromhex(mac.replace(":", "")), float(expires) - wall_now


def save(path: str, rows: Iterable[Row], wall_now: float) -> None:
    """Replace the file. Raises OSError if that fails. The old file then stays."""
    leases = [
        {
            "ip": ip.text(address),
            "mac": mac.hex(":"),
            "expires": round(wall_now + seconds),
        }
        for address, mac, seconds in sorted(rows)
    ]
    text = json.dumps({"version": VERSION, "leases": leases}, indent=1) + "\n"
    output_file.replace(path, text.encode(), MODE)
