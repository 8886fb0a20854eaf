"""Finds the name that a QUIC connection states: the TLS hello in its Initial packets (RFC 9001 section 5.2).

The keys of Initial packets follow from the connection id that the client chose. So anyone on the way can read
them. The hello may be in several packets, and its pieces in any order. Sans-IO: the owner calls read() with
each datagram, until the answer is not MORE.
"""

from collections.abc import Callable
from typing import Final

from pipeline.wire import quic_initial, tls_hello
from pipeline.wire.quic_initial import Crypto, Packet
from pipeline.wire.stated import CONTRADICTION, MORE, QUIC, UNKNOWN, WAITING, Stated

MAX_PIECES: Final = 64
"""The most pieces of one hello. Chromium sends fewer than 20."""
MAX_PACKETS: Final = 16
"""The most Initial packets that are decrypted for one connection."""

_SALTS: Final = {
    quic_initial.VERSION_1: bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"),
    quic_initial.VERSION_2: bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"),
}
_LABELS: Final = {quic_initial.VERSION_1: "quic", quic_initial.VERSION_2: "quicv2"}
_BROKEN: Final = Stated(CONTRADICTION, protocol=QUIC)
_PN_BITS: Final = 0x03
_PROTECTED: Final = 0x0F

Opener = Callable[[bytes, Packet, int], bytes | None]
"""Decrypts the packet of a datagram that begins at an offset. None if the keys do not fit."""


class Initials:
    """The reader of one flow of datagrams."""

    def __init__(self) -> None:
        self._open: Opener | None = None
        self._version = 0
        self._pieces: list[Crypto] = []
        self._packets = 0

    def read(self, datagram: bytes) -> Stated:
        """What the flow states after this datagram."""
        at = 0
        while at < len(datagram):
            packet = quic_initial.packet_at(datagram, at)
            if packet is None:
                # Bytes after the last packet are padding. At the beginning, it is another protocol.
                break
            if packet.initial:
                found = self._read_packet(datagram, packet, at)
                if found is not WAITING:
                    return found
            at = packet.end
        return WAITING if self._packets else UNKNOWN

    def _read_packet(self, datagram: bytes, packet: Packet, at: int) -> Stated:
        if self._open is None:
            self._open = opener(packet.version, packet.dcid)
            self._version = packet.version
        if packet.version != self._version or self._packets >= MAX_PACKETS:
            return _BROKEN
        payload = self._open(datagram, packet, at)
        if payload is None:
            return _BROKEN if self._packets else UNKNOWN
        self._packets += 1
        pieces = quic_initial.crypto_frames(payload)
        if pieces is None:
            return _BROKEN
        self._pieces += pieces
        if len(self._pieces) > MAX_PIECES:
            return _BROKEN
        return self._hello()

    def _hello(self) -> Stated:
        hello = bytearray()
        for offset, data in sorted(self._pieces):
            if offset > len(hello):
                break
            known = len(hello) - offset
            if hello[offset : offset + len(data)] != data[:known]:
                return _BROKEN
            hello += data[known:]
        found = tls_hello.read_message(hello)
        if found.kind in (MORE, CONTRADICTION):
            return WAITING if found.kind == MORE else _BROKEN
        return Stated(found.kind, found.name, QUIC, found.ech)


def load() -> bool:
    """Load the library that decrypts. False if this process can read no files any more."""
    try:
        opener(quic_initial.VERSION_1, b"")
    except (ImportError, OSError):
        return False
    return True


def opener(version: int, dcid: bytes) -> Opener:
    """What decrypts a client's Initial packets of a connection."""
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, hmac  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand  # noqa: PLC0415

    def expand(secret: bytes, label: str, length: int) -> bytes:
        text = b"tls13 " + label.encode()
        info = length.to_bytes(2, "big") + bytes((len(text),)) + text + b"\0"
        return HKDFExpand(hashes.SHA256(), length, info).derive(secret)

    extract = hmac.HMAC(_SALTS[version], hashes.SHA256())
    extract.update(dcid)
    client = expand(extract.finalize(), "client in", 32)
    word = _LABELS[version]
    aead = AESGCM(expand(client, f"{word} key", 16))
    iv = int.from_bytes(expand(client, f"{word} iv", 12), "big")
    # Header protection is one block of AES (RFC 9001 section 5.4.3).
    mask_of = Cipher(algorithms.AES(expand(client, f"{word} hp", 16)), modes.ECB()).encryptor().update

    def open_packet(datagram: bytes, packet: Packet, at: int) -> bytes | None:
        sample_at = packet.pn_at + quic_initial.MAX_PN_LEN
        mask = mask_of(datagram[sample_at : sample_at + quic_initial.SAMPLE_LEN])
        first = datagram[at] ^ mask[0] & _PROTECTED
        pn_end = packet.pn_at + (first & _PN_BITS) + 1
        number = bytes(a ^ b for a, b in zip(datagram[packet.pn_at : pn_end], mask[1:], strict=False))
        head = bytes((first,)) + datagram[at + 1 : packet.pn_at] + number
        nonce = (iv ^ int.from_bytes(number, "big")).to_bytes(12, "big")
        try:
            return aead.decrypt(nonce, datagram[pn_end : packet.end], head)
        except InvalidTag:
            return None

    return open_packet
