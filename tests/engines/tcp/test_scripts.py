"""Every packet script in scripts/ (see script.py for their form), and that the player itself complains."""

import re
from pathlib import Path

import pytest

from tests.engines.tcp.script import DIRECTORY, Player, ScriptError

SCRIPTS = sorted(path.name for path in DIRECTORY.glob("*.txt"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name: str) -> None:
    Player(DIRECTORY / name).play()


@pytest.mark.parametrize(
    "lines",
    [
        "0.0 < S 0\n. = ESTABLISHED",
        "0.0 < S 0\n. ! connect\n. $ connected",
        "0.0 < S 0\n. ! connect\n. $ connected\n. > S. 0 ack 2",
        "0.0 < S 0\n. ! connect\n. $ connected\n. > S. 0 ack 1 mss 1\n",
        "0.0 < S 0\n. ! connect\n. $ connected\n0.1 > S. 0 ack 1\n",
        "0.0 < S 0\n. ! connect\n. % tcp_segment_dropped_paws",
        "0.0 < S 0",
        "0.0 < S 0 wind 3",
        "0.0 ? S 0",
        "0.5 < S 0\n0.4 ! connect",
    ],
)
def test_a_script_that_tells_something_else_fails(lines: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.txt"
    path.write_text(lines)
    with pytest.raises(ScriptError):
        Player(path).play()


def test_every_file_there_is_played_or_included_by_one_that_is() -> None:
    texts = "".join((DIRECTORY / name).read_text() for name in SCRIPTS)
    included = set(re.findall(r"^include (\S+)$", texts, re.MULTILINE))
    assert {path.name for path in DIRECTORY.rglob("*")} == {*SCRIPTS, *included}


def test_every_script_says_what_it_is_about() -> None:
    for path in DIRECTORY.iterdir():
        assert path.read_text().startswith("# "), path.name
