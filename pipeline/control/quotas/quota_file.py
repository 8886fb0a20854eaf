"""The file that keeps what guests have used while the program does not run (``quota-file``).

It is JSON: ``{"version": 1, "used": [{"per", "guest", "period", "started", "sums"}]}``. ``sums`` has bytes
from and to the guest, connections and DNS questions. The whole file is replaced each time.
"""

import json
from collections.abc import Iterable
from typing import Any, Final

from pipeline.config.choices import PERIODS
from pipeline.control.lease_writer import LeaseWriter
from pipeline.control.quotas.ledger import Saved
from pipeline.engines.quota_limits import NUMBERS
from pipeline.system import small_file

VERSION: Final = 1
MAX_SUM: Final = 2**62
_FORM: Final = (
    'allowed: {"version": 1, "used": [{"per": "day", "guest": "192.168.127.3", "period": "2026-01-31", '
    '"started": 0, "sums": [0, 0, 0, 0]}]}'
)


class QuotaFileError(OSError):
    """The file exists and cannot be read. The text says why."""


def load(path: str) -> list[Saved]:
    """What the file has; nothing if there is no file yet. Raises QuotaFileError."""
    try:
        document = json.loads(small_file.read(path).decode("utf-8"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise QuotaFileError(f"quota file {path} cannot be read: {error.strerror}") from error
    except (small_file.FileError, ValueError, RecursionError) as error:
        raise QuotaFileError(f"quota file {path} cannot be read: {error} ({_FORM})") from error
    try:
        if document["version"] != VERSION:
            raise QuotaFileError(f"quota file {path} is of version {document['version']}, not {VERSION}")
        return [_saved(row) for row in document["used"]]
    except (KeyError, TypeError, ValueError) as error:
        raise QuotaFileError(f"quota file {path} is not a list of quotas: {error!r} ({_FORM})") from error


def _saved(row: Any) -> Saved:
    per, guest, period, started, sums = (row[key] for key in ("per", "guest", "period", "started", "sums"))
    texts = isinstance(guest, str) and isinstance(period, str) and per in PERIODS
    if not texts or not isinstance(sums, list) or len(sums) != NUMBERS:
        raise ValueError(f"bad entry {str(row)[:200]}")
    if not all(type(each) is int and 0 <= each <= MAX_SUM for each in (started, *sums)):
        raise ValueError(f"bad number in {str(row)[:200]}")
    return Saved(per, guest, period, started, sums)


def content(rows: Iterable[Saved]) -> bytes:
    """What the file says."""
    used = [
        {
            "per": row.per,
            "guest": row.subject,
            "period": row.period,
            "started": row.mark,
            "sums": row.sums,
        }
        for row in sorted(rows)
    ]
    return (json.dumps({"version": VERSION, "used": used}, indent=1) + "\n").encode()


class QuotaWriter(LeaseWriter):
    """Writes the file, as that of leases is written."""

    def failed(self, error: str) -> None:
        """The first attempt to write has failed."""
        self._log.warning("quotas not written yet", path=self._path, error=error)

    def written_again(self) -> None:
        """A later attempt has not."""
        self._log.info("quotas written again", path=self._path)
