"""Passes on to egress and the resolver which inner address stands for which own one (pipeline.engines.apart).

Ingress says so before its first record with the inner address. Demux remembers it for successors of the other
workers.
"""

from collections.abc import Sequence

from pipeline.ipc.ring import Producer
from pipeline.records.guests import Renamed
from pipeline.stages.demux.network import Network


class RenamedGuests:
    """The inner addresses of all links."""

    def __init__(self, network: Network) -> None:
        self._rings = [*network.egress_out, network.resolver_out]
        self._of_link: dict[int, list[Renamed]] = {}

    def __len__(self) -> int:
        return sum(len(renamed) for renamed in self._of_link.values())

    def add(self, renamed: Renamed) -> None:
        """Ingress has given a guest an inner address. A successor of ingress says so again."""
        of_link = self._of_link.setdefault(renamed.link, [])
        if all((renamed.is_mac, renamed.inner) != (each.is_mac, each.inner) for each in of_link):
            of_link.append(renamed)
        for ring in self._rings:
            ring.push(renamed.pack())

    def forget_link(self, link: int) -> None:
        """The link is gone."""
        self._of_link.pop(link, None)

    def report_all(self, rings: Sequence[Producer]) -> None:
        """Tell all of it to workers that know nothing, over these rings."""
        for of_link in self._of_link.values():
            for renamed in of_link:
                for ring in rings:
                    ring.push(renamed.pack())
