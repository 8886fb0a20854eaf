"""The tables of docs/metrics.md, made of the tables that the page is made of.

python -m pipeline.control.metrics.reference      prints them
"""

from collections.abc import Iterator

from pipeline import histograms
from pipeline.control.metrics.families import DIRECTION, FAMILIES, PREFIX, histogram_name, writers
from pipeline.control.metrics.page import READINGS_HELP

READINGS_LABELS = {
    "build": ("gauge", "version, python, data_path"),
    "worker_slots": ("gauge", "worker"),
    "ring_records": ("gauge", "source, target"),
    "ring_capacity_records": ("gauge", "source, target"),
    "guest_bytes": ("counter", "guest, direction"),
    "guest_frames": ("counter", "guest, direction"),
    "guest_frames_dropped": ("counter", "guest"),
}
"""Kind and labels of the families without a row in the tables of counters and histograms."""


def sample_name(family: str, kind: str) -> str:
    """The name of the samples of a family, without the suffixes of histograms."""
    return f"{family}_total" if kind == "counter" else family


def tables() -> str:
    """All tables, as Markdown."""
    parts = (_counters(), _causes(), _histograms(), _readings())
    return "\n\n".join("\n".join(lines) for lines in parts)


def _counters() -> Iterator[str]:
    yield "| metric | counter | kind | workers | meaning |"
    yield "| --- | --- | --- | --- | --- |"
    for family in FAMILIES:
        if not family.label:
            row = family.series[0].row
            name, workers = sample_name(family.name, family.kind), ", ".join(writers(row.name))
            yield f"| `{name}` | `{row.name}` | {family.kind} | {workers} | {row.help} |"


def _causes() -> Iterator[str]:
    yield "| metric | label | counter | workers | what it counts |"
    yield "| --- | --- | --- | --- | --- |"
    for family in FAMILIES:
        for series in family.series if family.label else ():
            name = sample_name(family.name, family.kind)
            workers = ", ".join(writers(series.row.name))
            yield f'| `{name}` | `{series.label}="{series.value}"` | {workers} | {series.row.help} |'


def _histograms() -> Iterator[str]:
    yield "| metric | workers | buckets up to | meaning |"
    yield "| --- | --- | --- | --- |"
    seen: set[str] = set()
    for row in histograms.TABLE:
        name = histogram_name(row)
        if name not in seen:
            seen.add(name)
            divisor = 1_000_000 if row.unit == histograms.SECONDS else 1
            bounds = ", ".join(f"{bound / divisor:g}" for bound in row.bounds)
            labels = f"; label `{DIRECTION}`" if row.direction else ""
            yield f"| `{name}` | {', '.join(writers(row.name))} | {bounds} | {row.help}{labels} |"


def _readings() -> Iterator[str]:
    yield "| metric | kind | labels | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, text in READINGS_HELP.items():
        kind, labels = READINGS_LABELS[name]
        full = f"{PREFIX}build_info" if name == "build" else sample_name(PREFIX + name, kind)
        yield f"| `{full}` | {kind} | {labels} | {text} |"


if __name__ == "__main__":
    print(tables())
