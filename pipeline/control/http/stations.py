"""Which addresses are those of one guest: demux knows them by the MAC address."""

from pipeline.control.forward_texts import is_number
from pipeline.control.forwarder import Owner
from pipeline.control.workers import Request
from pipeline.ipc import messages


class Stations:
    """Asks demux."""

    def __init__(self, request: Request) -> None:
        self._request = request

    async def has(self, guest: Owner, address: str) -> bool:
        """Whether a guest has an address: that of its connection, or another one of the same MAC address.

        Both addresses must be that guest's now. DHCP may have given the address of an old connection to
        another guest. Raises RequestError.
        """
        if address == guest.address:
            return True
        pair = [guest.address, address]
        if not all(map(is_number, pair)):
            return False
        answer = messages.NeighborsAnswer.decode(await self._request("demux", messages.Neighbors(pair)))
        own, other = (answer.neighbors.get(text) for text in pair)
        return own is not None and own == other and own[1] == guest.guest
