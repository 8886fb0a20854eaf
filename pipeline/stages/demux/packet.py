"""One whole IP packet in a slot, which a guest sent to or through the gateway."""

from pipeline.wire.ip_header import IpHeader


class Packet:
    """A packet that demux reads itself: GRO did not merge it, or it was reassembled.

    link, mac: the guest that sent it.
    off: where its header begins. begin, end: where its payload begins and ends.
    partial: the guest's kernel left the UDP checksum to its network card, so it is not complete.
    """

    def __init__(self, header: IpHeader, link: int, mac: bytes, slot: int, off: int, partial: bool) -> None:
        self.header = header
        self.link = link
        self.mac = mac
        self.slot = slot
        self.off = off
        self.begin = header.begin
        self.end = header.end
        self.partial = partial
