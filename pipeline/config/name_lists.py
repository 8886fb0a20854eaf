"""Reads the names of an egress policy that stand in files of their own.

A file has one name in a line: ``example.com``, or ``*.example.com``. Empty lines and what follows a ``#`` are
left out. The supervisor reads the files, and gives workers the names with the Config.
"""

import os
from typing import Final

from pipeline.config.errors import ConfigError
from pipeline.config.model import EgressPolicy
from pipeline.config.scalars import Scalar, name_pattern
from pipeline.go import flags
from pipeline.system import small_file

MAX_NAMES: Final = 200_000
"""The most names of all files together."""

Stamp = tuple[int, int, int]
"""Inode, length and time of the last change."""


def read_all(policy: EgressPolicy) -> dict[str, tuple[str, ...]]:
    """The names of each file of the policy, by path. Raises ConfigError."""
    found: dict[str, tuple[str, ...]] = {}
    for index, rule in enumerate(policy.rules):
        for path in rule.name_files:
            if path in found:
                continue
            try:
                found[path] = read(path)
            except ConfigError as error:
                key = f"egress-policy.rules[{index}].name-files"
                raise ConfigError(f"{key}: {flags.quote(path)}: {error}") from None
    if sum(map(len, found.values())) > MAX_NAMES:
        raise ConfigError(f"egress-policy.rules: too many names in name-files (allowed: {MAX_NAMES})")
    return found


def read(path: str) -> tuple[str, ...]:
    """The names in a file, each once. Raises ConfigError, whose text does not have the path."""
    try:
        lines = small_file.read(path).decode("utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"cannot be read: {os.strerror(error.errno or 0).lower()}") from None
    except small_file.FileError as error:
        raise ConfigError(f"cannot be read: {error}") from None
    except UnicodeDecodeError:
        raise ConfigError("is not a text in UTF-8") from None
    names: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            names[str(name_pattern(Scalar(text, plain=True)))] = None
        except ValueError as error:
            raise ConfigError(f"line {number}: {error}, not {flags.quote(text)}") from None
    return tuple(names)


def stamps(policy: EgressPolicy) -> dict[str, Stamp | None]:
    """What changes when a file of the policy is written or replaced, by path; None if it is not there."""
    return {path: _stamp(path) for rule in policy.rules for path in rule.name_files}


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
