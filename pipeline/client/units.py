"""Sizes and times in the words of people."""

from typing import Final

_SIZES: Final = ("B", "kB", "MB", "GB", "TB", "PB")
_TIMES: Final = ((86400, "d"), (3600, "h"), (60, "m"))


def size(count: float) -> str:
    """Bytes with three digits: 999 B, 1.2 kB, 35 MB. 1 kB is 1000 B."""
    value, unit = count, 0
    # 999.5 has three digits only when it is 1.0 of the next unit.
    while value >= 999.5 and unit + 1 < len(_SIZES):
        value, unit = value / 1000, unit + 1
    digits = 1 if unit and value < 9.95 else 0
    return f"{value:.{digits}f} {_SIZES[unit]}"


def time(seconds: float) -> str:
    """A time in its two largest units: 3d4h, 5m10s, 12s, 0.3s."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    left = round(seconds)
    parts: list[str] = []
    for length, unit in _TIMES:
        if left >= length or parts:
            parts.append(f"{left // length}{unit}")
            left %= length
    return "".join([*parts, f"{left}s"][:2])
