"""Limits that follow the memory of the system."""

from pipeline.config import derived, merge, options
from pipeline.config.limits import MIB, Limits
from pipeline.go import flags
from pipeline.system import memory


def test_with_much_memory_the_defaults_hold() -> None:
    assert derived.limits((), 2048 * MIB) == {}


def test_with_little_memory_limits_are_lower_and_all_are_allowed() -> None:
    found = derived.limits((), 256 * MIB)
    assert found == {
        "max_receive_memory": 16 * MIB,
        "max_receive_memory_per_guest": 8 * MIB,
        "max_closing_bytes": 4 * MIB,
        "max_tcp_flows": 8192,
        "max_tcp_flows_per_guest": 6144,
    }
    least = derived.limits((), 1)
    assert Limits(**least).max_receive_memory_per_guest >= MIB


def test_what_the_user_sets_wins(monkeypatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 256 * MIB)
    parsed = flags.parse(options.START, ["-limit", "max-tcp-flows=20000"])
    config, _ = merge.build(parsed, [])
    assert (config.limits.max_tcp_flows, config.limits.max_tcp_flows_per_guest) == (20000, 6144)
    assert config.limits.max_receive_memory == 16 * MIB
