"""Modules of links that ingress loads before it is in its sandbox."""

import subprocess
import sys

CODE = """
import os, sys
from pipeline.config import merge, options
from pipeline.go import flags
from pipeline.stages.ingress import preload
words = sys.argv[1:]
config, _ = merge.build(flags.parse(options.START, words), words, resolv_conf=os.devnull)
preload.load(config.links)
print(*(name for name in ("pipeline.links.tap", "pipeline.links.vhost_user") if name in sys.modules))
"""


def loaded(*words: str) -> list[str]:
    command = [sys.executable, "-c", CODE, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_links_of_the_configuration_have_their_modules() -> None:
    assert loaded() == []
    assert loaded("-listen-vhost-user", "unix:///tmp/v") == ["pipeline.links.vhost_user"]
    assert loaded("-link", "fd+unix:///tmp/f") == ["pipeline.links.tap"], "a client may pass a tap"
    assert loaded("-link", "tap+eth0") == ["pipeline.links.tap"]
