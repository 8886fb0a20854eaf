"""Runs the network: from a parsed command line to the end of the daemon."""

from pipeline.system import light_imports  # isort: skip  # noqa: F401  before anything loads asyncio

import os
from collections.abc import Sequence
from functools import partial
from typing import Final

from pipeline import logs, release
from pipeline.config import merge
from pipeline.config.errors import ConfigError
from pipeline.daemon import lifetime, programs
from pipeline.daemon.predecessor import Predecessor
from pipeline.go import flags
from pipeline.system import requirements

FAILED: Final = 1


def pipeline(parsed: flags.Parsed, words: Sequence[str]) -> int:
    """Run the daemon as gvtap-pipeline. Returns the exit code."""
    return _start(parsed, words, programs.OWN)


def gvproxy(parsed: flags.Parsed, words: Sequence[str]) -> int:
    """Run the daemon as gvtap-gvproxy. Returns the exit code."""
    return _start(parsed, words, programs.GVPROXY)


def _start(parsed: flags.Parsed, words: Sequence[str], program: programs.Program) -> int:
    logs.setup()
    predecessor = Predecessor.find(os.environ) if program.restarts else None
    if shortage := requirements.shortage():
        logs.fatal(f"cannot run here: {shortage}", program.name)
        return FAILED
    opened: list[str] = []

    def try_log_file(path: str) -> None:
        logs.try_file(path, empty=predecessor is None)
        opened.append(path)

    try:
        config, warnings = merge.build(
            parsed,
            words,
            try_log_file=try_log_file,
            guests=program.guests,
            ipv6_default=program.ipv6,
            # Its sockets are at their places.
            again=predecessor is not None,
        )
        logs.setup(config.logging.log_file, config.logging.log_level)
    except (ConfigError, OSError) as error:
        if predecessor is not None:
            # It goes on, and logs the error.
            predecessor.refuse(str(error))
            return FAILED
        logs.fatal(str(error), program.name)
        if opened:
            # Write the error to the log file too, for users who read only this file.
            logs.setup(opened[0])
            logs.logger("supervisor").critical(str(error), kind="start-failed")
            logs.flush()
        return FAILED
    log = logs.logger("supervisor")
    for warning in warnings:
        log.warning(warning, kind="setting-doubtful")
    _report_version(program.name)
    # gvproxy has no reload, and without a file there is nothing to read again.
    reloads = program is programs.OWN and parsed.text("config")
    rebuild = partial(merge.build, parsed, words, guests=program.guests, ipv6_default=program.ipv6)
    reread = partial(rebuild, again=True) if reloads else None
    try:
        return lifetime.run(config, program, release.version(), reread, predecessor=predecessor)
    finally:
        logs.flush()


def _report_version(program: str) -> None:
    log = logs.logger("supervisor")
    log.info(
        f"{program} version {release.version()}",
        kind="version",
        data_path=release.data_path(),
        python=release.python(),
    )
    if reason := release.why_plain():
        log.warning("the data path is plain Python and needs three times the CPU", reason=reason)
