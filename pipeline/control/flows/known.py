"""What the workers that carry a flow do not know about it: the guest's MAC address, and the name of the host.

Demux knows the MAC addresses. The resolver knows which names a guest has asked for.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from pipeline.control.workers import Request
from pipeline.ipc import flow_messages, messages
from pipeline.ipc.flow_rows import OUT, FlowRow
from pipeline.topology import DEMUX, RESOLVER

MOST_A_REQUEST: Final = 512
"""Addresses or pairs of a request: so few that a worker answers within a millisecond."""

T = TypeVar("T")
Pair = tuple[str, str]
"""The address of a guest, and one that it reached."""


class Known(NamedTuple):
    """Guests by address: MAC and number. Names by pair."""

    guests: Mapping[str, tuple[str, int]]
    names: Mapping[Pair, str]


async def ask(request: Request, rows: Sequence[FlowRow]) -> Known:
    """What is known for these flows. Raises RequestError."""
    return Known(await _guests(request, rows), await _names(request, rows))


async def _guests(request: Request, rows: Iterable[FlowRow]) -> dict[str, tuple[str, int]]:
    """The MAC address and the number of each guest, by address."""
    guests: dict[str, tuple[str, int]] = {}
    for part in _parts(dict.fromkeys(row.guest_address for row in rows)):
        answer = messages.NeighborsAnswer.decode(await request(DEMUX, messages.Neighbors(part)))
        guests |= {addr: (str(mac), int(guest)) for addr, (mac, guest) in answer.neighbors.items()}
    return guests


async def _names(request: Request, rows: Iterable[FlowRow]) -> dict[Pair, str]:
    """The names by which the guests learnt the addresses. Clients of forwards have none."""
    wanted = dict.fromkeys((row.guest_address, row.address) for row in rows if row.direction == OUT)
    names: dict[Pair, str] = {}
    for part in _parts(wanted):
        ask = flow_messages.Names([list(pair) for pair in part])
        answer = flow_messages.NamesAnswer.decode(await request(RESOLVER, ask))
        names.update({pair: name for pair, name in zip(part, answer.names, strict=True) if name})
    return names


def _parts(wanted: Iterable[T]) -> Iterator[list[T]]:
    found = list(wanted)
    for at in range(0, len(found), MOST_A_REQUEST):
        yield found[at : at + MOST_A_REQUEST]
