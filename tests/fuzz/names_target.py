"""What the fuzzer of names calls with any bytes: what reads names of flows, and what judges DNS answers.

Nothing may be raised but a WireError of a response. What is cut into pieces has the same name as the whole.
"""

from pipeline.counters import INDEX
from pipeline.engines.dns import message as dns_message
from pipeline.engines.dns.filters import AnswerFilter
from pipeline.engines.dns.responses import upstream_body
from pipeline.engines.groups import Groups
from pipeline.engines.stated.first_bytes import FirstBytes
from pipeline.engines.stated.quic import Initials
from pipeline.wire import quic_initial
from pipeline.wire.errors import WireError
from pipeline.wire.stated import MORE, NAME
from tests.support import hellos

_QUERY = dns_message.HEADER.pack(0, 0, 1, 0, 0, 0) + b"\1a\0" + dns_message.TAIL.pack(65, 1)


def one_input(data: bytes) -> None:
    """The first byte chooses what reads the rest."""
    if data:
        (_stream, _record, _datagram, _payload, _answer)[data[0] % 5](data[1:])


def _stream(data: bytes) -> None:
    """The first bytes of a connection. The first one says where they are cut."""
    if not data:
        return
    cut, data = data[0], data[1:]
    reader = FirstBytes()
    found = reader.read(data[:cut])
    if found.kind == MORE:
        found = reader.read(data)
    whole = FirstBytes().read(data)
    assert whole.kind == MORE or found.name == whole.name
    assert (found.kind == NAME) == bool(found.name)


def _record(data: bytes) -> None:
    """A hello in one TLS record."""
    _stream(b"\7\x16\3\1" + len(data).to_bytes(2, "big") + data)


def _datagram(data: bytes) -> None:
    """A datagram as it comes."""
    packet = quic_initial.packet_at(data, 0)
    assert packet is None or packet.pn_at < packet.end <= len(data)
    Initials().read(data)


def _payload(data: bytes) -> None:
    """The frames of a packet whose keys fit."""
    found = Initials().read(hellos.initial(data, least=0))
    assert (found.kind == NAME) == bool(found.name)


def _answer(data: bytes) -> None:
    """An upstream server's response to a question for HTTPS records."""
    query = dns_message.parse_query(_QUERY, tcp=False)
    assert isinstance(query, dns_message.Query)
    answers = AnswerFilter(Groups().is_inner, lambda labels: bool(labels))
    answers.denies = True
    head = dns_message.HEADER.pack(0, dns_message.QR, 1, 1, 0, 0) + query.question
    for wire in (data, head + data):
        reason = ""
        try:
            body = upstream_body(query, wire, max_ttl=9, max_negative_ttl=9, removed={"ech", "h3"})
            answers.judge(query, body)
        except WireError as error:
            reason = error.reason
        assert not reason or reason in INDEX
