"""What the workers that carry a flow do not know about it: the guest's MAC address, and the name of the host.

Demux knows the MAC addresses. The resolver knows which names a guest has asked for.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from pipeline.control.workers import Request
from pipeline.ipc import flow_messages, messages
from pipeline.ipc.flow_rows import OUT, FlowRow
from pipeline.topology import DEMUX, RESOLVER

PAIRS_A_REQUEST: Final = 512
"""So few that the resolver answers within a millisecond."""

Pair = tuple[str, str]
"""The address of a guest, and one that it reached."""


class Known(NamedTuple):
    """Guests by address: MAC and number. Names by pair."""

    guests: Mapping[str, tuple[str, int]]
    names: Mapping[Pair, str]


async def ask(request: Request, rows: Iterable[FlowRow]) -> Known:
    """What is known for these flows. Raises RequestError."""
    return Known(await ask_guests(request), await ask_names(request, pairs(rows)))


async def ask_guests(request: Request) -> dict[str, tuple[str, int]]:
    """The MAC address and the number of each guest, by address. Raises RequestError."""
    answer = messages.NeighborsAnswer.decode(await request(DEMUX, messages.Neighbors()))
    return {addr: (str(mac), int(guest)) for addr, (mac, guest) in answer.neighbors.items()}


def pairs(rows: Iterable[FlowRow]) -> list[Pair]:
    """The pairs whose name may be known, each once. Clients of forwards have none."""
    return list(dict.fromkeys((row.guest_address, row.address) for row in rows if row.direction == OUT))


async def ask_names(request: Request, wanted: list[Pair]) -> dict[Pair, str]:
    """The names by which the guests learnt these addresses. Raises RequestError."""
    names: dict[Pair, str] = {}
    for at in range(0, len(wanted), PAIRS_A_REQUEST):
        part = wanted[at : at + PAIRS_A_REQUEST]
        ask = flow_messages.Names([list(pair) for pair in part])
        answer = flow_messages.NamesAnswer.decode(await request(RESOLVER, ask))
        names.update({pair: name for pair, name in zip(part, answer.names, strict=True) if name})
    return names
