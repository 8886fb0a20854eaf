"""The tables of docs/events.md, made of the table of events.

python -m pipeline.events.reference      prints them
"""

from collections.abc import Iterator, Sequence

from pipeline.events import clients, fleet, flows, network, policy, supervisor, workers
from pipeline.events.kind import LEVEL_NAMES, Kind

CHAPTERS = (
    ("Guests", network.GUESTS),
    ("MAC addresses", network.MACS),
    ("Leases", network.DHCP),
    ("Names", network.DNS),
    ("Forwards", network.FORWARDS),
    ("Policy", policy.KINDS),
    ("Flows", flows.KINDS),
    ("Limits", network.LIMITS),
    ("Fleet", fleet.KINDS),
    ("Workers: guests", workers.GUESTS),
    ("Workers: captures", workers.CAPTURES),
    ("Workers: DHCP, DNS and forwards", workers.SERVICES),
    ("Workers: start and end", workers.LIFE),
    ("Supervisor: start and end", supervisor.LIFE),
    ("Supervisor: reload", supervisor.RELOAD),
    ("Supervisor: the log", supervisor.LOG),
    ("Supervisor: workers", supervisor.WORKERS),
    ("Supervisor: the API", clients.API),
    ("Supervisor: forwards over ssh", clients.SSH),
)


def tables() -> str:
    """All tables, as Markdown."""
    return "\n\n".join(f"### {title}\n\n" + "\n".join(_rows(kinds)) for title, kinds in CHAPTERS)


def _rows(kinds: Sequence[Kind]) -> Iterator[str]:
    yield "| kind | level | text | when | fields |"
    yield "| --- | --- | --- | --- | --- |"
    for kind in kinds:
        fields = "; ".join(f"`{name}`: {meaning}" for name, meaning in kind.fields.items())
        name = f"`{kind.name}`" + (" *" if kind.published else "")
        text = kind.text or "(varies)"
        yield f"| {name} | {LEVEL_NAMES[kind.level]} | {text} | {kind.meaning} | {fields} |"


if __name__ == "__main__":
    print(tables())
