"""The commands of a page of docs/, and shells that run them as a reader does.

A fenced block with the word `sh` has commands for the host, one with `sh guest` for the guest. If the word
`fails` follows, each command of the block must fail. With `terminal` a command runs in a terminal.
"""

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

PATIENCE = 120.0
"""Seconds for one command."""
HESITATION = 10.0
"""Seconds in which a command may still fail, because a program has not written or answered yet."""
_FENCE = re.compile(r"^```sh(?P<words>[a-z ]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_HEREDOC = re.compile(r"<<'?(\w+)'?")


class Command(NamedTuple):
    """One command, with the words of its block."""

    text: str
    guest: bool
    fails: bool
    terminal: bool


class Done(NamedTuple):
    """A command that has run, with what it printed."""

    command: Command
    output: str


def sections(page: str) -> dict[str, list[Command]]:
    """The commands of each part of a page by its heading, in their order. Parts without any are left out."""
    found = {}
    for part in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        made = []
        for block in _FENCE.finditer(part):
            words = set(block["words"].split())
            assert words <= set(Command._fields[1:]), block["words"]
            marks = [mark in words for mark in Command._fields[1:]]
            made += [Command(text, *marks) for text in commands(block["text"])]
        if made:
            found[part.partition("\n")[0]] = made
    return found


def commands(block: str) -> Iterator[str]:
    """The commands of a block: lines, with those that a backslash or a here-document joins."""
    lines = iter(block.splitlines())
    for line in lines:
        command = line
        while command.endswith("\\"):
            command += "\n" + next(lines)
        if heredoc := _HEREDOC.search(line):
            while not command.endswith(f"\n{heredoc[1]}"):
                command += "\n" + next(lines)
        if command.strip():
            yield command


class Shell:
    """A bash that stays, as in a terminal. It and what it has started end with the block."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], directory: Path) -> None:
        self._bash = subprocess.Popen(
            [*argv, "bash"],
            env=dict(env),
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._serial = 0

    def run(self, command: Command) -> Done:
        """Run a command, and repeat it for a while if it fails. AssertionError if it goes on failing."""
        deadline = time.monotonic() + HESITATION
        while True:
            status, output = self._once(command.text)
            if (status != 0) == command.fails:
                return Done(command, output)
            assert time.monotonic() < deadline, f"{command.text}\nended with {status}\n{output}"
            time.sleep(0.5)

    def _once(self, text: str) -> tuple[int, str]:
        self._serial += 1
        mark = f"=== {self._serial} "
        stdin, stdout = self._bash.stdin, self._bash.stdout
        assert stdin is not None
        assert stdout is not None
        # The command may not read what follows it.
        stdin.write(f"{{ {text}\n}} < /dev/null; printf '\\n{mark}%s\\n' $?\n".encode())
        stdin.flush()
        read, deadline = b"", time.monotonic() + PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while not (end := re.search(rf"\n{mark}(\d+)\n", read.decode(errors="replace"))):
                left = deadline - time.monotonic()
                assert left > 0, f"{text}\ndid not end\n{read.decode(errors='replace')}"
                if selector.select(left):
                    piece = os.read(stdout.fileno(), 65536)
                    assert piece, f"{text}\nended the shell\n{read.decode(errors='replace')}"
                    read += piece
        return int(end[1]), end.string[: end.start()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._bash.stdin, self._bash.stdout):
            assert pipe is not None
            pipe.close()
        try:
            os.killpg(self._bash.pid, signal.SIGTERM)
            self._bash.wait(10)
            time.sleep(1)
            os.killpg(self._bash.pid, signal.SIGKILL)
        except ProcessLookupError:
            self._bash.wait(10)
