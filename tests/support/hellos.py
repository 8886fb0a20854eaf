"""TLS ClientHellos and QUIC Initial packets for tests: those of OpenSSL, and some made by hand."""

import ssl
from collections.abc import Iterable, Sequence

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

GREASE = (0x1A1A, b"")
ECH = (0xFE0D, b"\0" + b"\1" * 200)
POST_QUANTUM = (51, b"\x04\xc8\x11\xec\x04\xc4" + b"\7" * 1220)

# RFC 9001 appendix A.1: the keys of a client that chose this connection id.
DCID = bytes.fromhex("8394c8f03e515708")
KEY = bytes.fromhex("1f369613dd76d5467730efcbe3b1a22d")
IV = bytes.fromhex("fa044b2f42a3fd3b46fb255c")
HP = bytes.fromhex("9f50449e04a0e810283a1e9933adedd2")


def of_openssl(name: str | None) -> bytes:
    """The first bytes that OpenSSL sends for a host of this name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    sent = ssl.MemoryBIO()
    made = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    try:
        made.do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()
    raise AssertionError("OpenSSL needs no server")


def server_name(*names: bytes, kind: int = 0) -> tuple[int, bytes]:
    """The extension with these names."""
    listed = b"".join(bytes((kind,)) + len(name).to_bytes(2, "big") + name for name in names)
    return 0, len(listed).to_bytes(2, "big") + listed


def message(extensions: Iterable[tuple[int, bytes]]) -> bytes:
    """A ClientHello as a handshake message."""
    body = b"".join(
        kind.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data for kind, data in extensions
    )
    hello = b"\3\3" + b"r" * 32 + b"\x20" + b"s" * 32 + b"\0\2\x13\1" + b"\1\0"
    hello += len(body).to_bytes(2, "big") + body
    return b"\1" + len(hello).to_bytes(3, "big") + hello


def records(handshake: bytes, size: int = 16384) -> bytes:
    """The message in records of this many bytes each."""
    parts = [handshake[at : at + size] for at in range(0, len(handshake), size)]
    return b"".join(b"\x16\3\1" + len(part).to_bytes(2, "big") + part for part in parts)


def hello(*names: str, extensions: Sequence[tuple[int, bytes]] = (), size: int = 16384) -> bytes:
    """The records of a hello with these names."""
    named = [server_name(*(name.encode() for name in names))] if names else []
    return records(message([GREASE, *named, *extensions]), size)


def varint(value: int) -> bytes:
    """The number as two or four bytes (RFC 9000 section 16)."""
    if value < 1 << 14:
        return (value | 1 << 14).to_bytes(2, "big")
    return (value | 2 << 30).to_bytes(4, "big")


def crypto(offset: int, data: bytes) -> bytes:
    """A CRYPTO frame."""
    return b"\6" + varint(offset) + varint(len(data)) + data


def initial(payload: bytes, number: int = 0, token: bytes = b"", least: int = 1200) -> bytes:
    """An Initial packet of version 1 with these frames, padded."""
    head_len = 1 + 4 + 1 + len(DCID) + 1 + 1 + len(token) + 2
    payload += bytes(max(0, least - head_len - 4 - 16 - len(payload)))
    packed = number.to_bytes(4, "big")
    head = b"\xc3" + b"\0\0\0\1" + bytes((len(DCID),)) + DCID + b"\0" + bytes((len(token),)) + token
    head += varint(4 + len(payload) + 16)
    nonce = (int.from_bytes(IV, "big") ^ number).to_bytes(12, "big")
    sealed = AESGCM(KEY).encrypt(nonce, payload, head + packed)
    mask = Cipher(algorithms.AES(HP), modes.ECB()).encryptor().update(sealed[:16])
    masked = bytes(a ^ b for a, b in zip(packed, mask[1:5], strict=True))
    return bytes((head[0] ^ mask[0] & 0x0F,)) + head[1:] + masked + sealed
