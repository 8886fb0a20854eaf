"""What is told of guests' addresses, and how often."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.counters import INDEX
from pipeline.engines.neighbors.actions import Contested
from pipeline.engines.switch import Switch
from pipeline.events.kind import LEVEL_NAMES
from pipeline.events.table import KINDS
from pipeline.stages.demux import events as demux_events
from pipeline.stages.demux.events import AddressEvents
from pipeline.wire import ip
from pipeline.wire.errors import WireError
from tests.support.frames import GATEWAY_MAC, GUEST_MAC

OTHER_MAC = bytes.fromhex("5a94efe40c99")


class Told:
    """A worker that remembers log lines and events, and a switch with its witness."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []
        self.events: list[dict[str, Any]] = []
        self.counts = [0] * len(INDEX)

        def line(level: str) -> Any:
            return lambda event, **about: self.lines.append((level, event, about))

        self.worker: Any = SimpleNamespace(
            counts=self.counts,
            send_event=self.events.append,
            log=SimpleNamespace(warning=line("warning")),
            events=SimpleNamespace(report=self._report),
        )
        self.switch = Switch(GATEWAY_MAC, max_macs_per_guest=2)
        self.witness = AddressEvents(self.worker, self.switch, GATEWAY_MAC)

    def _report(self, kind: str, **about: Any) -> None:
        row = KINDS[kind]
        assert set(about) == set(row.fields)
        self.lines.append((LEVEL_NAMES[row.level], row.text, about))

    def frame(self, src: bytes, link: int, now: float) -> None:
        """A guest sends; what comes of it is told."""
        try:
            self.switch.on_frame(GATEWAY_MAC, src, link, now)
        except WireError as error:
            self.counts[INDEX[error.reason]] += 1
        self.witness.report_switch()

    def count(self, name: str) -> int:
        return self.counts[INDEX[name]]


@pytest.fixture
def told() -> Told:
    return Told()


def test_coming_and_going_is_told_to_the_log_and_the_supervisor(told: Told) -> None:
    told.frame(GUEST_MAC, 1, 0.0)
    told.frame(GUEST_MAC, 1, 0.1)
    assert told.count("switch_macs") == 1
    told.switch.forget_link(1)
    told.witness.report_switch()
    mac = "5a:94:ef:e4:0c:ee"
    assert told.events == [{"event": "mac", "change": change, "mac": mac} for change in ("seen", "gone")]
    assert told.lines == [
        ("info", "guest mac", {"change": change, "mac": mac, "link": 1}) for change in ("seen", "gone")
    ]
    assert told.count("switch_macs") == 0


def test_two_guests_that_pull_at_one_address_are_counted_each_time_and_told_of_once(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(demux_events, "monotonic", lambda: clock[0])
    told.frame(GUEST_MAC, 1, 0.0)
    told.lines.clear()
    for number in range(1, 5):
        told.frame(GUEST_MAC, 2, number * 4.0)
        for _ in range(2):
            told.switch.on_timer(told.switch.deadline())
        told.frame(GUEST_MAC, 1, number * 4.0 + 2.0)
    assert told.count("switch_mac_moved") == 8
    assert [(level, about["change"]) for level, _, about in told.lines] == [("warning", "contested")]
    clock[0] += demux_events.REFUSED_INTERVAL
    told.frame(GUEST_MAC, 2, 20.0)
    assert len(told.lines) == 2


def test_the_memory_of_what_was_told_is_bounded(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demux_events, "MAX_REPORTED", 3)
    for number in range(50):
        assert told.witness._may_report(bytes([2, 0, 0, 0, 0, number]))
    assert len(told.witness._reported) <= 3


def test_a_claim_of_the_gateways_mac_is_a_warning_and_no_event_for_others(told: Told) -> None:
    for number in range(100):
        told.frame(GATEWAY_MAC, 3, number / 100)
    assert told.lines == [("warning", "gateway mac claimed", {"mac": "5a:94:ef:e4:0c:dd", "link": 3})]
    assert told.events == []
    assert told.count("switch_frame_dropped_gateway_source") == 100


def test_a_full_table_is_counted(told: Told) -> None:
    for number in range(5):
        told.frame(bytes([2, 0, 0, 0, 0, number]), 1, 0.0)
    assert told.count("switch_mac_dropped_table_full") == 3


def test_a_contested_address_is_a_warning_with_both_macs(told: Told) -> None:
    told.witness.report_contested(Contested(ip.parse_ipv4("192.168.127.2"), GUEST_MAC, OTHER_MAC, 4))
    assert told.count("neighbor_claims_contested") == 1
    (line,) = told.lines
    assert line == (
        "warning",
        "address contested",
        {
            "address": "192.168.127.2",
            "owner": "5a:94:ef:e4:0c:ee",
            "claimant": "5a:94:ef:e4:0c:99",
            "link": 4,
        },
    )
