"""The command ``restart``: a running daemon is replaced by the version that is installed now."""

from collections.abc import Sequence
from typing import Final

from pipeline.client import api
from pipeline.client.records import Record
from pipeline.client.show import OK, ask, print_answer
from pipeline.go import flags

PATH: Final = "/restart"
TIMEOUT: Final = 60.0
"""Seconds that the daemon has. It gives up earlier, and says why."""


def run(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """Print the process id of the new daemon. FAILED if the old one goes on."""

    def restart(found: api.Api, _width: int) -> int:
        found.timeout = TIMEOUT
        answer = found.post(PATH, {})
        print_answer(parsed, answer, lambda: f"{Record(answer).number('pid')}\n")
        return OK

    return ask("restart", parsed, restart)
