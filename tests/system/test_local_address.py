"""Which addresses an interface of this host has, as the kernel says. Nothing is sent."""

import pytest

from pipeline.system import local_address
from pipeline.system.local_address import KNOWN_S, MAX_KNOWN, LocalAddresses, is_local
from pipeline.wire import ip


@pytest.mark.parametrize("text", ["127.0.0.1", "127.9.8.7", "::1"])
def test_addresses_of_the_loopback_are_this_hosts(text: str) -> None:
    assert is_local(ip.parse(text))


@pytest.mark.parametrize("text", ["192.0.2.1", "2001:db8::1", "255.255.255.255", "224.0.0.1", "fe80::1"])
def test_other_addresses_are_not(text: str) -> None:
    assert not is_local(ip.parse(text))


def test_an_answer_is_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    asked: list[int] = []
    monkeypatch.setattr(local_address, "monotonic", lambda: now)
    monkeypatch.setattr(local_address, "is_local", lambda addr: asked.append(addr) or addr == 1)
    known = LocalAddresses()
    assert [known.has(1), known.has(1), known.has(2)] == [True, True, False]
    assert asked == [1, 2]
    now += KNOWN_S
    assert known.has(1)
    assert asked == [1, 2, 1]
    for addr in range(3 * MAX_KNOWN):
        known.has(addr)
    assert len(asked) <= 3 * MAX_KNOWN + 3
