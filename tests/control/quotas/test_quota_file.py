"""The file that keeps what guests have used."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.control.quotas.ledger import Saved
from pipeline.control.quotas.quota_file import QuotaFileError, content, load

ROW = {"per": "day", "guest": "192.168.127.2", "period": "2026-01-31", "started": 0, "sums": [1, 2, 3, 4]}

_saved = st.builds(
    Saved,
    st.sampled_from(("life", "hour", "day", "month")),
    st.text(max_size=30),
    st.text(max_size=13),
    st.integers(0, 2**40),
    st.lists(st.integers(0, 2**60), min_size=4, max_size=4),
)


@given(st.lists(_saved, max_size=5))
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[Saved]) -> None:
    path = tmp_path_factory.mktemp("quotas") / "used.json"
    path.write_bytes(content(rows))
    assert load(str(path)) == sorted(rows)


def test_a_file_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    assert load(str(tmp_path / "none")) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 2, "used": []}',
        '{"version": 1, "used": 5}',
        *(
            json.dumps({"version": 1, "used": [{**ROW, key: value}]})
            for key, value in (
                ("per", "week"),
                ("guest", 5),
                ("sums", [1, 2, 3]),
                ("sums", [1, 2, 3, -1]),
                ("sums", [1, 2, 3, True]),
                ("started", "x"),
                ("period", None),
            )
        ),
        '{"version": 1, "used": [{"per": "day"}]}',
    ],
)
def test_a_file_with_a_mistake_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "used.json"
    path.write_text(text)
    with pytest.raises(QuotaFileError, match=r"used\.json"):
        load(str(path))
