"""Messages of DHCP that wait until the fleet has chosen an address for their client.

The supervisor asks the fleet (pipeline.fleet). A client has one message here, its newest. A message waits for
WAIT_S at most, and is then forgotten: clients repeat theirs.
"""

from contextlib import suppress
from typing import Final, NamedTuple

from pipeline.ipc import fleet_messages
from pipeline.stages.worker import Worker

WAIT_S: Final = 5.0
MAX_WAITING: Final = 256
MAX_A_LINK: Final = 64
"""Messages of one link that wait. So a guest with many MAC addresses leaves room for others."""


class Waiting(NamedTuple):
    """A message: its bytes, the link over which it came, and its sender."""

    payload: bytes
    link: int
    guest_addr: int
    guest_port: int
    until: float
    seconds: float = 0.0
    """For which the fleet was asked."""


class FleetQuestions:
    """These messages, by the MAC address of their client."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._waiting: dict[bytes, Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def ask(self, mac: bytes, seconds: float, message: Waiting, now: float) -> bool:
        """Ask the fleet for an address for so many seconds. False if too many messages wait."""
        if mac not in self._waiting and len(self._waiting) >= MAX_WAITING:
            for client in [client for client, each in self._waiting.items() if each.until <= now]:
                del self._waiting[client]
            if len(self._waiting) >= MAX_WAITING:
                return False
        if mac not in self._waiting and self._count(message.link, now) >= MAX_A_LINK:
            return False
        before = self._waiting.get(mac)
        if before is not None and before.until > now and before.seconds >= seconds:
            # The answer that is on its way is for this message too. So a flood causes few questions.
            self._waiting[mac] = message._replace(seconds=before.seconds)
            return True
        self._waiting[mac] = message._replace(seconds=seconds)
        self._worker.send_event(fleet_messages.LeaseWantedEvent(mac, float(seconds)).encode())
        return True

    def _count(self, link: int, now: float) -> int:
        return sum(each.link == link and each.until > now for each in self._waiting.values())

    def answered(self, mac: bytes, now: float) -> Waiting | None:
        """The fleet has answered: the message of the client, if it still waits."""
        found = self._waiting.pop(mac, None)
        return found if found is not None and found.until > now else None

    def forget_link(self, link: int) -> None:
        """The link is gone, and another guest may get its number."""
        for client in [client for client, each in self._waiting.items() if each.link == link]:
            del self._waiting[client]

    def over(self, mac: bytes, addr: bytes, *, declined: bool) -> None:
        """A client has given its address back."""
        with suppress(OSError):
            self._worker.send_event(fleet_messages.LeaseOverEvent(mac, addr, declined).encode())
