"""Builds the compiled data path in build/compiled, and decides whether daemons may run from there.

    python -m perf.compiled             compile if a source has changed (make compiled)
    python -m perf.compiled --profile   the same with a profile of what runs often (make compiled PROFILE=1)

A checkout runs as plain Python, but users install a wheel whose data path is compiled (setup.py). So
end-to-end tests and measurements run their daemons from build/compiled if that tree is *fresh*: made of
exactly these sources, for this Python.

The tree is built in a temporary directory and renamed when it is complete. Its stamp has a digest of the
sources that was made before the compiler read them. So a tree that is incomplete, or differs from the sources
in any file, is never used. Everything then runs from the sources.

A tree with a profile (native/training.py) is as fresh as one without. `make perf` makes one.

GVTAP_TEST_PLAIN=1 runs the plain sources in any case. GVTAP_COMPILED=NAME has the tree in build/NAME: each
Python needs its own.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = "stamp"
PROFILED = "profiled"
"""A file in a tree that was compiled with a profile."""
ENV = "/usr/bin/env"
MODULES = {
    "gvtap-pipeline": "pipeline.cli",
    "gvtap-gvproxy": "pipeline.gvproxy",
    "gvtap-slirp4netns": "pipeline.slirp4netns",
    "gvtap-guest": "guest.agent",
}
"""The module of each program."""


def place(root: Path) -> Path:
    """The directory of the compiled tree of a checkout. It may not exist."""
    return root / "build" / os.environ.get("GVTAP_COMPILED", "compiled")


def digest(root: Path) -> str:
    """A digest of the names and contents of all sources of the program under root."""
    total = hashlib.sha256()
    for path in sorted(root.joinpath("pipeline").rglob("*.py")):
        content = path.read_bytes()
        total.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return total.hexdigest()


def origin(root: Path) -> str:
    """What a tree depends on, as text: the sources, how they are compiled, the Python that can load it."""
    makers = [root / "setup.py", *sorted(root.joinpath("native").glob("*.*"))]
    setup = hashlib.sha256(b"".join(path.read_bytes() for path in makers)).hexdigest()
    return f"sources {digest(root)}\nsetup {setup}\npython {sysconfig.get_config_var('EXT_SUFFIX')}\n"


def machine_code(tree: Path) -> str:
    """The compiled files of a tree: one line for each, with its size."""
    found = sorted(tree.rglob("*.so"))
    return "".join(f"{path.relative_to(tree)} {path.stat().st_size}\n" for path in found)


def problem(root: Path = ROOT) -> str:
    """Why the compiled tree of a checkout may not be used; "" if it may."""
    tree = place(root)
    try:
        stamp = tree.joinpath(STAMP).read_text()
    except FileNotFoundError:
        return "not compiled"
    if not stamp.startswith(origin(root)):
        return "the compiled ones are of other sources"
    if stamp != origin(root) + machine_code(tree) or digest(tree) != digest(root):
        return "the compiled ones are not whole"
    return ""


@functools.cache
def reason() -> str:
    """Why this process runs the plain sources; "" if it runs the compiled ones. The answer is cached."""
    return "GVTAP_TEST_PLAIN" if os.environ.get("GVTAP_TEST_PLAIN", "") not in ("", "0") else problem()


def kind() -> str:
    """What the daemons that this process starts run: "compiled" or "plain"."""
    return "plain" if reason() else "compiled"


def profiled() -> bool:
    """Whether the compiled tree was made with a profile of what runs often."""
    return place(ROOT).joinpath(PROFILED).exists()


def data_path() -> str:
    """kind() in words, for results: also whether there was a profile."""
    return "compiled, with a profile" if kind() == "compiled" and profiled() else kind()


def search_path(*first: Path) -> str:
    """A PYTHONPATH with these directories before those that it has here."""
    inherited = [path for path in [os.environ.get("PYTHONPATH", "")] if path]
    return os.pathsep.join([*map(str, first), *inherited])


def environment(*, plain: bool = False, root: Path = ROOT) -> list[str]:
    """Words before a command: it finds the compiled program if kind() is that, unless ``plain`` is set.

    root: of another checkout, whose program runs, compiled if it can.
    They are those of env, so that PYTHONPATH is right wherever the command runs. env does not change the pid.
    """
    why = reason() if root == ROOT else problem(root)
    tree = [] if plain or why else [place(root)]
    return [ENV, f"PYTHONPATH={search_path(*tree, root)}"]


def command(name: str, *, plain: bool = False, root: Path = ROOT) -> list[str]:
    """The command line of a program of ours, with environment()."""
    script = Path(sys.executable).parent / name
    # -P: do not put the working directory before the path.
    argv = [str(script)] if script.exists() else [sys.executable, "-P", "-m", MODULES[name]]
    return [*environment(plain=plain, root=root), *argv]


def compile_tree(root: Path = ROOT, *, profile: bool = False) -> int:
    """Build the tree again. Without a C compiler there is no tree afterwards. Returns an exit status."""
    tree = place(root)
    shutil.rmtree(tree, ignore_errors=True)
    tree.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tree.parent, prefix="compiling-") as name:
        made, objects = Path(name, "made"), Path(name, "objects")
        made_of = origin(root)
        argv = [sys.executable, "setup.py", "-q", "build"]
        argv += ["--build-lib", str(made), "--build-temp", str(objects)]
        done = subprocess.run(
            argv,
            cwd=root,
            env={**os.environ, "GVTAP_PROFILE": "1" if profile else ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            print(done.stdout, file=sys.stderr)
            return done.returncode
        code = machine_code(made)
        if not code:
            said = [line for line in done.stdout.splitlines() if "stays plain Python" in line]
            print(*(said or ["not compiled: GVTAP_COMPILE=0"]), sep="\n", file=sys.stderr)
            return 0
        # The guest agent is not compiled. It runs from the checkout.
        shutil.rmtree(made / "guest", ignore_errors=True)
        if profile:
            made.joinpath(PROFILED).touch()
        made.joinpath(STAMP).write_text(made_of + code)
        made.rename(tree)
    why = problem(root)
    if why:
        print(f"{why}: were they edited meanwhile? The plain ones are used", file=sys.stderr)
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """Compile if the tree is not fresh, or should have a profile and has none."""
    parser = argparse.ArgumentParser(description="Compile the data path for tests and measurements.")
    parser.add_argument("--profile", action="store_true", help="with a profile of what runs often")
    profile = parser.parse_args(words).profile
    if not reason() and (profiled() or not profile):
        return 0
    if reason() == "GVTAP_TEST_PLAIN":
        print("GVTAP_TEST_PLAIN: nothing is compiled", file=sys.stderr)
        return 0
    print("compiling the data path, as a wheel has it: some minutes", flush=True)
    return compile_tree(profile=profile)


if __name__ == "__main__":
    sys.exit(main())
