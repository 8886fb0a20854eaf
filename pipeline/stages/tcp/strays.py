"""Connections that end with a change of supervisors: their ends as the workers of two versions write them."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from pipeline.ipc import healing_messages
from pipeline.records.addresses import addr_bytes, addr_of
from pipeline.records.flows import Ends, FlowKey, flow_key
from pipeline.stages.worker import Worker

MOST: Final = 20_000
"""Guests of further connections notice the end with their next segment."""


def report(worker: Worker, keys: Iterable[FlowKey]) -> None:
    """Report the connections with these keys to the supervisor."""
    ends: list[list[object]] = []
    for key in keys:
        if len(ends) == MOST:
            break
        pair = Ends.of(key)
        ends.append(
            [addr_bytes(pair.guest_addr), pair.guest_port, addr_bytes(pair.remote_addr), pair.remote_port]
        )
    # A long message needs a descriptor.
    with suppress(OSError):
        worker.send_event(healing_messages.ConnectionsEvent(ends).encode())


def keys_of(ask: healing_messages.EndStrays) -> Iterator[FlowKey]:
    """The keys in a request. Rows of another form are left out."""
    for row in ask.ends:
        match row:
            case [bytes() as guest, int() as guest_port, bytes() as remote, int() as remote_port]:
                yield flow_key(addr_of(guest), guest_port & 0xFFFF, addr_of(remote), remote_port & 0xFFFF)
