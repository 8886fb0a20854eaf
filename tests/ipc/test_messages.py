"""Control messages: a map and back, what is left out, and what is refused."""

from typing import Any

import msgpack
import pytest

from pipeline.ipc import messages
from pipeline.ipc.messages import Message, MessageError

EVERY = [
    messages.Stop(),
    messages.Audit(),
    messages.Attach(b"head", "@", "le16"),
    messages.Attach(b"", "@", "le16", "1"),
    messages.Open("vpnkit", True, {"uuid": b"123456"}),
    messages.Open("qemu", False),
    messages.DnsAdd({"Name": "a.", "Records": [], "DefaultIP": ""}),
    messages.ServeTcp("192.168.127.2:1", 7),
    messages.Expose("tcp", ":1", "1.2.3.4:5"),
    messages.Expose("tcp", "a:1", "1.2.3.4:5", 2, ["127.0.0.1"]),
    messages.Tunnel("1.2.3.4", 5),
    messages.Accepted(bytes(16), 2, b""),
    messages.UdpForward("k", bytes(16), 2),
    messages.GuestEvent("left", "qemu", "EOF", "@", "bye"),
    messages.GuestEvent("failed", "qemu", "no"),
    messages.MacEvent("seen", "02:00:00:00:00:01"),
    messages.ServiceEvent("dns", "192.168.127.2:1", 7, 3),
]


def decoded(found: dict[str, Any]) -> Message | None:
    return messages.request_of(found) or messages.event_of(found)


@pytest.mark.parametrize("message", EVERY, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_from_its_packet(message: Message) -> None:
    found = msgpack.unpackb(msgpack.packb(message.encode()))
    assert decoded({"id": 3, **found}) == message


def test_every_request_and_event_has_a_name_of_its_own() -> None:
    classes = [cls for cls in vars(messages).values() if isinstance(cls, type) and issubclass(cls, Message)]
    names = [(cls.KEY, cls.NAME) for cls in classes if cls.NAME]
    assert len(names) == len(set(names))
    for key, name in names:
        known = messages._REQUESTS if key == "op" else messages._EVENTS
        assert name == known[name].NAME, "it is in the table"


def test_an_optional_field_that_is_none_is_left_out_and_a_needed_one_is_not() -> None:
    assert messages.Expose("tcp", ":1", "a:1").encode() == {
        "op": "expose",
        "protocol": "tcp",
        "local": ":1",
        "remote": "a:1",
    }
    assert messages.AuditAnswer(1, 1, 0, None, {}).encode() == {
        "slots": 1,
        "free": 1,
        "refs_out": 0,
        "wrong": None,
        "held": {},
    }


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"op": "nothing"},
        {"op": ["tunnel"], "ip": "1.2.3.4", "port": 1},
        {"op": "tunnel", "ip": "1.2.3.4"},
        {"op": "tunnel", "ip": "1.2.3.4", "port": "1"},
        {"op": "tunnel", "ip": "1.2.3.4", "port": 1, "head": "text"},
        {"op": "expose", "protocol": "tcp", "local": ":1", "remote": None},
        {"event": "mac", "change": "seen"},
    ],
)
def test_what_is_not_a_message_is_none(found: dict[str, Any]) -> None:
    assert decoded(found) is None


def test_an_answer_of_another_shape_is_an_error_that_names_the_field() -> None:
    assert messages.CamAnswer.decode({"cam": {"a": 1}, "id": 1, "ok": True}) == messages.CamAnswer({"a": 1})
    with pytest.raises(MessageError, match="CamAnswer: cam is None"):
        messages.CamAnswer.decode({"id": 1, "ok": True})
