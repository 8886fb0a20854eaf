"""The figures of the code base: what each counts, and what it just does not."""

from pathlib import Path

import pytest

from perf import figures

BODY = "    x = 1\n"
TEN = ", ".join(f"n{i}" for i in range(10))
NINE = ", ".join(f"n{i}" for i in range(9))
SEVEN = ", ".join("abcdefg")


def measured(root: Path, **texts: str) -> dict[str, list[str]]:
    """The figures of a tree with these files in pipeline/stages."""
    folder = root / "pipeline" / "stages"
    folder.mkdir(parents=True)
    for name, text in {"__init__": "", **texts}.items():
        folder.joinpath(f"{name}.py").write_text(text)
    return figures.measure(figures.read(root, ("pipeline",)))


@pytest.mark.parametrize(
    "figure, counted, not_counted",
    [
        (
            "functions over 50 lines",
            f"def long():\n{BODY * 51}",
            f'def long(\n  a,\n):\n    """Text.\n\n    More."""\n{BODY * 50}',
        ),
        (
            "functions with 8 or more parameters",
            f"def wide({SEVEN}, *, h): ...",
            f"class C:\n    def wide(self, {SEVEN}): ...\n    @classmethod\n    def other(cls, {SEVEN}): ...",
        ),
        (
            "functions with 8 or more parameters",
            f"async def wide({SEVEN}, **h): ...",
            f"def wide({SEVEN}): ...",
        ),
        ("loop heads that unpack 10 or more names", f"for {TEN} in []: ...", f"for {NINE} in []: ..."),
        ("loop heads that unpack 10 or more names", f"[n1 for {TEN} in []]", f"[n1 for {NINE} in []]"),
        ("files over 400 lines", "x = 1\n" * 401, "x = 1\n" * 400),
        ("fmt: skip", "x  = 1  # fmt: skip", "x = '# fmt: skip'"),
        (
            "classes with over 40 attributes",
            "class C:\n    __slots__ = ('f0', 'f1')\n"
            + "".join(f"    f{i}: int\n" for i in range(1, 40))
            + "    def m(self):\n        self.last = 1\n",
            "class C:\n"
            + "".join(f"    f{i}: int\n" for i in range(40))
            + "    def m(self):\n        self.f0 = 1\n",
        ),
        ("Any", "def f(x: dict[str, Any]): ...", "from typing import Any  # Any\nx = 'Any'"),
        ("Any", "x: typing.Any = 1", "x = other.Any"),
        ("cast", "x = cast(int, 1)", "from typing import cast\nx = view.cast('Q')"),
    ],
)
def test_a_figure_counts_what_it_says_and_no_more(
    figure: str, counted: str, not_counted: str, tmp_path: Path
) -> None:
    found = measured(tmp_path, counted=counted, other=not_counted)
    assert len(found[figure]) == 1
    assert found[figure][0].startswith("pipeline/stages/counted.py:")


def test_files_are_counted_by_folder(tmp_path: Path) -> None:
    found = measured(tmp_path, one="", two="")
    assert found["files in the fullest folder"] == [
        f"pipeline/stages/{name}.py" for name in ("__init__", "one", "two")
    ]
    assert found["loose modules in pipeline/"] == []
    for name in ("__init__", "loose"):
        tmp_path.joinpath("pipeline", f"{name}.py").touch()
    found = figures.measure(figures.read(tmp_path, ("pipeline",)))
    assert found["loose modules in pipeline/"] == ["pipeline/loose.py"]


def test_each_figure_is_one_line_with_its_value(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = figures.measure(figures.read(figures.ROOT))
    monkeypatch.setattr(figures, "read", lambda _root: [])
    monkeypatch.setattr(figures, "measure", lambda _sources: found)
    assert figures.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert lines[-1] == "   0 upward imports"
    assert figures.main(["--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 11 + sum(int(line.split()[0]) for line in lines)
