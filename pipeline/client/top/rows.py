"""The rows of the four views of ``top``: texts for people, and what they are sorted by."""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from pipeline.client import units
from pipeline.client.records import UNKNOWN, Record
from pipeline.client.show import flow_texts, guest_texts
from pipeline.client.tables import Column
from pipeline.client.top.samples import Ring, Samples

FROM_GUEST: Final = "from_guest"
TO_GUEST: Final = "to_guest"
DIRECTIONS: Final = (FROM_GUEST, TO_GUEST)
Counter = tuple[str, str]
"""Of the rates: the key of a row, and the direction or the cause."""
RateOf = Callable[[Counter], float | None]

_RATE: Final = 7
"""Characters of a rate, and of a title with its mark."""
_BAR: Final = 10
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"

GUESTS: Final = (
    Column("GUEST", right=True),
    Column("ADDRESS", least=13),
    Column("MAC", optional=4),
    Column("OPENED BY", shrinks_to=10, optional=2),
    Column("LINKS", right=True, optional=6),
    Column("TCP", right=True, least=4),
    Column("UDP", right=True, least=4),
    Column("UP", right=True, optional=5, least=6),
    Column("DOWN", right=True, optional=5, least=6),
    Column("UP/s", right=True, least=6),
    Column("DOWN/s", right=True, least=_RATE),
)
FLOWS: Final = (
    Column("ID", optional=5),
    Column("PROTO"),
    Column("GUEST", shrinks_to=15, keeps_end=True),
    Column(""),
    Column("PEER", shrinks_to=20, keeps_end=True),
    Column("STATE", optional=1),
    Column("AGE", right=True, optional=2, least=6),
    Column("IDLE", right=True, optional=4, least=6),
    Column("UP", right=True, optional=3, least=6),
    Column("DOWN", right=True, optional=3, least=6),
    Column("UP/s", right=True, least=6),
    Column("DOWN/s", right=True, least=_RATE),
    Column("BOTH/s", right=True, optional=6, least=_RATE),
)
WORKERS: Final = (
    Column("WORKER", least=9),
    Column("PROCESS", optional=1),
    Column("PID", right=True, optional=2),
    Column("STATE"),
    Column("BUSY", right=True, least=4),
    Column("", least=_BAR),
    Column("WAITING", right=True),
    Column("FULLEST RING", least=14),
    Column("SLOTS IN USE", right=True),
)
DROPS: Final = (
    Column("CAUSE", shrinks_to=30),
    Column("DROPPED", right=True, least=12),
    Column("DROPPED/s", right=True, least=10),
)


class Row(NamedTuple):
    """key: names the row as long as it lives. order: what each column is sorted by. weight: of equal rows."""

    key: str
    cells: tuple[str, ...]
    order: tuple[float | str, ...]
    weight: float = 0


def guest_counters(guests: Iterable[Record], samples: Samples) -> dict[Counter, float]:
    """The bytes of each guest in both directions: those of all its MAC addresses."""
    return {
        (guest.text("guest"), direction): sum(
            samples.guest_bytes.get((mac, direction), 0) for mac in guest.texts("mac_addresses")
        )
        for guest in guests
        for direction in DIRECTIONS
    }


def guest_row(guest: Record, counters: dict[Counter, float], rate: RateOf) -> Row:
    """A row of GUESTS."""
    key = guest.text("guest")
    sums = [counters.get((key, direction), 0) for direction in DIRECTIONS]
    rates = [rate((key, direction)) for direction in DIRECTIONS]
    _, *names = guest_texts(guest)
    counts = [guest.number(name) for name in ("links", "tcp_flows", "udp_flows")]
    cells = (
        key,
        *names,
        *(f"{count:.0f}" for count in counts),
        *(units.size(count) for count in sums),
        *(rate_text(each) for each in rates),
    )
    order: tuple[float | str, ...] = (
        guest.number("guest"),
        *names,
        *counts,
        *sums,
        *(_order(each) for each in rates),
    )
    return Row(key, cells, order, sum(sums))


def flow_counters(flows: Iterable[Record]) -> dict[Counter, float]:
    """The bytes of each flow in both directions."""
    return {
        (flow.text("id"), direction): flow.number(f"bytes_{direction}")
        for flow in flows
        for direction in DIRECTIONS
    }


def flow_row(flow: Record, rate: RateOf) -> Row:
    """A row of FLOWS."""
    key = flow.text("id")
    texts = flow_texts(flow)
    times = [flow.number(f"{name}_seconds") for name in ("age", "idle")]
    sums = [flow.number(f"bytes_{direction}") for direction in DIRECTIONS]
    up, down = (rate((key, direction)) for direction in DIRECTIONS)
    rates = up, down, None if up is None or down is None else up + down
    cells = (
        *texts,
        *(units.time(seconds) for seconds in times),
        *(units.size(count) for count in sums),
        *(rate_text(each) for each in rates),
    )
    return Row(key, cells, (*texts, *times, *sums, *(_order(each) for each in rates)), sum(sums))


def worker_row(worker: Record, samples: Samples | None) -> Row:
    """A row of WORKERS. samples: None while there are none."""
    name, process, pid = (worker.text(field) for field in ("worker", "process", "pid"))
    state = "ok" if worker.true("answers") else "silent"
    busy = min(max(worker.number("busy"), 0), 1)
    rings = samples.rings_to(name) if samples else []
    waiting = sum(ring.records for ring in rings)
    fullest = max(rings, key=_fill, default=None)
    slots = samples.slots.get(name, 0) if samples else 0
    used = slots - samples.slots_free.get(name, 0) if samples else 0
    cells = (
        *(name, process, pid, state, f"{busy:.0%}", bar(busy)),
        f"{waiting:.0f}" if samples else UNKNOWN,
        f"{fullest.source} {_fill(fullest):.0%}" if fullest else UNKNOWN,
        f"{used:.0f}/{slots:.0f}" if slots else UNKNOWN,
    )
    order = (
        *(name, process, worker.number("pid"), state, busy, busy, waiting),
        _fill(fullest) if fullest else -1,
        used / slots if slots else -1,
    )
    return Row(name, cells, order)


def drop_row(cause: str, count: int, rate: float | None) -> Row:
    """A row of DROPS."""
    return Row(cause, (cause, str(count), count_text(rate)), (cause, count, _order(rate)), count)


def rate_text(rate: float | None) -> str:
    """Bytes a second, under a title that says so."""
    return UNKNOWN if rate is None else units.size(rate)


def count_text(rate: float | None) -> str:
    """Events a second. One in ten seconds is not nothing."""
    if rate is None:
        return UNKNOWN
    return f"{rate:.0f}" if rate >= 10 or not rate else f"{rate:.1f}"


def bar(share: float) -> str:
    """A bar for a share from 0 to 1."""
    eighths = round(share * _BAR * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def _order(rate: float | None) -> float:
    return -1 if rate is None else rate


def _fill(ring: Ring) -> float:
    return ring.records / ring.capacity if ring.capacity else 0
