"""SOCKS version 5: what a client sends to a proxy, and what the proxy answers (RFC 1928, RFC 1929).

::

    greeting      05 count methods...                   answer  05 method
    credentials   01 length user length password        answer  01 status
    request       05 command 00 destination             answer  05 reply 00 address

A destination or an address is one byte for its kind, the address, and two bytes for the port. A name has a
byte for its length before it. An ``*_end`` function says where an answer ends, or 0 if bytes are missing.
"""

from typing import Final

VERSION: Final = 5
CREDENTIALS_VERSION: Final = 1
NO_CREDENTIALS: Final = 0
USER_AND_PASSWORD: Final = 2
CONNECT: Final = 1
SUCCEEDED: Final = 0
IPV4: Final = 1
NAME: Final = 3
IPV6: Final = 4
MAX_TEXT: Final = 255
"""Bytes of a name, a user or a password."""
ANSWER_LEN: Final = 2
"""Bytes of the answers to a greeting and to credentials."""

_ADDRESS_LEN: Final = {IPV4: 4, IPV6: 16}
_ADDRESS_AT: Final = 4
_PORT_LEN: Final = 2


def build_greeting(methods: bytes) -> bytes:
    """The first message. methods: those that the client can use."""
    return bytes((VERSION, len(methods))) + methods


def build_credentials(user: bytes, password: bytes) -> bytes:
    """The message of the method USER_AND_PASSWORD (RFC 1929). Each has at most MAX_TEXT bytes."""
    return bytes((CREDENTIALS_VERSION, len(user))) + user + bytes((len(password),)) + password


def build_connect(destination: bytes, port: int, *, is_name: bool) -> bytes:
    """A request for a TCP connection. destination: a name, or an address of 4 or 16 bytes."""
    if is_name:
        where = bytes((NAME, len(destination))) + destination
    else:
        where = bytes((IPV4 if len(destination) == 4 else IPV6,)) + destination
    return bytes((VERSION, CONNECT, 0)) + where + port.to_bytes(_PORT_LEN, "big")


def read_answer(data: bytes, version: int) -> int:
    """The second byte of an answer to a greeting (a method) or to credentials (a status).

    data: at least ANSWER_LEN bytes. Raises ValueError if they are not such an answer.
    """
    if data[0] != version:
        raise ValueError("another version")
    return data[1]


def reply_end(data: bytes) -> int:
    """Where the reply to a request ends; 0 if bytes are missing. Raises ValueError."""
    if data[:1] and data[0] != VERSION:
        raise ValueError("another version")
    if len(data) <= _ADDRESS_AT:
        return 0
    kind = data[3]
    if kind == NAME:
        end = _ADDRESS_AT + 1 + data[_ADDRESS_AT] + _PORT_LEN
    elif kind in _ADDRESS_LEN:
        end = _ADDRESS_AT + _ADDRESS_LEN[kind] + _PORT_LEN
    else:
        raise ValueError("an unknown kind of address")
    return end if len(data) >= end else 0


def reply_code(data: bytes) -> int:
    """The code of a reply. data: at least two bytes of it."""
    return data[1]
