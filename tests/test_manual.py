"""Man pages and completions: they are those of the tables of flags, and their readers take them."""

import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from guest import agent
from pipeline import sub_commands
from pipeline.client import options as client_options
from pipeline.config import options

ROOT = Path(__file__).resolve().parent.parent
CONTRIB = ROOT / "contrib"
PAGES = ("gvtap-pipeline", "gvtap-gvproxy", "gvtap-guest", "gvtap-slirp4netns")


def manual() -> ModuleType:
    spec = importlib.util.spec_from_file_location("manual", ROOT / ".ci" / "manual.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def offered(program: str, *words: str) -> set[str]:
    """What bash offers for the last of the words."""
    line = " ".join(f"'{word}'" for word in (program, *words))
    script = (
        f"source {CONTRIB}/completions/bash/{program}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; "
        f"_{program.replace('-', '_')}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_the_committed_files_are_those_of_the_tables() -> None:
    found = {
        str(path.relative_to(CONTRIB)): path.read_text()
        for folder in ("man", "completions")
        for path in (CONTRIB / folder).rglob("*")
        if path.is_file()
    }
    assert found == manual().files(), "run make manual"


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs mandoc")
def test_mandoc_has_nothing_to_say(name: str) -> None:
    done = subprocess.run(["mandoc", "-Tlint", CONTRIB / "man" / f"{name}.1"], capture_output=True, text=True)
    assert done.stdout + done.stderr == ""


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs mandoc")
def test_a_page_shows_every_flag() -> None:
    argv = ["mandoc", "-Tascii", "-O", "width=200", CONTRIB / "man" / "gvtap-pipeline.1"]
    done = subprocess.run(argv, capture_output=True, check=True)
    text = subprocess.run(["col", "-b"], input=done.stdout, capture_output=True, check=True).stdout.decode()
    assert all(f"     -{flag.name}" in text for command in sub_commands.COMMANDS for flag in command.flags)


def test_bash_offers_commands_flags_and_values() -> None:
    words = {command.name.split()[0] for command in sub_commands.COMMANDS}
    assert offered("gvtap-pipeline", "") == words | {"version", "help"}
    assert offered("gvtap-pipeline", "config", "s") == {"show", "schema"}
    assert offered("gvtap-pipeline", "start", "-listen-") == {
        f"-{flag.name}" for flag in options.START if flag.name.startswith("listen-")
    }
    assert offered("gvtap-pipeline", "start", "-placement", "") == {"separate", "auto"}
    assert offered("gvtap-pipeline", "flows", "-") == {f"-{flag.name}" for flag in client_options.FLOWS}
    assert offered("gvtap-pipeline", "flows", "-sort", "") == {"bytes", "age", "idle"}
    assert "LICENSE" in offered("gvtap-pipeline", "config", "check", "LIC")
    assert "LICENSE" in offered("gvtap-gvproxy", "-config", "LIC")
    assert offered("gvtap-guest", "-") == {f"-{flag.name}" for flag in agent.FLAGS}
    assert offered("gvtap-slirp4netns", "--c") == {"--configure", "--cidr"}
    assert offered("gvtap-slirp4netns", "--netns-type", "") == {"pid", "path"}


@pytest.mark.parametrize(("shell", "pattern"), [("zsh", "_*"), ("fish", "*.fish")])
def test_other_shells_parse_theirs(shell: str, pattern: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    paths = sorted((CONTRIB / "completions" / shell).glob(pattern))
    assert len(paths) == len(PAGES)
    for path in paths:
        subprocess.run([shell, "-n", path], check=True)
