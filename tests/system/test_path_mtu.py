"""The MTU of the path to another host."""

import pytest

from pipeline.system import path_mtu


def test_loopback_takes_long_packets_of_both_families() -> None:
    assert path_mtu.toward("127.0.0.1") > 1500
    assert path_mtu.toward("::1") > 1500


def test_the_shortest_path_counts_and_hosts_without_a_route_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"a": 1500, "b": 1420}

    def toward(address: str) -> int:
        if address not in known:
            raise OSError("no route")
        return known[address]

    monkeypatch.setattr(path_mtu, "toward", toward)
    assert path_mtu.shortest(["a", "b", "c"]) == 1420
    assert path_mtu.shortest(["c"]) == path_mtu.USUAL
