"""Configurations made of words of a command line."""

import os

import pytest

from pipeline.config import merge, options
from pipeline.config.file import ConfigError
from pipeline.config.model import Config
from pipeline.go import flags


def build(*words: str, resolv_conf: str = os.devnull) -> tuple[Config, tuple[str, ...]]:
    return merge.build(flags.parse(options.START, words), words, resolv_conf=resolv_conf)


def refusal(*words: str) -> str:
    with pytest.raises(ConfigError) as error:
        build(*words)
    return str(error.value)
