"""The file that keeps DHCP leases while the program does not run.

JSON, so that people can read it: ``{"version": 1, "leases": [{"ip", "mac", "expires"}]}``, expires in
seconds since 1970. It is replaced as a whole, so no crash leaves half of one. A file that
cannot be understood is an error and not touched.
"""

import json
import os
import re
import socket
from collections.abc import Iterable
from typing import Any, Final

VERSION: Final = 1

_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")

Row = tuple[int, bytes, float]
"""Address, MAC, seconds left."""


class LeaseFileError(Exception):
    """The file is there and cannot be read; the text says why."""


def load(path: str, wall_now: float) -> list[Row]:
    """The rows of the file, none when there is no file yet. Raises LeaseFileError."""
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise LeaseFileError(f"state file {path} cannot be read: {error}") from error
    try:
        if document["version"] != VERSION:
            raise LeaseFileError(f"state file {path} is of version {document['version']}, not {VERSION}")
        return [_row(lease, wall_now) for lease in document["leases"]]
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise LeaseFileError(f"state file {path} is no list of leases: {error!r}") from error


def _row(lease: Any, wall_now: float) -> Row:
    address = int.from_bytes(socket.inet_pton(socket.AF_INET, lease["ip"]), "big")
    if not _MAC.fullmatch(lease["mac"]):
        raise ValueError(f"bad MAC address {lease['mac']!r}")
    return address, bytes.fromhex(lease["mac"].replace(":", "")), float(lease["expires"]) - wall_now


def save(path: str, rows: Iterable[Row], wall_now: float) -> None:
    """Replace the file. OSError when that cannot be done; the old one stays then."""
    leases = [
        {
            "ip": socket.inet_ntoa(address.to_bytes(4, "big")),
            "mac": mac.hex(":"),
            "expires": round(wall_now + seconds),
        }
        for address, mac, seconds in sorted(rows)
    ]
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump({"version": VERSION, "leases": leases}, file, indent=1)
        file.write("\n")
    os.replace(temporary, path)
