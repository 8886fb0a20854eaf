"""Measures GSO in µs: the buffers of one range for a link. One JSON line; status 1 on a wrong result."""

import os
import sys
from collections.abc import Callable

from perf.timing import report
from pipeline.engines.offload.gso import Buffer, Segmenter
from pipeline.records.flows import Ends
from pipeline.wire import framing, tcp
from tests.support.frames import FAMILIES, Family, timestamps
from tests.support.ranges import IPV4, range_of

SLOT = memoryview(bytearray(os.urandom(73728)))


def ranges(
    segmenter: Segmenter, length: int, mss: int, options: bytes = b"", frames: int = 0, family: Family = IPV4
) -> Callable[[], object]:
    """A call that cuts length bytes of payload into segments of mss, or into ``frames`` frames."""
    payload = SLOT[256 : 256 + length]

    out = range_of(length, 0xFFFFF000, 1, tcp.ACK | tcp.PSH, 500, options, mss)
    ends = Ends(family.guest, 40000, family.remote, 80)

    def work() -> list[Buffer]:
        segmenter.reset()
        return segmenter.segments(family.to_guest, ends, out, payload, 7)

    wanted = frames or -(-length // mss) or 1
    before = segmenter.frame_count
    work()
    if segmenter.frame_count - before != wanted:
        raise SystemExit(f"{segmenter.frame_count - before} frames instead of {wanted}")
    return work


def main() -> int:
    """Measure and print."""
    stream, packets, big = Segmenter(framing.QEMU), Segmenter(None), Segmenter(framing.QEMU, 12)
    times = timestamps()
    ipv6 = FAMILIES["IPv6"]
    return report(
        "micro/gso",
        __doc__,
        {
            "ack": ranges(stream, 0, 1448, times),
            "one_byte": ranges(stream, 1, 1448, times),
            "one_1460": ranges(stream, 1460, 1460),
            "3x1448": ranges(stream, 3 * 1448, 1448, times),
            "44x1460": ranges(stream, 44 * 1460, 1460),
            "65536_by_1448": ranges(stream, 65536, 1448, times),
            "65536_by_1448_datagrams": ranges(packets, 65536, 1448, times),
            "65468_in_one": ranges(stream, 65468, 65468, times),
            "65160_virtio": ranges(big, 45 * 1448, 1448, times, 1),
            "ipv6_one_1440": ranges(stream, 1440, 1440, family=ipv6),
            "ipv6_65536_by_1428": ranges(stream, 65536, 1428, times, family=ipv6),
            "ipv6_64260_virtio": ranges(big, 45 * 1428, 1428, times, 1, family=ipv6),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
