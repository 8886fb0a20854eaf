"""The state file of leases."""

import json
import os
from pathlib import Path

import pytest

from pipeline.host import lease_file
from pipeline.host.lease_file import LeaseFileError
from pipeline.system import small_file
from pipeline.wire import ip

ROWS = [
    (ip.from_ipv4(0xC0A87F03), bytes.fromhex("020000000001"), 1800.0),
    (ip.from_ipv4(0xC0A87F02), bytes.fromhex("5a94efe40cee"), 0.0),
]


def test_what_was_saved_is_loaded_with_the_time_that_passed_taken_off(tmp_path: Path) -> None:
    path = tmp_path / "leases.json"
    path.write_bytes(lease_file.content(ROWS, 1_000_000.0))
    assert [lease["ip"] for lease in json.loads(path.read_text())["leases"]] == [
        "192.168.127.2",
        "192.168.127.3",
    ]
    loaded = lease_file.load(str(path), 1_000_600.0)
    assert loaded.ipv6 == []
    assert loaded.ipv4 == [(ROWS[1][0], ROWS[1][1], -600.0), (ROWS[0][0], ROWS[0][1], 1200.0)]
    assert [each.name for each in tmp_path.iterdir()] == ["leases.json"]


ROWS6 = [
    (ip.parse("fd00::1:5"), bytes.fromhex("020000000001 00000007 00030001 020000000001"), 60.0),
    (ip.parse("fd00::1:4"), bytes.fromhex("020000000002 ffffffff 000401"), 90.0),
]


def test_leases_of_ipv6_have_a_list_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "leases.json"
    path.write_bytes(lease_file.content(ROWS, 1000.0, ROWS6))
    document = json.loads(path.read_text())
    assert document["leases6"][1] == {
        "ip": "fd00::1:5",
        "mac": "02:00:00:00:00:01",
        "iaid": 7,
        "duid": "00:03:00:01:02:00:00:00:00:01",
        "expires": 1060,
    }
    assert [set(lease) for lease in document["leases"]] == [{"ip", "mac", "expires"}] * 2
    loaded = lease_file.load(str(path), 1000.0)
    assert (sorted(loaded.ipv4), sorted(loaded.ipv6)) == (sorted(ROWS), sorted(ROWS6))
    path.write_bytes(lease_file.content(ROWS, 1000.0))
    assert "leases6" not in json.loads(path.read_text())


@pytest.mark.parametrize(
    "fields",
    [
        {"iaid": -1},
        {"iaid": 1 << 32},
        {"iaid": "7"},
        {"iaid": True},
        {"iaid": None},
        {"duid": ""},
        {"duid": "00:03"},
        {"duid": "00:" * 130 + "00"},
        {"duid": 7},
        {"mac": "02"},
        {"ip": "x"},
        {"expires": "soon"},
    ],
)
def test_a_lease_of_ipv6_that_cannot_be_understood_is_an_error(
    fields: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "leases.json"
    path.write_bytes(lease_file.content([], 0.0, ROWS6))
    document = json.loads(path.read_text())
    document["leases6"][0].update(fields)
    path.write_text(json.dumps(document))
    with pytest.raises(LeaseFileError, match=str(path)):
        lease_file.load(str(path), 0.0)


def test_without_a_file_there_are_no_leases(tmp_path: Path) -> None:
    assert lease_file.load(str(tmp_path / "nothing"), 0.0) == ([], [])


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
        '{"version": 1, "leases": 7}',
        '{"version": 1, "leases": {"ip": "1.2.3.4"}}',
        '{"version": 1, "leases": [{"ip": 7, "mac": "5a:94:ef:e4:0c:ee", "expires": 1}]}',
        '{"version": 1, "leases": [{"ip": "1.2.3.4", "mac": 7, "expires": 1}]}',
        '{"version": 1, "leases": [{"ip": "1.2.3.4\\u0000", "mac": "5a:94:ef:e4:0c:ee", "expires": 1}]}',
        '{"version": 1, "leases": [{"ip": "1.2.3.4", "mac": "5a:94:ef:e4:0c:ee", "expires": "nan"}]}',
        '{"version": 1, "leases": [{"ip": "1.2.3.4", "mac": "5a:94:ef:e4:0c:ee", "expires": NaN}]}',
        '{"version": 1, "leases": [{"ip": "1.2.3.4", "mac": "5a:94:ef:e4:0c:ee", "expires": 1e999}]}',
        '{"version": 1, "leases": [{"ip": "1.2.3.4", "mac": "5a:94:ef:e4:0c:ee", "expires": true}]}',
        '{"version": 1, "leases": [{"ip": "1.2.3.4", "mac": "5a:94:ef:e4:0c:ee", "expires": 1%s}]}'
        % ("0" * 400),
        '"text"',
        "null",
    ],
)
def test_a_file_that_cannot_be_understood_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "leases.json"
    path.write_text(text)
    with pytest.raises(LeaseFileError, match=str(path)):
        lease_file.load(str(path), 0.0)
    assert path.read_text() == text


@pytest.mark.parametrize("char", ["[", '{"a":'])
def test_deeply_nested_json_is_refused_in_one_line_and_ends_nothing(char: str, tmp_path: Path) -> None:
    path = tmp_path / "leases.json"
    path.write_text(char * 100_000)
    with pytest.raises(LeaseFileError) as refused:
        lease_file.load(str(path), 0.0)
    assert str(refused.value).startswith(
        f"state file {path} cannot be read: it is nested too deeply (allowed: {{"
    )
    assert "\n" not in str(refused.value)


def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "leases.json"
    os.mkfifo(path)
    with pytest.raises(LeaseFileError) as refused:
        lease_file.load(str(path), 0.0)
    assert str(refused.value) == f"state file {path} cannot be read: it is a FIFO (allowed: a regular file)"


def test_what_is_no_state_file_at_all_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LeaseFileError, match="Is a directory"):
        lease_file.load(str(tmp_path), 0.0)
    with pytest.raises(LeaseFileError, match="it is a device"):
        lease_file.load("/dev/zero", 0.0)
    path = tmp_path / "leases.json"
    path.write_bytes(b'{"version": 1, "leases": "\xff"}')
    with pytest.raises(LeaseFileError, match="utf-8"):
        lease_file.load(str(path), 0.0)
    monkeypatch.setattr(small_file, "MAX_BYTES", 1 << 20)
    path.write_bytes(b" " * (1 << 20) + b"1")
    with pytest.raises(LeaseFileError, match=r"too long \(allowed: 1 MiB\)"):
        lease_file.load(str(path), 0.0)
