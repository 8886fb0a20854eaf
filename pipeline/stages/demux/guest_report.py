"""What the supervisor asks demux about guests: what they have here, and by which addresses they are known."""

from collections.abc import Iterable, Mapping
from heapq import nsmallest
from typing import Final

from pipeline.engines.neighbors.table import Neighbors
from pipeline.ipc import messages
from pipeline.wire import ethernet, ip

MAX_NAMES: Final = 16
"""Addresses of one kind that are reported for a guest. It may have made up hundreds."""


def answer(
    links: Mapping[int, int],
    cam: Mapping[bytes, int],
    neighbors: Mapping[int, tuple[bytes, int]],
    udp_flows: Mapping[int, int],
) -> messages.GuestsAnswer:
    """The answer to Guests.

    links: the guest of each link. cam: the link of each MAC address. neighbors: MAC address and link of each
    address. udp_flows: of each guest.
    """
    macs: dict[int, list[bytes]] = {}
    for mac, link in cam.items():
        macs.setdefault(links.get(link, link), []).append(mac)
    addrs: dict[int, list[int]] = {}
    for addr, (_, link) in neighbors.items():
        addrs.setdefault(links.get(link, link), []).append(addr)
    counts = {guest: len(found) for guest, found in addrs.items()}
    return messages.GuestsAnswer(
        messages.GuestsAnswer.of({"addresses": counts, "udp_flows": udp_flows}).guests,
        None,
        {str(guest): [ethernet.mac_text(mac) for mac in found[:MAX_NAMES]] for guest, found in macs.items()},
        {
            str(guest): [ip.text(addr) for addr in nsmallest(MAX_NAMES, found)]
            for guest, found in addrs.items()
        },
    )


def neighbors(links: Mapping[int, int], table: Neighbors, wanted: Iterable[str]) -> messages.NeighborsAnswer:
    """The answer to Neighbors. links: the guest of each link. wanted: addresses. Raises ValueError."""
    found: dict[str, list[str | int]] = {}
    for text in wanted:
        neighbor = table.get(ip.parse(text))
        if neighbor is not None:
            found[text] = [ethernet.mac_text(neighbor.mac), links.get(neighbor.link, neighbor.link)]
    return messages.NeighborsAnswer(found)
