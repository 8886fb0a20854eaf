"""The egress policy in the resolver: questions that no rule allows, and answers that lead inside."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import pytest

from pipeline.config.model import EgressPolicy, PolicyRule, Quota
from pipeline.records import kinds
from pipeline.records.guests import Neighbor, NeighborGone
from pipeline.wire import ip
from tests.support.configured import changed
from tests.support.resolver_rig import GUEST, Rig, query


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, [])
    yield made
    made.close()


def with_policy(rig: Rig, *rules: PolicyRule, **options: Any) -> None:
    rig.stage.reload(changed(rig.config, egress_policy=EgressPolicy("deny", rules, **options)))


def test_a_question_that_no_rule_allows_is_refused_and_does_not_leave_the_host(rig: Rig) -> None:
    with_policy(rig, PolicyRule("allow", names=("www.example.com",)))
    assert rig.ask("www.example.com").rcode() == dns.rcode.NOERROR
    assert rig.upstream.queries == 1
    answer = rig.ask("secrets.evil.test", "TXT")
    assert (answer.rcode(), answer.answer) == (dns.rcode.REFUSED, [])
    assert rig.ask("nas.home").rcode() == dns.rcode.NOERROR, "the hosts file has it"
    assert rig.ask("localhost").rcode() == dns.rcode.NOERROR
    assert rig.upstream.queries == 1
    assert rig.count("dns_query_refused_policy") == 1
    with_policy(rig, PolicyRule("allow", names=("www.example.com",)), questions="nxdomain")
    assert rig.ask("secrets.evil.test").rcode() == dns.rcode.NXDOMAIN
    with_policy(rig, PolicyRule("allow", names=("www.example.com",)), questions="answer")
    assert rig.ask("secrets.evil.test").rcode() == dns.rcode.NOERROR


def test_a_question_is_judged_for_its_guest_although_the_answer_is_known(rig: Rig) -> None:
    with_policy(rig, PolicyRule("allow", names=("www.example.com",), guests=(f"{ip.text(GUEST)}/32",)))
    for _ in range(2):
        assert rig.ask("www.example.com").rcode() == dns.rcode.NOERROR
    rig.send(query("www.example.com"), 53, guest_addr=GUEST + 1)
    assert dns.message.from_wire(rig.reply()[1]).rcode() == dns.rcode.REFUSED
    assert rig.ask("www.example.com").rcode() == dns.rcode.NOERROR


def test_a_guest_asks_from_all_addresses_of_its_mac(rig: Rig) -> None:
    with_policy(rig, PolicyRule("allow", names=("www.example.com",), guests=("192.168.127.9/32",)))
    assert rig.ask("www.example.com").rcode() == dns.rcode.REFUSED
    for addr in (GUEST, GUEST + 7):
        rig.to_stage.push(Neighbor.pack(kinds.NEIGHBOR, addr, b"\2\0\0\0\0\1", 3))
    rig.to_stage.publish()
    rig.breathe()
    assert rig.ask("www.example.com").rcode() == dns.rcode.NOERROR
    rig.to_stage.push(NeighborGone.pack(GUEST + 7))
    rig.to_stage.publish()
    rig.breathe()
    assert rig.ask("www.example.com").rcode() == dns.rcode.REFUSED


def test_an_outside_name_that_leads_inside_is_refused_and_not_asked_again(rig: Rig) -> None:
    with_policy(rig, rebinding="deny")
    for _ in range(2):
        # The server answers each name with 10.1.2.3.
        answer = rig.ask("rebound.example.com")
        assert (answer.rcode(), answer.answer) == (dns.rcode.REFUSED, [])
    assert rig.upstream.queries == 1
    assert rig.count("dns_query_refused_rebinding") == 2
    with_policy(rig, rebinding="deny", inner_names=("*.example.com",))
    assert rig.ask("rebound.example.com").rcode() == dns.rcode.NOERROR


def test_answers_that_were_refused_are_asked_for_again_under_another_policy(rig: Rig) -> None:
    with_policy(rig, rebinding="deny")
    assert rig.ask("rebound.example.com").rcode() == dns.rcode.REFUSED
    with_policy(rig, rebinding="allow")
    assert rig.ask("rebound.example.com").rcode() == dns.rcode.NOERROR


def test_a_quota_of_questions_is_refused_when_it_is_used_up(rig: Rig) -> None:
    rig.stage.reload(changed(rig.config, egress_policy=EgressPolicy(quotas=(Quota(dns_questions=2),))))
    for _ in range(3):
        assert rig.ask("localhost").rcode() == dns.rcode.NOERROR, "the gateway's own names do not count"
    assert rig.ask("www.example.com").rcode() == dns.rcode.NOERROR
    assert rig.ask("www.example.com").rcode() == dns.rcode.NOERROR
    answer = rig.ask("www.example.com")
    assert (answer.rcode(), answer.answer) == (dns.rcode.REFUSED, [])
    assert rig.ask("localhost").rcode() == dns.rcode.NOERROR
    assert rig.count("dns_query_refused_quota") == 1
    assert rig.count("dns_query_refused_policy") == 0
    (row,) = rig.request({"op": "count", "elsewhere": [], "gone": []})["rows"]
    assert (row[0], row[2], row[3]) == ("life", [0, 0, 0, 2], [0])
    rig.request({"op": "count", "elsewhere": [["life", row[1], [0, 0, 0, -1]]], "gone": []})
    assert rig.ask("www.example.com").rcode() == dns.rcode.NOERROR
    assert rig.ask("www.example.com").rcode() == dns.rcode.REFUSED
