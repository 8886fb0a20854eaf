"""The state file of leases."""

import json
import stat
from pathlib import Path

import pytest

from pipeline.host import lease_file
from pipeline.host.lease_file import LeaseFileError

ROWS = [(0xC0A87F03, bytes.fromhex("020000000001"), 1800.0), (0xC0A87F02, bytes.fromhex("5a94efe40cee"), 0.0)]


def test_what_was_saved_is_loaded_with_the_time_that_passed_taken_off(tmp_path: Path) -> None:
    path = tmp_path / "leases.json"
    lease_file.save(str(path), ROWS, 1_000_000.0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [lease["ip"] for lease in json.loads(path.read_text())["leases"]] == [
        "192.168.127.2",
        "192.168.127.3",
    ]
    loaded = lease_file.load(str(path), 1_000_600.0)
    assert loaded == [(ROWS[1][0], ROWS[1][1], -600.0), (ROWS[0][0], ROWS[0][1], 1200.0)]
    assert [each.name for each in tmp_path.iterdir()] == ["leases.json"]


def test_without_a_file_there_are_no_leases(tmp_path: Path) -> None:
    assert lease_file.load(str(tmp_path / "nothing"), 0.0) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 2, "leases": []}',
        '{"version": 1}',
        '{"version": 1, "leases": [{"ip": "x", "mac": "5a:94:ef:e4:0c:ee", "expires": 1}]}',
        '{"version": 1, "leases": [{"ip": "1.2.3.4", "mac": "5a:94", "expires": 1}]}',
        '{"version": 1, "leases": [{"ip": "1.2.3.4", "mac": "5a:94:ef:e4:0c:ee"}]}',
        '{"version": 1, "leases": [7]}',
    ],
)
def test_a_file_that_cannot_be_understood_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "leases.json"
    path.write_text(text)
    with pytest.raises(LeaseFileError, match=str(path)):
        lease_file.load(str(path), 0.0)
    assert path.read_text() == text


def test_a_directory_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        lease_file.save(str(tmp_path / "no" / "leases.json"), ROWS, 0.0)
