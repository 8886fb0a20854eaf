"""When the compiled tree may be used: made of these sources, all of them, and whole."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perf import compiled

SETUP = """
import pathlib, sys
made = pathlib.Path(sys.argv[sys.argv.index("--build-lib") + 1])
for source in pathlib.Path("pipeline").rglob("*.py"):
    copy = made / source
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(source.read_bytes())
{more}
"""
CODE = 'made.joinpath("pipeline/a.so").write_bytes(b"machine code")'
EDIT = 'pathlib.Path("pipeline/a.py").write_text("edited = 1")'
NO_COMPILER = 'print("no C compiler that works (no cc): the data path stays plain Python")'
BROKEN = 'sys.exit("a.py:1: error")'


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a build that needs no compiler."""
    monkeypatch.delenv("GVTAP_COMPILED", raising=False)
    for name in ("pipeline/a.py", "pipeline/wire/b.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path.stem} = 1\n")
    build_is(tmp_path, CODE)
    return tmp_path


def build_is(root: Path, *more: str) -> None:
    root.joinpath("setup.py").write_text(SETUP.format(more="\n".join(more)))


def left(root: Path) -> list[str]:
    return [path.name for path in root.joinpath("build").iterdir()]


def test_what_was_compiled_is_used(root: Path) -> None:
    assert compiled.problem(root) == "not compiled"
    assert compiled.compile_tree(root) == 0
    assert compiled.problem(root) == ""
    assert left(root) == ["compiled"]


def test_the_age_of_a_file_does_not_matter(root: Path) -> None:
    compiled.compile_tree(root)
    os.utime(root / "pipeline" / "a.py")
    assert compiled.problem(root) == ""


@pytest.mark.parametrize("change", ["edit", "add", "remove", "rename", "setup", "native"])
def test_a_tree_of_other_sources_is_not_used_until_it_is_made_anew(root: Path, change: str) -> None:
    compiled.compile_tree(root)
    source = root / "pipeline" / "a.py"
    if change == "edit":
        times = source.stat()
        source.write_text("a = 2\n")
        os.utime(source, (times.st_atime, times.st_mtime))
    elif change == "add":
        root.joinpath("pipeline", "wire", "c.py").write_text("")
    elif change == "remove":
        source.unlink()
    elif change == "rename":
        source.rename(source.with_name("c.py"))
    elif change == "native":
        root.joinpath("native").mkdir()
        root.joinpath("native", "access.h").write_text("/* other code */")
    else:
        build_is(root, CODE, "# other options")
    assert compiled.problem(root) == "the compiled ones are of other sources"
    assert compiled.compile_tree(root) == 0
    assert compiled.problem(root) == ""


def test_a_tree_for_another_python_is_not_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.compile_tree(root)
    monkeypatch.setattr(compiled.sysconfig, "get_config_var", lambda _: ".other.so")
    assert compiled.problem(root) == "the compiled ones are of other sources"


@pytest.mark.parametrize("lost", ["stamp", "pipeline/a.so", "pipeline/a.py", "pipeline/wire"])
def test_a_tree_that_is_not_whole_is_not_used(root: Path, lost: str) -> None:
    compiled.compile_tree(root)
    path = root / "build" / "compiled" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert compiled.problem(root) != ""


def test_a_source_that_is_edited_while_it_is_compiled_is_noticed(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    build_is(root, EDIT, CODE)
    assert compiled.compile_tree(root) == 0
    assert compiled.problem(root) == "the compiled ones are of other sources"
    assert "edited meanwhile" in capfd.readouterr().err


PROFILE = 'import os; made.joinpath("pipeline/b.so").write_bytes(os.environ["GVTAP_PROFILE"].encode())'


def test_a_tree_without_a_profile_is_made_anew_where_one_is_wanted_and_not_the_reverse(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "ROOT", root)
    monkeypatch.setattr(compiled, "compile_tree", functools.partial(compiled.compile_tree, root))
    monkeypatch.setattr(compiled, "reason", lambda: compiled.problem(root))
    build_is(root, CODE, PROFILE)
    built = root / "build" / "compiled" / "pipeline" / "b.so"
    for words, expected in (([], b""), (["--profile"], b"1"), ([], b"1"), (["--profile"], b"1")):
        assert compiled.main(words) == 0
        assert built.read_bytes() == expected
        assert compiled.profiled() == (expected == b"1")
        assert compiled.data_path() == ("compiled, with a profile" if expected else "compiled")
        assert compiled.problem(root) == ""
    root.joinpath("pipeline", "a.py").write_text("edited = 1")
    assert compiled.data_path() == "plain", "the tree with the profile is not used"


def test_without_a_compiler_everything_stays_plain(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    compiled.compile_tree(root)
    build_is(root, NO_COMPILER)
    assert compiled.compile_tree(root) == 0
    assert left(root) == []
    assert "no C compiler that works" in capfd.readouterr().err


def test_a_build_that_fails_says_why_and_leaves_no_old_tree(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    compiled.compile_tree(root)
    build_is(root, CODE, BROKEN)
    assert compiled.compile_tree(root) != 0
    assert left(root) == []
    assert "a.py:1: error" in capfd.readouterr().err


def where(argv: list[str], directory: Path) -> str:
    """From where a command of ours loads the program, in a directory that has a package of that name."""
    directory.joinpath("pipeline").mkdir(exist_ok=True)
    directory.joinpath("pipeline", "__init__.py").write_text("")
    asked = [*argv[:2], sys.executable, "-P", "-c", "import pipeline.cli as m; print(m.__file__)"]
    return subprocess.run(asked, capture_output=True, text=True, check=True, cwd=directory).stdout.strip()


def test_a_command_runs_the_code_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = str(compiled.ROOT / "pipeline" / "cli.py")
    assert where(compiled.command("gvtap-pipeline", plain=True), tmp_path) == plain
    tree = tmp_path / "tree"
    tree.joinpath("pipeline").mkdir(parents=True)
    for name in ("__init__.py", "cli.py"):
        tree.joinpath("pipeline", name).write_text("")
    monkeypatch.setattr(compiled, "place", lambda _: tree)
    monkeypatch.setattr(compiled, "reason", lambda: "")
    assert where(compiled.command("gvtap-pipeline"), tmp_path) == str(tree / "pipeline" / "cli.py")
    monkeypatch.setattr(compiled, "reason", lambda: "not compiled")
    assert where(compiled.command("gvtap-pipeline"), tmp_path) == plain
    other = compiled.command("gvtap-pipeline", root=tree)
    assert where(other, tmp_path) == str(tree / "pipeline" / "cli.py"), "that of another checkout"


@pytest.mark.parametrize(("value", "expected"), [("1", "GVTAP_TEST_PLAIN"), ("0", ""), ("", "")])
def test_the_environment_can_ask_for_plain_sources(
    value: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GVTAP_TEST_PLAIN", value)
    monkeypatch.setattr(compiled, "problem", lambda: "")
    assert compiled.reason.__wrapped__() == expected
