"""What each guest has of all workers and of the supervisor, for the path /guests of the API."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from pipeline.control.workers import Request
from pipeline.ipc import messages

KINDS: Final = (
    "addresses",
    "api_connections",
    "bytes_from_guest",
    "bytes_to_guest",
    "dns_connections",
    "forwards",
    "half_open",
    "leases",
    "links",
    "receive_bytes",
    "slots",
    "sockets",
    "tcp_flows",
    "udp_flows",
)
"""What is always listed, so that scripts find it while all guests have nothing of it."""
Sums = Mapping[int, int]
"""A number for each guest, by the guest's number."""


class GuestSums:
    """Asks all workers."""

    def __init__(
        self, request: Request, workers: Iterable[str], own: Mapping[str, Callable[[], Sums]]
    ) -> None:
        """workers: that have something of guests. own: what the supervisor has, by kind."""
        self._request = request
        self._workers = tuple(workers)
        self._own = own

    async def all(self) -> list[dict[str, object]]:
        """For each guest its number, opener and addresses, and the sum of each kind. Raises RequestError.

        A guest without links is gone. It is listed as long as something of it is left. own_addresses: which
        inner addresses stand for which own ones, if there are any (pipeline.engines.apart).
        """
        peers: dict[str, str] = {}
        macs: dict[str, list[str]] = {}
        ips: dict[str, list[str]] = {}
        found: dict[str, dict[str, int]] = {}
        inner: dict[str, dict[str, str]] = {}
        for worker in self._workers:
            answer = messages.GuestsAnswer.decode(await self._request(worker, messages.Guests()))
            peers.update(answer.peers or {})
            macs.update(answer.macs or {})
            ips.update(answer.ips or {})
            inner.update(answer.own or {})
            _add(found, answer.guests)
        own = {kind: sums() for kind, sums in self._own.items()}
        _add(found, messages.GuestsAnswer.of(own).guests)
        kinds = sorted({kind for sums in found.values() for kind in sums}.union(KINDS))
        return [
            {
                "guest": int(guest),
                "opened_by": peers.get(guest, ""),
                "mac_addresses": macs.get(guest, []),
                "ip_addresses": ips.get(guest, []),
            }
            | ({"own_addresses": inner[guest]} if guest in inner else {})
            | {kind: found[guest].get(kind, 0) for kind in kinds}
            for guest in sorted(found, key=int)
        ]


def _add(found: dict[str, dict[str, int]], more: Mapping[str, Mapping[str, int]]) -> None:
    for guest, sums in more.items():
        of_guest = found.setdefault(guest, {})
        for kind, number in sums.items():
            of_guest[kind] = of_guest.get(kind, 0) + number
