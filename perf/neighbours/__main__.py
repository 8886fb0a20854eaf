"""What a well-behaved guest keeps while another one attacks: its bulk rates and its round trips.

Both are guests of one daemon: a kernel with the bench's network card, and a sender of bursts
(perf/neighbours/attacks.py). Each figure has its *control*: the same guest beside the sender alone, which
sends the same frames at the same rate to a socket that nobody reads. So the control pays for the sender's
part of the machine, and the daemon makes the difference.

    python -m perf.neighbours                         all attacks in both placements, about 27 minutes
    python -m perf.neighbours --placement auto --only "one UDP,names" --rounds 24

Single samples differ by a quarter. So each line has many rounds, and the table says between which two ratios
the median of the rounds is with 95 %. An aim counts as missed or met only if that whole interval says so.
"""

from __future__ import annotations

import sys

from perf.neighbours.measure import main

if __name__ == "__main__":
    sys.exit(main())
