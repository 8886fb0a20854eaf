"""A client that asks the same question in the same bytes gets what it would get from a parsed question."""

from typing import Any

import dns.flags
import dns.message
import dns.rcode
import pytest

from pipeline.engines.dns.server import Dns, Forward
from pipeline.engines.dns.zones import parse_zone
from tests.engines.dns.test_server import A_ROW, asked, decide, engine, reply, upstream


def kept(dnsd: Dns[Any]) -> Forward:
    """Let the server have an answer of 60 seconds in its cache, which came at 0.5."""
    forward = decide(dnsd, asked())
    assert isinstance(forward, Forward)
    dnsd.on_upstream(forward.key, upstream(forward, A_ROW), 0.5)
    return forward


@pytest.mark.parametrize("options", [{}, {"use_edns": 0, "payload": 4096}])
def test_ttls_count_down_for_a_client_that_asks_again_and_again(options: dict[str, Any]) -> None:
    dnsd = engine()
    kept(dnsd)
    found = []
    for tenth in range(5, 620):
        decision = decide(dnsd, asked(ident=tenth, **options), now=tenth / 10)
        if isinstance(decision, Forward):
            assert tenth == 605
            break
        message = reply(decision)
        assert (message.id, decision.counter) == (tenth, "dns_query_answered_from_cache")
        found.append((tenth, message.answer[0].ttl))
    assert found == [(tenth, 60 - (tenth - 5) // 10) for tenth in range(5, 605)]


def test_a_new_zone_answers_a_client_that_has_just_been_answered_otherwise() -> None:
    dnsd = engine()
    kept(dnsd)
    for _ in range(2):
        assert reply(decide(dnsd, asked(), now=0.6)).answer[0][0].to_text() == "1.2.3.4"
    name = "new.containers.internal"
    assert reply(decide(dnsd, asked(name), now=0.6)).rcode() == dns.rcode.NXDOMAIN
    dnsd.add_zone(parse_zone({"Name": "example.com.", "DefaultIP": "10.0.0.1"}))
    row = {"Name": "new", "IP": "10.0.0.2"}
    dnsd.add_zone(parse_zone({"Name": "containers.internal.", "Records": [row]}))
    assert reply(decide(dnsd, asked(), now=0.6)).answer[0][0].to_text() == "10.0.0.1"
    assert reply(decide(dnsd, asked(name), now=0.6)).answer[0][0].to_text() == "10.0.0.2"


def test_a_new_hosts_file_and_new_servers_are_for_all_clients() -> None:
    dnsd = engine()
    kept(dnsd)
    assert reply(decide(dnsd, asked(), now=0.6)).answer
    dnsd.forget_answers()
    assert isinstance(decide(dnsd, asked(), now=0.6), Forward)
    dnsd.set_hosts({"nas.home": [b"\1\1\1\1"]})
    assert reply(decide(dnsd, asked("nas.home"))).answer[0][0].to_text() == "1.1.1.1"
    dnsd.set_hosts({"nas.home": [b"\2\2\2\2"]})
    assert reply(decide(dnsd, asked("nas.home"))).answer[0][0].to_text() == "2.2.2.2"


def test_flags_size_and_transport_of_a_question_have_their_own_replies() -> None:
    dnsd = engine()
    forward = decide(dnsd, asked())
    rows = [("www.example.com.", 60, "IN", "A", f"10.0.0.{n}") for n in range(60)]
    dnsd.on_upstream(forward.key, upstream(forward, *rows), 0.0)
    for _ in range(2):
        assert reply(decide(dnsd, asked())).flags & dns.flags.TC
        assert len(reply(decide(dnsd, asked(use_edns=0, payload=4096))).answer[0]) == 60
        assert len(reply(dnsd.on_query(asked(), "w", "c", 0.0, tcp=True)).answer[0]) == 60
        assert not reply(decide(dnsd, asked("localhost", flags=0))).flags & dns.flags.RD
        assert reply(decide(dnsd, asked("localhost"))).flags & dns.flags.RD
