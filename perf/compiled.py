"""The compiled data path beside a checkout: where it is, whether it may be used, how it is made.

    python -m perf.compiled     compile what changed since the last time (make compiled)

A checkout runs as plain Python. What users have is a wheel with the data path compiled (setup.py), so
daemons of end-to-end tests and of measurements run from such a tree, build/compiled, if it is there and
*fresh*: made of these very sources for this Python. It is made in a directory of its own and gets its name
when it is whole, and its stamp holds a digest of the sources from before the compiler read them. So a tree
that is half made, or differs from the sources in any file, is never used: everything runs from the sources.

GVTAP_TEST_PLAIN=1 runs the plain sources in any case.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = "stamp"
ENV = "/usr/bin/env"
MODULES = {
    "gvtap-pipeline": "pipeline.cli",
    "gvtap-gvproxy": "pipeline.gvproxy",
    "gvtap-guest": "guest.agent",
}
"""The programs by name."""


def place(root: Path) -> Path:
    """Where the compiled tree of a checkout lies, if there is one."""
    return root / "build" / "compiled"


def digest(root: Path) -> str:
    """Of names and contents of all sources of the program under root."""
    total = hashlib.sha256()
    for path in sorted(root.joinpath("pipeline").rglob("*.py")):
        content = path.read_bytes()
        total.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return total.hexdigest()


def origin(root: Path) -> str:
    """What a tree is made of: sources, the way they are compiled, the Python that can load it."""
    setup = hashlib.sha256(root.joinpath("setup.py").read_bytes()).hexdigest()
    return f"sources {digest(root)}\nsetup {setup}\npython {sysconfig.get_config_var('EXT_SUFFIX')}\n"


def machine_code(tree: Path) -> str:
    """The compiled files of a tree, a line each with its size."""
    found = sorted(tree.rglob("*.so"))
    return "".join(f"{path.relative_to(tree)} {path.stat().st_size}\n" for path in found)


def problem(root: Path = ROOT) -> str:
    """Why the compiled tree of a checkout may not be used; "" when it may."""
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
    """Why this process runs the plain sources; "" where it runs the compiled ones. Asked once, then kept."""
    return "GVTAP_TEST_PLAIN" if os.environ.get("GVTAP_TEST_PLAIN", "") not in ("", "0") else problem()


def kind() -> str:
    """What daemons started by this process run: "compiled" or "plain"."""
    return "plain" if reason() else "compiled"


def command(name: str, *, plain: bool = False) -> list[str]:
    """argv of a program of ours, compiled where kind() says so and plain is not asked for.

    The environment is part of it, so that it holds wherever the command runs. What env starts keeps the pid.
    """
    tree = [] if plain or kind() == "plain" else [str(place(ROOT))]
    inherited = [path for path in [os.environ.get("PYTHONPATH", "")] if path]
    path = os.pathsep.join([*tree, str(ROOT), *inherited])
    script = Path(sys.executable).parent / name
    # -P: the working directory does not come before the path.
    argv = [str(script)] if script.exists() else [sys.executable, "-P", "-m", MODULES[name]]
    return [ENV, f"PYTHONPATH={path}", *argv]


def compile_tree(root: Path = ROOT) -> int:
    """Make the tree anew; nothing is there afterwards where there is no C compiler. An exit status."""
    tree = place(root)
    shutil.rmtree(tree, ignore_errors=True)
    tree.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tree.parent, prefix="compiling-") as name:
        made, objects = Path(name, "made"), Path(name, "objects")
        made_of = origin(root)
        argv = [sys.executable, "setup.py", "-q", "build"]
        argv += ["--build-lib", str(made), "--build-temp", str(objects)]
        done = subprocess.run(argv, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            print(done.stdout, file=sys.stderr)
            return done.returncode
        code = machine_code(made)
        if not code:
            said = [line for line in done.stdout.splitlines() if "stays plain Python" in line]
            print(*(said or ["not compiled: GVTAP_COMPILE=0"]), sep="\n", file=sys.stderr)
            return 0
        # The guest's agent is not compiled; it is taken from the checkout.
        shutil.rmtree(made / "guest", ignore_errors=True)
        made.joinpath(STAMP).write_text(made_of + code)
        made.rename(tree)
    why = problem(root)
    if why:
        print(f"{why}: were they edited meanwhile? The plain ones are used", file=sys.stderr)
    return 0


def main() -> int:
    """Compile, if something changed."""
    if not reason():
        return 0
    if reason() == "GVTAP_TEST_PLAIN":
        print("GVTAP_TEST_PLAIN: nothing is compiled", file=sys.stderr)
        return 0
    print("compiling the data path, as a wheel has it: about a minute", flush=True)
    return compile_tree()


if __name__ == "__main__":
    sys.exit(main())
