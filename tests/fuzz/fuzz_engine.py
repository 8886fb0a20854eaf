"""Coverage-guided fuzzing of engine_target.py: python -m tests.fuzz.fuzz_engine [option ...] [DIRECTORY ...]

Options are those of libFuzzer. Needs atheris (the fuzz extra). Without a directory it begins with the
kept corpus and works in .fuzz/engine; what breaks something is left in .fuzz as a file, to be
played with the same command.
"""

import sys
from pathlib import Path

from tests.fuzz import corpus

try:
    import atheris
except ImportError:
    sys.exit("skipped, atheris is not installed: pip install '.[fuzz]' (wheels exist for some Pythons only)")

with atheris.instrument_imports(include=["pipeline"]):
    from tests.fuzz.engine_target import one_input

WORK = Path(".fuzz")


def main() -> None:
    """Hand over to libFuzzer."""
    arguments = [*sys.argv, f"-artifact_prefix={WORK}/"]
    if all(argument.startswith("-") for argument in sys.argv[1:]):
        corpus.unpack("engine", WORK / "engine")
        arguments.append(str(WORK / "engine"))
    atheris.Setup(arguments, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
