"""Coverage-guided fuzzing: python -m tests.fuzz.run NAME [option ...] [DIRECTORY ...]. NAME is one of NAMES.

Calls one_input of NAME_target.py. Options are those of libFuzzer. Needs atheris (the fuzz extra). Without a
directory it begins with the kept corpus and works in .fuzz/NAME; what breaks something is left in .fuzz as
a file, to be played with the same command.
"""

import importlib
import sys
from pathlib import Path

from tests.fuzz import corpus

try:
    import atheris
except ImportError:
    sys.exit("skipped, atheris is not installed: pip install '.[fuzz]' (wheels exist for some Pythons only)")

WORK = Path(".fuzz")
NAMES = ("wire", "engine", "names")


def main() -> None:
    """Hand over to libFuzzer."""
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        sys.exit(__doc__)
    program, name, *given = sys.argv
    # The parts of the program are loaded here, so that coverage is counted in them.
    with atheris.instrument_imports(include=["pipeline"]):
        target = importlib.import_module(f"tests.fuzz.{name}_target")
    arguments = [program, *given, f"-artifact_prefix={WORK}/"]
    if all(argument.startswith("-") for argument in given):
        corpus.unpack(name, WORK / name)
        arguments.append(str(WORK / name))
    atheris.Setup(arguments, target.one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
