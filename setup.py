"""The build: pyproject.toml says what the package is, this file compiles its data path with mypyc.

The sources stay plain Python, which is what runs in a checkout (an editable install never compiles)
and wherever there is no C compiler. GVTAP_COMPILE=0 never compiles, 1 fails instead of doing without.
GVTAP_PROFILE=1 compiles with a profile of what runs often (native/training.py), which takes longer.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from sysconfig import get_path
from types import ModuleType

from setuptools import Extension, setup  # first: it brings distutils where Python has none
from setuptools.command.build import build
from setuptools.errors import CompileError

from distutils.ccompiler import new_compiler  # isort: skip
from distutils.sysconfig import customize_compiler  # isort: skip

sys.path.insert(0, str(Path("native").resolve()))
import training

EGRESS = ("stages/egress", "stages/egress/tcp", "stages/egress/udp")
STAGES = ("stages", "stages/ingress", "stages/demux", "stages/tcp", *EGRESS)
HALVES = (
    ("ipc", "host", "links", *STAGES),
    (
        "records",
        "wire",
        "engines",
        *(f"engines/{room}" for room in ("apart", "neighbors", "offload", "tcp", "virtio", "vxlan")),
    ),
)
"""Packages that frames pass, in two parts that are compiled side by side. The first uses the second."""
PLAIN = (
    *("host/[ilnpru]*", "ipc/*message*", "ipc/flow_rows", "wire/[dp]*"),
    *("stages/**/system_calls", "stages/**/preload"),
)
"""Modules of these that are not worth the time. host/udp could not be compiled either (ctypes)."""
COMMANDS = {"bdist_wheel", "build", "build_ext", "install"}


def modules(layer: str) -> list[str]:
    """The files of a package to compile."""
    root = Path("pipeline")
    plain = {path for name in PLAIN for path in root.glob(f"{name}.py")}
    return [str(path) for path in sorted({*root.joinpath(layer).glob("*.py")} - plain)]


class FreshBuild(build):  # type: ignore[misc]
    """A build that keeps nothing of an earlier one: Python prefers a compiled module to a newer source."""

    def run(self) -> None:
        """Remove what an earlier build left, then build."""
        made = Path(self.build_lib)
        for package in ("pipeline", "guest"):
            shutil.rmtree(made / package, ignore_errors=True)
        for left in made.glob("pipeline_*__mypyc.*"):
            left.unlink()
        if training.wanted() and self.distribution.ext_modules:
            try:
                training.train(str(Path(self.build_temp).resolve()))
            except training.TrainingError as error:
                raise SystemExit(f"GVTAP_PROFILE={os.environ[training.VARIABLE]}: {error}") from None
        super().run()
        if training.wanted():
            training.forget()
        if WHY_PLAIN:
            made.joinpath("pipeline", "why_plain.txt").write_text(WHY_PLAIN + "\n")


def missing() -> str:
    """Why nothing can be compiled: there is no C compiler that finds Python's headers; "" when it can."""
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "probe.c")
        source.write_text("#include <Python.h>\n")
        compiler = new_compiler()
        customize_compiler(compiler)
        try:
            compiler.compile([str(source)], output_dir=directory, include_dirs=[get_path("include")])
        except CompileError as error:
            return f"no C compiler that works, with Python's headers ({' '.join(str(error).split())})"
        return ""


def why_plain() -> str:
    """Why this build compiles nothing; "" if it does. SystemExit if it has to and cannot."""
    wanted = os.environ.get("GVTAP_COMPILE", "")
    if not COMMANDS & set(sys.argv):
        return ""
    if wanted == "0":
        return "GVTAP_COMPILE=0"
    why = missing()
    if why and wanted == "1":
        raise SystemExit(f"GVTAP_COMPILE=1, but there is {why}")
    if why:
        print(f"there is {why}: the data path stays plain Python", file=sys.stderr)
    return why


def extensions() -> list[Extension]:
    """What mypyc makes of the modules; nothing where that is not wanted or not possible."""
    if WHY_PLAIN or not COMMANDS & set(sys.argv):
        return []
    from mypyc.build import mypycify  # noqa: PLC0415  only where something is compiled

    # The types were checked when they were written; here only those of the standard library are at hand.
    # Their cache is of no use here, and the one of `make type` not ours to spoil.
    native = native_compiler()
    options = [
        native.MYPY_OPTION if native else "--config-file=",
        f"--cache-dir={os.devnull}",
        "--ignore-missing-imports",
        "--follow-imports=silent",
    ]
    layers = [[path for layer in half for path in modules(layer)] for half in HALVES]
    layers[0] += ["pipeline/counter_block.py", "pipeline/histograms.py"]
    groups = [(layers[0], "pipeline_stages"), (layers[1], "pipeline_engines")]
    profile = training.c_options()
    level = "2" if profile else "1"  # without a profile, more than 1 gains nothing
    made = mypycify([*options, *layers[0], *layers[1]], opt_level=level, debug_level="0", separate=groups)
    for extension in made:
        # In C that mypyc wrote, gcc's search for misleading indentation took two thirds of the time.
        extra = (*extension.extra_compile_args, "-Wno-misleading-indentation", *profile)
        extension.extra_compile_args = list(extra)
        extension.extra_link_args = [*extension.extra_link_args, *profile]
        if native and "__mypyc" in extension.name:  # the others only load one of these
            extension.extra_compile_args = [*extension.extra_compile_args, *native.C_OPTIONS]
    return made


def native_compiler() -> ModuleType | None:
    """native/compiler.py, which teaches mypyc struct and memoryview; None if this mypyc cannot learn that."""
    if os.environ.get("GVTAP_NATIVE", "") == "0":
        return None
    try:
        import compiler  # noqa: PLC0415  it loads mypyc

        if not (why := compiler.trial()):
            return compiler
        compiler.forget()
    except (ImportError, AttributeError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
    print(f"this mypyc cannot compile structs ({why}): the data path is slower", file=sys.stderr)
    return None


WHY_PLAIN = why_plain()
"""-version and the log show it (pipeline/release.py)."""

setup(
    cmdclass={"build": FreshBuild},
    ext_modules=extensions(),
    options={"build_ext": {"parallel": os.cpu_count()}},
)
