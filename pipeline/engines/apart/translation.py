"""What becomes of addresses and MACs in frames from a link, and in frames to it (rewrite.py)."""

from pipeline.engines.apart.table import Claims, LinkNames


class Translation:
    """One direction of one link."""

    def __init__(self, names: LinkNames, claims: Claims | None = None) -> None:
        """claims: of frames from the link, whose sources count as claims. None: of frames to it."""
        self._names = names
        self._claims = claims
        self.inward = claims is not None
        """Whether own names become inner ones. Else inner names become own ones."""

    def source(self, addr: int) -> int:
        """What stands for an address that the sender says is its own. Raises WireError."""
        if self._claims is None:
            return addr
        return self._claims.source(self._names, addr)

    def source_mac(self, mac: bytes) -> bytes:
        """The same for a MAC address."""
        if self._claims is None:
            return mac
        return self._claims.source_mac(self._names, mac)

    def known(self, addr: int) -> int:
        """What stands for an address of the guest, which nobody claims by this frame."""
        if self.inward:
            return self._names.inner_addrs.get(addr, addr)
        return self._names.own_addrs.get(addr, addr)

    def known_mac(self, mac: bytes) -> bytes:
        """The same for a MAC address."""
        if self.inward:
            return self._names.inner_macs.get(mac, mac)
        return self._names.own_macs.get(mac, mac)
