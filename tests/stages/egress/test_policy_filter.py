"""Refusals of the egress policy: each is counted, and each guest has log lines of its own."""

from ipaddress import IPv4Network
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from pipeline.config.model import EgressPolicy, PolicyRule
from pipeline.counters import INDEX, TABLE
from pipeline.stages.egress import policy_filter
from pipeline.stages.egress.policy_filter import LOG_SPACING, MAX_LOGGED, PolicyFilter
from pipeline.wire import ip

NOISY, OTHER, TO = map(ip.parse_ipv4, ("192.168.127.2", "192.168.127.3", "10.0.0.1"))


def made() -> tuple[PolicyFilter, list[int]]:
    counts = [0] * len(TABLE)
    worker: Any = SimpleNamespace(counts=counts, log=structlog.get_logger())
    return PolicyFilter(worker, EgressPolicy(default="deny")), counts


def test_a_noisy_guest_hides_no_refusal_of_another_and_every_refusal_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(policy_filter, "monotonic", lambda: now)
    judge, counts = made()
    with capture_logs() as lines:
        for _ in range(1000):
            assert judge.refuses(NOISY, TO, 80, "tcp")
        assert judge.refuses(OTHER, TO, 0, "icmp")
        now += LOG_SPACING
        assert judge.refuses(NOISY, TO, 443, "udp")
    assert [(line["guest_address"], line["to"], line["unlogged"]) for line in lines] == [
        ("192.168.127.2", "10.0.0.1:80", 0),
        ("192.168.127.3", "10.0.0.1", 0),
        ("192.168.127.2", "10.0.0.1:443", 999),
    ]
    assert {line["rule"] for line in lines} == {"egress-policy.default"}
    assert counts[INDEX["egress_flow_refused_policy"]] == 1002


def test_the_addresses_that_are_remembered_have_a_bound() -> None:
    judge, _ = made()
    with capture_logs():
        for guest in range(3 * MAX_LOGGED + 1):
            assert judge.refuses(guest, TO, 80, "tcp")
    assert len(judge._logged) == 1


def test_a_rule_about_a_static_address_of_a_duid_holds_from_the_first_report_of_its_station_on() -> None:
    mac, of_mac, of_duid, own = b"\2\0\0\0\0\1", *(ip.parse(f"fd00::{n}") for n in (5, 6, 7))
    network: Any = SimpleNamespace(
        dhcp_static_leases={},
        ipv6_mac_leases={of_mac: mac},
        **dict.fromkeys(("host_ip", "gateway_ip", "name_server"), 0),
        **dict.fromkeys(("ipv6_host", "ipv6_gateway", "name_server6", "ipv6_first"), 0),
        gateway_virtual_ips=(),
        nat={},
        subnet=IPv4Network("192.168.127.0/24"),
    )
    worker: Any = SimpleNamespace(counts=[0] * len(TABLE), log=structlog.get_logger())
    rules = (PolicyRule("deny", guests=("fd00::6",)),)
    judge = PolicyFilter(worker, EgressPolicy("allow", rules), network)
    judge.stations.learn(own, mac, 1)
    assert set(judge.stations.addresses_of(own)) == {own, of_mac}
    assert not judge.refuses(own, TO, 80, "tcp")
    judge.stations.learn(of_duid, mac, 1)
    assert judge.refuses(own, TO, 80, "tcp") == "egress-policy.rules[0]"
