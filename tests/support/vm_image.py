"""A file system with the Python that runs the tests, for programs of this project in a virtual machine.

It has the interpreter, its standard library, the packages that the daemon depends on, and the shared
libraries of all of these, at the paths that they have here. It is built once and kept in the cache. Its name
has a hash of what goes into it. The sources under test are not in it. They go into the machine's initrd.
"""

import compileall
import hashlib
import importlib.metadata
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.netns import ROOT
from tests.support.qemu import CACHE

FORMAT = 2
"""To be raised when the files are chosen in another way."""
DIRECTORIES = ("dev", "etc", "proc", "root", "run", "src", "sys", "tmp", "var/tmp")
FILES = {
    "etc/resolv.conf": "",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/passwd": "root:x:0:0::/root:/bin/sh\n",
}
KEPT = 3
"""Images that stay in the cache: other interpreters, of other checkouts, may need theirs again."""
SPARE_BYTES = 24 << 20

_UNUSED = {"dist-packages", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "tkinter"}
_TESTS = {"test", "tests", "turtledemo"}
_MKE2FS = shutil.which("mke2fs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
_PROJECT = "gvtap-pipeline"
SITE = Path("site")
"""Where the packages lie in the image."""
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def missing() -> str:
    """Why no image can be made; "" if one can."""
    return "" if _MKE2FS else "needs mke2fs (apt-get install e2fsprogs)"


def python() -> str:
    """The interpreter's path, here and in the image."""
    return os.path.realpath(sys.executable)


def environment() -> str:
    """The variables with which the interpreter finds the packages and the sources in the machine."""
    return f"PYTHONPATH=/src:/{SITE} PYTHONDONTWRITEBYTECODE=1 GVTAP_TEST_PLAIN=1"


def image() -> Path:
    """The image in the cache. Builds it if there is none for what is installed now."""
    assert _MKE2FS is not None
    files = sorted({*_standard_library(), *_packages(), Path(python())})
    listing = "\n".join(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)
    key = hashlib.sha256(f"{FORMAT}\n{DIRECTORIES}{FILES}\n{listing}".encode()).hexdigest()[:16]
    kept = CACHE / f"python-{key}.ext4"
    if kept.exists():
        return kept
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="image-") as text:
        tree, made = Path(text) / "tree", Path(text) / "image"
        size = SPARE_BYTES + sum(_copy(path, tree) for path in (*files, *_libraries(files)))
        for name in DIRECTORIES:
            (tree / name).mkdir(parents=True, exist_ok=True)
        for name, content in FILES.items():
            (tree / name).write_text(content)
        words = [
            "-q",
            "-t",
            "ext4",
            "-O",
            "^has_journal",
            "-m",
            "0",
            "-d",
            str(tree),
            str(made),
            f"{size >> 10}k",
        ]
        subprocess.run([_MKE2FS, *words], check=True, capture_output=True)
        made.rename(kept)
    for old in sorted(CACHE.glob("python-*.ext4"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        old.unlink()
    return kept


def source_files() -> dict[str, bytes]:
    """The sources under test, compiled, as files of an initrd: src/pipeline and src/guest."""
    with tempfile.TemporaryDirectory() as text:
        tree = Path(text)
        for name in ("pipeline", "guest"):
            skipped = shutil.ignore_patterns("__pycache__", "*.so", "*.c")
            shutil.copytree(ROOT / name, tree / name, ignore=skipped)
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(tree, quiet=2, invalidation_mode=mode)
        paths = [path for path in tree.rglob("*") if path.is_file()]
        return {f"src/{path.relative_to(tree)}": path.read_bytes() for path in paths}


def _standard_library() -> Iterator[Path]:
    """The files of it that programs need, without what another interpreter compiled."""
    tag = f".{sys.implementation.cache_tag}.pyc"
    for folder, names, files in os.walk(sysconfig.get_path("stdlib")):
        names[:] = [name for name in names if name not in _UNUSED | _TESTS and not name.startswith("config-")]
        for name in files:
            if not name.endswith(".pyc") or name.endswith(tag):
                yield Path(folder, name)


def _packages() -> Iterator[Path]:
    """The files of the packages on which the daemon depends, directly or not."""
    found: set[str] = set()
    waiting = [_PROJECT]
    while waiting:
        for text in importlib.metadata.requires(waiting.pop()) or ():
            name = _NAME.match(text)
            # Extras, and packages for other systems and older interpreters, are not installed or not needed.
            if name is None or "extra ==" in text or name[0].lower() in found:
                continue
            try:
                files = importlib.metadata.distribution(name[0]).files or ()
            except importlib.metadata.PackageNotFoundError:
                continue
            found.add(name[0].lower())
            waiting.append(name[0])
            for path in files:
                where = Path(os.path.normpath(str(path.locate())))
                if _TESTS.isdisjoint(path.parts) and ".." not in path.parts and where.is_file():
                    yield where


def _libraries(files: list[Path]) -> list[Path]:
    """The shared libraries that programs and libraries among the files need, and the loader."""
    objects = [str(path) for path in files if ".so" in path.suffixes or path == Path(python())]
    done = subprocess.run(["ldd", *objects], capture_output=True, text=True, timeout=120)
    paths = re.findall(r"(?:=> |^\s+)(/\S+) \(0x", done.stdout, re.MULTILINE)
    known = {os.path.realpath(path) for path in files}
    return sorted({Path(path) for path in paths if os.path.realpath(path) not in known})


def _place(path: Path) -> Path:
    """Where a file lies in the image: packages have a place of their own, all others their place here.

    A checkout may lie below /tmp, and the machine has its own one.
    """
    packages = Path(sysconfig.get_path("purelib"))
    return SITE / path.relative_to(packages) if path.is_relative_to(packages) else path.relative_to("/")


def _copy(path: Path, tree: Path) -> int:
    """Copy a file to its place in the tree. Returns about how much room it takes."""
    target = tree / _place(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, target)
    return (target.stat().st_size + 4095) // 4096 * 4096 + 512
