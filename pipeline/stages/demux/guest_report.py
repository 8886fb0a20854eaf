"""What each guest has of demux, and by which addresses it is known, for the path /guests of the API."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

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
    IPv4 address. udp_flows: of each guest.
    """
    macs: dict[str, list[str]] = {}
    for mac, link in cam.items():
        _add(macs, links.get(link, link), ethernet.mac_text(mac))
    ips: dict[str, list[str]] = {}
    for addr in sorted(neighbors):
        _, link = neighbors[addr]
        _add(ips, links.get(link, link), ip.text(addr))
    addresses = Counter(links.get(link, link) for _, link in neighbors.values())
    sums = messages.GuestsAnswer.of({"addresses": addresses, "udp_flows": udp_flows})
    return messages.GuestsAnswer(sums.guests, None, macs, ips)


def _add(texts: dict[str, list[str]], guest: int, text: str) -> None:
    found = texts.setdefault(str(guest), [])
    if len(found) < MAX_NAMES:
        found.append(text)
