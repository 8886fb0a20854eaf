"""Measures the Internet checksum in µs: plain Python and numpy, one buffer and 44 frames. One JSON line."""

import os
import sys

from perf.timing import report
from pipeline.engines.offload import checksum as checksum_np
from pipeline.wire import checksum

SLOT = memoryview(bytearray(os.urandom(73728)))


def main() -> int:
    """Measure and print."""
    for length in (40, 1460, 65536):
        wanted = checksum.checksum(SLOT[256 : 256 + length])
        if checksum_np.checksum(SLOT, 256, length) != wanted:
            raise SystemExit(f"the two checksums of {length} bytes differ")
    return report(
        "micro/checksum",
        __doc__,
        {
            "plain_40": lambda: checksum.word_sum(SLOT[256:296]),
            "plain_1460": lambda: checksum.word_sum(SLOT[256:1716]),
            "numpy_40": lambda: checksum_np.word_sum(SLOT, 256, 40),
            "numpy_1460": lambda: checksum_np.word_sum(SLOT, 256, 1460),
            "numpy_65536": lambda: checksum_np.word_sum(SLOT, 256, 65536),
            "numpy_65536_odd_offset": lambda: checksum_np.word_sum(SLOT, 257, 65536),
            "numpy_44_frames_1514": lambda: checksum_np.row_sums(SLOT, 260, 1518, 44, 1514),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
