"""Events for consumers at the servers: their subjects, and what happens while nobody takes them."""

import json
from typing import Any

import pytest

pytest.importorskip("nats")

from pipeline.control.hub import Happened
from pipeline.fleet import feed as feed_module
from pipeline.fleet.feed import KINDS, EventFeed


class FakeHub:
    def __init__(self) -> None:
        self.kinds: frozenset[str] = frozenset()
        self.put: Any = None

    def subscribe(self, kinds: Any, put: Any) -> Any:
        self.kinds, self.put = frozenset(kinds), put
        return lambda: setattr(self, "put", None)


def test_an_event_has_a_subject_and_the_object_of_the_api() -> None:
    hub: Any = FakeHub()
    feed = EventFeed(hub, "lab", "alpha")
    hub.put(Happened("lease-given", 0.0, "resolver", {"mac": "02:00:00:00:00:01"}))
    ((subject, content),) = feed.take()
    assert subject == "gvtap.lab.alpha.lease-given"
    assert json.loads(content)["mac"] == "02:00:00:00:00:01"
    assert feed.take() == []
    feed.stop()
    assert hub.put is None


def test_leases_flows_and_the_fleet_are_among_them() -> None:
    assert {"lease-given", "lease-released", "flow-closed", "guest-mac-seen", "fleet-host-joined"} <= KINDS
    assert "flow-opened" not in KINDS


def test_what_nobody_takes_is_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MAX_QUEUED", 3)
    hub: Any = FakeHub()
    feed = EventFeed(hub, "lab", "alpha")
    for number in range(5):
        hub.put(Happened("lease-given", 0.0, "resolver", {"number": number}))
    contents = [json.loads(content) for _, content in feed.take()]
    assert [each["number"] for each in contents] == [2, 3, 4]
    assert [each.get("lost") for each in contents] == [2, None, None]
