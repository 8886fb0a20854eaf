"""Coverage-guided fuzzing of wire_target.py: python -m tests.fuzz.fuzz_wire [option ...] [DIRECTORY ...]

Options are those of libFuzzer. Needs atheris (the fuzz extra). Without a directory it begins with the
kept corpus and works in .fuzz/wire; what breaks something is left in .fuzz as a file, to be
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
    from tests.fuzz.wire_target import one_input

WORK = Path(".fuzz")


def main() -> None:
    """Hand over to libFuzzer."""
    arguments = [*sys.argv, f"-artifact_prefix={WORK}/"]
    if all(argument.startswith("-") for argument in sys.argv[1:]):
        corpus.unpack("wire", WORK / "wire")
        arguments.append(str(WORK / "wire"))
    atheris.Setup(arguments, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
