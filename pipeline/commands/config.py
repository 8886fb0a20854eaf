"""Checks a configuration file, shows what flags and file come to, and prints the schema of the file."""

import json
import sys
from collections.abc import Sequence
from typing import Final

import yaml

from pipeline import release
from pipeline.config import merge, options
from pipeline.config.choices import AUTO
from pipeline.config.errors import ConfigError
from pipeline.config.schema import json_schema
from pipeline.config.shown import as_file
from pipeline.go import flags
from pipeline.system import standard_files

OK: Final = 0
FAILED: Final = 1


def check(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """Write each problem as a line to standard error. An unknown key counts as a problem: a likely typo."""
    (path,) = parsed.arguments
    try:
        _, warnings = merge.build(flags.parse(options.START, ["-config", path]))
    except ConfigError as error:
        sys.stderr.writelines(f"{path}: {problem}\n" for problem in error.problems)
        return FAILED
    for warning in warnings:
        sys.stderr.write(f"{warning}\n")
    if warnings:
        return FAILED
    standard_files.write(f"{path}: ok\n")
    return OK


def show(parsed: flags.Parsed, words: Sequence[str]) -> int:
    """Print the configuration as a file. Returns the exit code."""
    try:
        config, warnings = merge.build(parsed, words, ipv6_default=AUTO)
    except ConfigError as error:
        sys.stderr.write(f"{release.PROGRAM}: {error}\n")
        return FAILED
    for warning in warnings:
        sys.stderr.write(f"{release.PROGRAM}: {warning}\n")
    standard_files.write(yaml.safe_dump(as_file(config), sort_keys=False, allow_unicode=True))
    return OK


def schema(_parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """Print the JSON schema of a configuration file, for editors and checkers."""
    standard_files.write(f"{json.dumps(json_schema(), indent=2)}\n")
    return OK
