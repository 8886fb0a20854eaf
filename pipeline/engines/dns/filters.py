"""Judges the answers of upstream servers: may a name of the Internet have this address?

An outside name that leads to an address inside makes a guest's program talk to a service that was not meant
(DNS rebinding). The whole answer is refused then, also if one record of a chain is wrong. Addresses count in
A and AAAA records of all sections, and as hints in HTTPS and SVCB records. So does an alias that leads to a
name of a local zone, which a guest might ask for next.
"""

import struct
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Final, NamedTuple

from pipeline.engines.dns import message as m
from pipeline.engines.dns.message import HEADER, RECORD, Body, Query
from pipeline.wire import ip

FORBIDDEN: Final = "dns_query_refused_rebinding"
"""The counter of answers that are refused."""
KEPT_S: Final = 30
"""Seconds for which a refused answer is kept, so that the servers are not asked again at once."""

_A: Final = 1
_CNAME: Final = 5
_DNAME: Final = 39
_AAAA: Final = 28
_SVCB: Final = (64, 65)
_HINTS: Final = {4: 4, 6: 16}
"""Bytes of an address, by the key of the hint."""
_POINTER: Final = 0xC0
_PARAM: Final = struct.Struct("!HH")
_MOST_LABELS: Final = 128

Labels = Sequence[bytes]


class _Record(NamedTuple):
    rdtype: int
    at: int
    end: int
    """Where its data is, in the message that _records() gets."""


class AnswerFilter:
    """What is refused, and what is removed. Without settings that is nothing."""

    def __init__(
        self,
        is_inner: Callable[[int], bool] = lambda addr: False,
        is_inner_name: Callable[[Labels], bool] = lambda labels: False,
    ) -> None:
        """is_inner: of an address. is_inner_name: whether a name is one of this network."""
        self._is_inner = is_inner
        self._is_inner_name = is_inner_name
        self.denies = False
        """Whether outside names must not lead inside."""
        self.may_be_inner: Callable[[Labels], bool] = lambda labels: False
        """Names of the Internet that may lead inside all the same."""
        self.rcode = m.REFUSED
        self.removed: Set[str] = frozenset()
        """Parts that HTTPS and SVCB records lose: "ech", "h3" (services.py)."""

    def judge(self, query: Query, body: Body) -> Body:
        """The answer, or a refusal in its place."""
        if not self.denies or not body.records or self.may_be_inner(query.labels):
            return body
        message = bytes(HEADER.size) + query.question + body.records
        begin = HEADER.size + len(query.question)
        try:
            wrong = any(self._leads_inside(message, record) for record in _records(message, begin, body))
        except (IndexError, struct.error):
            wrong = True
        return Body(self.rcode, lifetime=KEPT_S, forbidden=True) if wrong else body

    def _leads_inside(self, message: bytes, record: _Record) -> bool:
        rdtype, at, end = record
        if rdtype in (_A, _AAAA):
            return self._is_inner(_address(message[at:end]))
        if rdtype in (_CNAME, _DNAME):
            return self._is_inner_name(_name(message, at)[0])
        if rdtype in _SVCB:
            return any(map(self._is_inner, _hints(message, at, end)))
        return False


def _records(message: bytes, begin: int, body: Body) -> Iterator[_Record]:
    """The records of a body, which stands at ``begin``."""
    at = begin
    for end in body.ends:
        at = _name(message, at)[1]
        rdtype = RECORD.unpack_from(message, at)[0]
        yield _Record(rdtype, at + RECORD.size, begin + end)
        at = begin + end


def _name(message: bytes, at: int) -> tuple[list[bytes], int]:
    """The labels of a name, perhaps compressed, and where it ends. Raises IndexError."""
    labels: list[bytes] = []
    end = 0
    while (length := message[at]) and len(labels) < _MOST_LABELS:
        if length >= _POINTER:
            end = end or at + 2
            target = (length & ~_POINTER) << 8 | message[at + 1]
            if target >= at:
                raise IndexError("a pointer forward")
            at = target
            continue
        labels.append(message[at + 1 : at + 1 + length])
        at += 1 + length
    return labels, end or at + 1


def _address(data: bytes) -> int:
    return ip.from_ipv4(int.from_bytes(data, "big")) if len(data) == 4 else int.from_bytes(data, "big")


def _hints(message: bytes, at: int, end: int) -> Iterator[int]:
    """The addresses that an HTTPS or SVCB record hints at (RFC 9460 section 7.3)."""
    at = _name(message, at + 2)[1]
    while at < end:
        key, length = _PARAM.unpack_from(message, at)
        at += _PARAM.size
        if size := _HINTS.get(key, 0):
            for begin in range(at, at + length - size + 1, size):
                yield _address(message[begin : begin + size])
        at += length
