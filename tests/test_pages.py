"""The pages name what is there: links and their anchors, files, modules, sub-commands and flags.

Comments and docstrings are checked for files and modules too, since those move.
"""

import functools
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from guest import agent, dhcp_client
from pipeline import sub_commands
from pipeline.config import options

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = ("build", ".git", ".venv", ".pytest_cache", "node_modules")
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob("*.md")
    if not set(path.relative_to(ROOT).parts) & {*LEFT_OUT}
)
HISTORY = {"CHANGELOG.md"}
"""Pages that name what once was."""
PROGRAMS = {
    "gvtap-gvproxy": {flag.name for flag in options.GVPROXY},
    "gvtap-guest": {flag.name for flag in agent.FLAGS},
    "guest.dhcp_client": {flag.name for flag in dhcp_client.FLAGS},
}
"""The flags of programs without sub-commands."""
GENERAL = {"h", "help", "version"}
WITHOUT_FLAGS = {"version", "help"}
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```(?:sh|console|shell|bash)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
FOREIGN_FILES = {"arp_table.c", "tap.c", "tests/framework/vm_config.json"}
"""Of slirp4netns, QEMU and Firecracker."""
PLACEHOLDER = re.compile(r"\b[A-Z]{4,}\b")


@functools.cache
def files() -> list[str]:
    """All files of this tree, as git or the source archive has them."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        found += [(Path(folder) / name).relative_to(ROOT).as_posix() for name in names]
    return found


@functools.cache
def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text_of(page)), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_within_the_tree_leads_to_a_file_and_a_heading(page: str) -> None:
    folder = os.path.dirname(page)
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text_of(page))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = os.path.normpath(os.path.join(folder, path)) if path else page
        if not (ROOT / target).exists() or (
            anchor and target.endswith(".md") and anchor not in anchors(target)
        ):
            dead.append(link)
    assert not dead


def is_there(name: str) -> bool:
    """Whether a path, or the end of one, is that of a file."""
    name = name.removeprefix("./")
    return name in FOREIGN_FILES or any(path == name or path.endswith(f"/{name}") for path in files())


@pytest.mark.parametrize("page", sorted({*PAGES} - HISTORY))
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    named = set(re.findall(r"`([\w.-][\w./-]*\.(?:py|h|c|js|toml|yaml|json|sh|service))`", text_of(page)))
    assert {name for name in named if not PLACEHOLDER.search(name) and not is_there(name)} == set()


@functools.cache
def is_module(name: str) -> bool:
    """Whether a dotted name is that of a module or package, or of something that a module has."""
    path = ROOT / name.replace(".", "/")
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    module, _, rest = name.rpartition(".")
    source = ROOT / f"{module.replace('.', '/')}.py"
    if source.is_file():
        return re.search(rf"\b{rest}\b", source.read_text()) is not None
    return "." in module and is_module(module)


def sources() -> Iterator[str]:
    return (path for path in files() if path.startswith(("pipeline/", "guest/", "perf/", "native/")))


def test_every_module_and_file_that_the_code_names_is_there() -> None:
    gone = []
    for path in [path for path in sources() if path.endswith(".py")]:
        text = text_of(path)
        modules = re.findall(r"(?<![\w./\"'-])(?:pipeline|tests)(?:\.[A-Za-z_]\w*)+", text)
        names = re.findall(r"(?<![\w.*/{}-])(?:[\w-]+/)*[\w-]+\.py\b", text)
        gone += [f"{path}: {name}" for name in modules if not is_module(name)]
        gone += [f"{path}: {name}" for name in names if not is_there(name)]
    assert set(gone) - {"native/compiler.py: probe.py"} == set()


# --- command lines --------------------------------------------------------------------------------


def lines(page: str) -> Iterator[str]:
    """The lines of the page's shell examples, and its inline code."""
    text = text_of(page)
    for block in SHELL.findall(text):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def commands(page: str) -> Iterator[list[str]]:
    """The words of each call of one of our programs, with its name first."""
    for line in lines(page):
        for part in re.split(r"[|;&]+|\$\(|\)", line):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:
                words = part.split()  # a quote of an outer line
            for at, word in enumerate(words):
                name = word.rpartition("/")[2]
                if name in ("gvtap-pipeline", *PROGRAMS) and len(words) > at + 1:
                    yield [name, *words[at + 1 :]]
                    break


def wrong(words: Sequence[str]) -> str:
    """What a call has that is not there: a sub-command or a flag; "" if nothing."""
    program, *rest = words
    if program == "gvtap-pipeline":
        if rest[0].lstrip("-") in GENERAL | WITHOUT_FLAGS or not re.fullmatch(r"[a-z]+", rest[0]):
            return ""
        found = sub_commands.find(rest)
        groups = {command.name.split()[0] for command in sub_commands.COMMANDS}
        if found is None:
            return "" if rest[0] in groups and len(rest) == 1 else rest[0]
        command, rest = found[0], list(found[1])
        known = {flag.name for flag in command.flags}
    else:
        known = PROGRAMS[program]
    for word in rest:
        if word == "--":
            break
        name = word.lstrip("-").partition("=")[0]
        if re.fullmatch(r"--?[a-z][a-z0-9-]*(=.*)?", word) and name not in known | GENERAL:
            return f"{program}: {word}"
    return ""


@pytest.mark.parametrize("page", sorted({*PAGES} - HISTORY))
def test_every_command_line_has_a_sub_command_and_flags_that_exist(page: str) -> None:
    assert [fault for words in commands(page) if (fault := wrong(words))] == []


def ours() -> set[str]:
    """The flags of all programs."""
    found = {flag.name for command in sub_commands.COMMANDS for flag in command.flags}
    return found.union(GENERAL, *PROGRAMS.values())


def test_the_readme_names_no_flag_that_no_program_has() -> None:
    named = re.findall(r"`-([a-z][a-z0-9-]+)(?: [^`]*)?`", text_of("README.md"))
    assert set(named) - ours() == set()


def test_a_command_line_with_a_wrong_word_is_found() -> None:
    assert wrong(["gvtap-pipeline", "start", "-listen", "x", "-mtu=1400"]) == ""
    assert wrong(["gvtap-pipeline", "start", "-nosuch"]) == "gvtap-pipeline: -nosuch"
    assert wrong(["gvtap-pipeline", "nosuch"]) == "nosuch"
    assert wrong(["gvtap-guest", "-nosuch"]) == "gvtap-guest: -nosuch"
    assert wrong(["gvtap-pipeline", "--help"]) == ""
