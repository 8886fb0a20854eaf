"""The corpora: one input a line, in hexadecimal, in corpus/NAME.txt.

python -m tests.fuzz.corpus NAME DIRECTORY replaces a corpus by the files of a directory (a fuzzer keeps those
that reached something new): MAX_INPUTS of them from all sizes, or fewer when those are too large together.
"""

import sys
from pathlib import Path

DIRECTORY = Path(__file__).parent / "corpus"
MAX_INPUTS = 400
MAX_BYTES = 64 * 1024


def read(name: str) -> list[bytes]:
    """The inputs of a corpus."""
    return [bytes.fromhex(line) for line in (DIRECTORY / f"{name}.txt").read_text().split()]


def unpack(name: str, directory: Path) -> None:
    """One file for each input, as fuzzers want them."""
    directory.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(read(name)):
        (directory / f"{name}-{number:04d}").write_bytes(data)


def pack(name: str, directory: Path) -> int:
    """Replace a corpus by the files of directory; how many were kept."""
    inputs = sorted({path.read_bytes() for path in directory.iterdir()}, key=lambda data: (len(data), data))
    kept: list[bytes] = []
    size = 0
    for data in inputs[:: -(-len(inputs) // MAX_INPUTS)]:
        size += len(data)
        if size > MAX_BYTES:
            break
        if data:
            kept.append(data)
    (DIRECTORY / f"{name}.txt").write_text("".join(f"{data.hex()}\n" for data in kept))
    return len(kept)


if __name__ == "__main__":
    print(f"{pack(sys.argv[1], Path(sys.argv[2]))} inputs")
