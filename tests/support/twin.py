"""Runs the same steps in this process, from the plain sources, and in a child, from the compiled ones.

    with Twins("from pipeline.ipc.ring import Producer") as twins:
        twins.both("x = Producer(memory, 8)")

A step is an expression or a statement. ``both`` fails if the results differ. A result is a value with all its
fields, or an exception.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import pytest

from perf import compiled

PLAIN_VALUES = (int, float, str, bytes, type(None))


def require_compiled() -> None:
    """Skip the test if there is no compiled tree of these sources, or the plain ones are wanted."""
    if why := compiled.reason():
        pytest.skip(f"needs the compiled data path: {why} (make compiled)")


def environment() -> dict[str, str]:
    """Where a child finds the compiled data path, these tests, and what this process was told to find."""
    path = compiled.search_path(compiled.place(compiled.ROOT), compiled.ROOT)
    return {**os.environ, "PYTHONPATH": path}


def compiled_python(code: str, fds: Sequence[int] = (), **kwargs: Any) -> "subprocess.Popen[bytes]":
    """A child that runs this code with the compiled data path. It inherits fds."""
    argv = [sys.executable, "-P", "-c", code]
    return subprocess.Popen(argv, env=environment(), pass_fds=fds, cwd=compiled.ROOT, **kwargs)


def shown(value: Any) -> Any:
    """A value as something that can be sent and compared."""
    if isinstance(value, memoryview):
        return ("view", bytes(value))
    if isinstance(value, PLAIN_VALUES):
        return (type(value).__name__, value)
    if isinstance(value, list | tuple):
        return [type(value).__name__, *map(shown, value)]
    fields = {name: getattr(value, name) for name in dir(value) if not name.startswith("_")}
    return {name: shown(field) for name, field in fields.items() if not callable(field)}


def run(names: dict[str, Any], step: str, more: dict[str, Any]) -> Any:
    """What a step gives, or the exception that it raises."""
    names.update(more)
    try:
        try:
            code = compile(step, "step", "eval")
        except SyntaxError:
            exec(step, names)
            return None
        return shown(eval(code, names))
    except Exception as error:
        return ("raises", type(error).__name__)


def serve() -> None:
    """The child: answer steps until the parent closes the pipe."""
    names: dict[str, Any] = {}
    while True:
        try:
            step, more = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(run(names, step, more), sys.stdout.buffer)
        sys.stdout.buffer.flush()


class Twins:
    """Both processes. They begin with the same statement."""

    def __init__(self, begin: str) -> None:
        self._names: dict[str, Any] = {}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._child = compiled_python("from tests.support.twin import serve; serve()", **pipes)
        self.both(begin)

    def both(self, step: str, **names: Any) -> Any:
        """Run a step in both, with these names. Returns what it gives in both."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        pickle.dump((step, names), self._child.stdin)
        self._child.stdin.flush()
        here = run(self._names, step, names)
        there = pickle.load(self._child.stdout)
        assert there == here, f"{step}: {there!r} compiled, {here!r} plain ({names})"
        return here

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.communicate()
