"""The commands ``expose`` and ``unexpose``: open and close port forwards of a running daemon.

Their words are those of ``start -forward`` (pipeline.config.forward_words). ``expose`` opens all forwards or
none: if one fails, those that it has opened before are closed again.
"""

import sys
from collections.abc import Sequence
from typing import Final

from pipeline.client import api
from pipeline.client.records import Record
from pipeline.client.show import MISUSED, OK, PROGRAM, ask, forward_row, print_answer
from pipeline.client.tables import printable
from pipeline.config import forward_words
from pipeline.config.forward_words import Local
from pipeline.config.model import PortForward
from pipeline.go import flags

EXPOSE: Final = "/services/forwarder/expose"
UNEXPOSE: Final = "/services/forwarder/unexpose"


def expose(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """Open the forwards that the words mean."""
    try:
        wanted = [each for word in parsed.arguments for each in forward_words.forwards(word, "")]
    except forward_words.WordError as error:
        sys.stderr.write(f"{PROGRAM} expose: {error}\n")
        return MISUSED

    def show(found: api.Api, _width: int) -> int:
        opened = _open_all(found, wanted)
        print_answer(parsed, opened, lambda: "".join(_line(Record(each)) for each in opened))
        return OK

    return ask("expose", parsed, show)


def unexpose(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """Close the forwards that the words mean, also if some of them are not open."""
    try:
        wanted = [each for word in parsed.arguments for each in forward_words.locals_of(word)]
    except forward_words.WordError as error:
        sys.stderr.write(f"{PROGRAM} unexpose: {error}\n")
        return MISUSED

    def show(found: api.Api, _width: int) -> int:
        closed: list[dict[str, str]] = []
        faults: list[str] = []
        for local in wanted:
            try:
                _close(found, local)
            except api.RefusedError as error:
                faults.append(f"{local.protocol} {local.address}: {error}")
            else:
                closed.append({"local": local.address, "protocol": local.protocol})
        print_answer(parsed, closed, lambda: "".join(_closed_line(each) for each in closed))
        if faults:
            known = f"; '{PROGRAM} status' lists what is open"
            raise api.ApiError("; ".join(faults) + known)
        return OK

    return ask("unexpose", parsed, show)


def _open_all(found: api.Api, wanted: Sequence[PortForward]) -> list[dict[str, str]]:
    """Open all forwards, or raise ApiError and leave none of them open."""
    guest = ""
    if any(forward.remote.startswith(":") for forward in wanted):
        guest = Record(found.table("/status")).record("network").text("guest")
    opened: list[dict[str, str]] = []
    for forward in wanted:
        remote = f"{guest}{forward.remote}" if forward.remote.startswith(":") else forward.remote
        asked = {"local": forward.local, "remote": remote, "protocol": forward.protocol}
        try:
            answer = found.post(EXPOSE, asked)
        except api.ApiError as error:
            left = _close_all(found, opened)
            raise api.ApiError(f"{forward.protocol} {forward.local} to {remote}: {error}{left}") from None
        # The answer is empty, unless the system has chosen the port.
        opened.append(asked | {"local": Record(answer).text("local") or forward.local})
    return opened


def _close_all(found: api.Api, opened: Sequence[dict[str, str]]) -> str:
    """Close forwards again. Returns a text about those that stay open."""
    stay = []
    for each in opened:
        try:
            _close(found, Local(each["protocol"], each["local"]))
        except api.ApiError:
            stay.append(each["local"])
    return f" (still open: {', '.join(stay)})" if stay else ""


def _close(found: api.Api, local: Local) -> None:
    found.post(UNEXPOSE, {"local": local.address, "protocol": local.protocol})


def _line(forward: Record) -> str:
    local, protocol, remote = forward_row(forward)
    return printable(f"{local} -> {remote} {protocol}") + "\n"


def _closed_line(forward: dict[str, str]) -> str:
    return printable(f"closed {forward['local']} {forward['protocol']}") + "\n"
