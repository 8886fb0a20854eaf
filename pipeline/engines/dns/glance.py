"""Reads the name and the addresses of the gateway's own replies, and nothing else.

answers.py parses a reply in full, which costs twenty times as much.
"""

import struct
from typing import Final

from pipeline.engines.dns.answers import asked
from pipeline.wire import ip

_HEADER_LEN: Final = 12
_COUNTS: Final = struct.Struct("!4x2H4x")
_RECORD: Final = struct.Struct("!2HIH")
_IN: Final = 1
_SIZES: Final = {1: 4, 28: 16}
"""Bytes of an address, by the type of its record: A, AAAA."""
_POINTER: Final = 0xC0


def question(payload: bytes) -> bytes:
    """The head of a reply with its first question alone, which is enough for name_asked()."""
    try:
        end = _after_name(payload, _HEADER_LEN)
    except IndexError:
        return b""
    return payload[:end]


def name_asked(payload: bytes) -> str:
    """The name that was asked for as text, in lower case; "" if there is none. Strange bytes are escaped."""
    labels = asked(payload)
    if not labels:
        return ""
    import dns.exception  # noqa: PLC0415  see message.py
    import dns.name  # noqa: PLC0415  see message.py

    try:
        return dns.name.Name(labels).to_text().lower()
    except dns.exception.DNSException:
        return ""


def addresses(payload: bytes) -> list[int]:
    """The addresses in the answer section, up to where it cannot be parsed."""
    found = []
    try:
        questions, answers = _COUNTS.unpack_from(payload)
        at = _HEADER_LEN
        for _ in range(questions):
            at = _after_name(payload, at) + 4
        for _ in range(answers):
            at = _after_name(payload, at)
            rdtype, rdclass, _, length = _RECORD.unpack_from(payload, at)
            at += _RECORD.size
            if rdclass == _IN and length == _SIZES.get(rdtype) and at + length <= len(payload):
                bits = int.from_bytes(payload[at : at + length], "big")
                found.append(ip.from_ipv4(bits) if length == 4 else bits)
            at += length
    except (struct.error, IndexError):
        return found
    return found


def _after_name(payload: bytes, at: int) -> int:
    """Where the name at this offset ends. Raises IndexError."""
    while length := payload[at]:
        if length >= _POINTER:
            return at + 2
        at += 1 + length
    return at + 1
