"""Runs the daemon, which sends itself a signal before or after one of its own calls.

python -m tests.support.signal_at_a_place MODULE NAME before|after NUMBER start ...
"""

import importlib
import os
import sys
from typing import Any

from pipeline import cli


def main() -> int:
    """Replace the function, and run the daemon."""
    where, name, when, number, *words = sys.argv[1:]
    sys.argv[1:] = words
    owner: Any = importlib.import_module(where)
    *path, name = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    real = getattr(owner, name)

    def at_the_place(*args: Any, **keys: Any) -> Any:
        if when == "before":
            os.kill(os.getpid(), int(number))
        result = real(*args, **keys)
        if when == "after":
            os.kill(os.getpid(), int(number))
        return result

    setattr(owner, name, at_the_place)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
