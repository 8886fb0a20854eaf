"""Control messages: a map and back, what is left out, and what is refused."""

import pkgutil
import re
from importlib import import_module
from typing import Any

import msgpack
import pytest

from pipeline import ipc
from pipeline.ipc import forward_messages, message_table, messages
from pipeline.ipc.messages import Event, Message, MessageError, Request

EVERY = [
    messages.Stop(),
    messages.Audit(),
    messages.Attach(b"head", "@", "le16"),
    messages.Attach(b"", "@", "le16", "1"),
    messages.Open("vpnkit", True, {"uuid": b"123456"}),
    messages.Open("qemu", False),
    messages.DnsAdd({"Name": "a.", "Records": [], "DefaultIP": ""}),
    messages.ServeTcp("192.168.127.2:1", 7),
    forward_messages.Expose("tcp", ":1", "1.2.3.4:5"),
    forward_messages.Expose("tcp", "a:1", "1.2.3.4:5", 2, ["127.0.0.1"]),
    forward_messages.Tunnel("1.2.3.4", 5),
    forward_messages.Accepted(bytes(16), 2, b""),
    forward_messages.UdpForward("k", bytes(16), 2),
    messages.GuestEvent("left", "qemu", "EOF", "@", "bye"),
    messages.GuestEvent("failed", "qemu", "no"),
    messages.MacEvent("seen", "02:00:00:00:00:01"),
    messages.ServiceEvent("dns", "192.168.127.2:1", 7, 3),
]


def decoded(found: dict[str, Any]) -> Message | None:
    return message_table.request_of(found) or message_table.event_of(found)


@pytest.mark.parametrize("message", EVERY, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_from_its_packet(message: Message) -> None:
    found = msgpack.unpackb(msgpack.packb(message.encode()))
    assert decoded({"id": 3, **found}) == message


def test_every_request_and_event_of_a_worker_is_in_the_table_under_a_name_of_its_own() -> None:
    files = [module.name for module in pkgutil.iter_modules(ipc.__path__) if module.name.endswith("messages")]
    files.remove("handover_messages")  # these go from one supervisor to the next
    modules = [import_module(f"{ipc.__name__}.{name}") for name in files]
    classes = [cls for module in modules for cls in vars(module).values() if isinstance(cls, type)]
    for base, known in ((Request, message_table.REQUESTS), (Event, message_table.EVENTS)):
        named = {cls for cls in classes if issubclass(cls, base) and cls.NAME}
        assert set(known.values()) == named
        assert known == {cls.NAME: cls for cls in named}


def test_the_overview_names_each_request_and_no_other() -> None:
    assert message_table.__doc__ is not None
    _, _, table = message_table.__doc__.partition("==\nto ")
    named = set(re.findall(r"\b[A-Z]\w+", table))
    assert named == {cls.__name__ for cls in message_table.REQUESTS.values()}


def test_an_optional_field_that_is_none_is_left_out_and_a_needed_one_is_not() -> None:
    assert forward_messages.Expose("tcp", ":1", "a:1").encode() == {
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
