"""The commands ``policy show``, ``policy set`` and ``policy explain``: the egress policy of a running daemon.

A policy is shown and read in the layout of the configuration file. The daemon checks it.
"""

import re
import sys
from collections.abc import Sequence
from typing import Final

import yaml

from pipeline.client import api
from pipeline.client.records import Record
from pipeline.client.show import FAILED, MISUSED, OK, PROGRAM, ask, print_answer
from pipeline.client.tables import printable
from pipeline.config.errors import ConfigError
from pipeline.config.file import parse
from pipeline.config.mistakes import Data
from pipeline.config.scalars import Scalar
from pipeline.go import flags
from pipeline.system import small_file

POLICY: Final = "/policy"
EXPLAIN: Final = "/policy/explain"
KEY: Final = "egress-policy"
STDIN: Final = "-"
_DESTINATION: Final = re.compile(r"(\[[^\]]+\]|[^:/]+)(?::([0-9]{1,5}))?(?:/(tcp|udp|icmp))?", re.ASCII)


def show(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """Print the policy, as it would stand in a configuration file."""

    def run(found: api.Api, _width: int) -> int:
        policy = found.table(POLICY)
        written = lambda: yaml.safe_dump({KEY: policy}, sort_keys=False, allow_unicode=True)  # noqa: E731
        print_answer(parsed, policy, written)
        return OK

    return ask("policy show", parsed, run)


def set_policy(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """Replace the policy by that of a file."""
    (path,) = parsed.arguments
    try:
        text = sys.stdin.read() if path == STDIN else small_file.read(path).decode()
        data = parse(text).data
    except (ConfigError, OSError, UnicodeDecodeError, small_file.FileError) as error:
        sys.stderr.write(f"{PROGRAM} policy set: {path}: {api.cause(error)}\n")
        return FAILED
    # A whole configuration file will do, and so will what "policy show -json" prints.
    policy = _plain(data.get(KEY, data))
    target = f"{POLICY}?connections=keep" if parsed.true("keep") else POLICY

    def run(found: api.Api, _width: int) -> int:
        answer = found.put(target, policy)
        ended = Record(answer).number("ended")
        print_answer(parsed, answer, lambda: f"changed; connections that were cut: {ended}\n")
        return OK

    return ask("policy set", parsed, run)


def explain(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """Say which rule decides. Returns FAILED if the guest may not connect."""
    guest, destination = parsed.arguments
    matched = _DESTINATION.fullmatch(destination)
    if matched is None:
        words = "must be ADDRESS:PORT, NAME:PORT or ADDRESS/icmp, /udp at the end for UDP"
        sys.stderr.write(f"{PROGRAM} policy explain: {destination!r} {words}\n")
        return MISUSED
    host, port, protocol = matched[1].strip("[]"), int(matched[2] or 0), matched[3] or "tcp"
    is_address = ":" in host or re.fullmatch("[0-9.]+", host)
    name = parsed.text("name") if is_address else host
    asked = {"guest": guest, "name": name, "port": port, "protocol": protocol}

    def run(found: api.Api, _width: int) -> int:
        answer = found.post(EXPLAIN, asked | ({"address": host} if is_address else {}))
        record = Record(answer)
        print_answer(parsed, answer, lambda: _explained(record))
        return OK if record.true("allowed") else FAILED

    return ask("policy explain", parsed, run)


def _explained(answer: Record) -> str:
    verdict = "allowed" if answer.true("allowed") else "refused"
    lines = [f"{verdict}: {answer.text('guest')} to {answer.text('address')}"]
    lines.append(f"{answer.text('rule') or 'the gateway'}: {answer.text('why')}")
    lines += [f"  {each.text('rule')} does not fit: {each.text('part')}" for each in answer.records("passed")]
    return "".join(printable(line) + "\n" for line in lines)


def _plain(data: Data) -> object:
    """Data of a file as JSON. All scalars stay texts, but true and false."""
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_plain(value) for value in data]
    if isinstance(data, Scalar) and data.plain and data in ("true", "false"):
        return data == "true"
    return str(data)
