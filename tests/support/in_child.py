"""Runs a function in a child process, for what a process cannot take back."""

import json
import os
import traceback
from collections.abc import Callable
from typing import Any


def in_child(function: Callable[[], Any]) -> Any:
    """What the function returns in a child process, which may be anything that JSON has."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, json.dumps(function()).encode())
        except BaseException:
            os.write(writer, json.dumps(traceback.format_exc()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        text = file.read()
    os.waitpid(pid, 0)
    return json.loads(text)


def outcome(attempt: Callable[[], object]) -> str:
    """ "works", or the words of the error."""
    try:
        attempt()
    except OSError as error:
        return os.strerror(error.errno or 0)
    return "works"
