"""Which names guests were told: read when asked, and bounded."""

import dns.message
import dns.rrset

from pipeline.stages.resolver import told
from pipeline.stages.resolver.told import ToldNames
from pipeline.wire import ip

GUEST, OTHER = ip.parse_ipv4("192.168.127.2"), ip.parse_ipv4("192.168.127.3")
HOST = ip.parse_ipv4("203.0.113.9")


def reply(name: str, *addresses: int) -> bytes:
    message = dns.message.make_response(dns.message.make_query(name, "A"))
    for address in addresses:
        text = ip.text(address)
        message.answer.append(dns.rrset.from_text(f"{name}.", 30, "IN", "A", text))
    return message.to_wire()


def test_a_name_is_known_for_the_guest_that_was_told_alone() -> None:
    names = ToldNames()
    names.on_reply(GUEST, reply("www.example.com", HOST, HOST + 1))
    assert [names.name(GUEST, HOST + n) for n in range(3)] == ["www.example.com", "www.example.com", ""]
    assert names.name(OTHER, HOST) == ""


def test_the_last_name_of_an_address_counts() -> None:
    names = ToldNames()
    names.on_reply(GUEST, reply("old.example", HOST))
    names.on_reply(GUEST, reply("new.example", HOST))
    assert names.name(GUEST, HOST) == "new.example"
    names.on_reply(GUEST, reply("nothing.example"))
    assert names.name(GUEST, HOST) == "new.example"


def test_more_replies_than_wait_unread_are_not_lost() -> None:
    names = ToldNames()
    for number in range(3 * told.MAX_UNREAD):
        names.on_reply(GUEST, reply(f"h{number}.example", HOST + number))
    assert [names.name(GUEST, HOST + n) for n in (0, 100)] == ["h0.example", "h100.example"]


def test_a_guest_that_asks_for_very_many_names_loses_its_own() -> None:
    names = ToldNames()
    names.on_reply(OTHER, reply("www.example.com", HOST))
    assert names.name(OTHER, HOST)
    for number in range(0, told.MAX_NAMES + 200, 50):
        names.on_reply(GUEST, reply(f"h{number}.example", *(HOST + number + n for n in range(50))))
    assert names.name(GUEST, HOST) == ""
    assert len(names) == told.MAX_NAMES
    assert names.name(OTHER, HOST) == "www.example.com"


def test_the_guest_that_asked_last_longest_ago_is_forgotten() -> None:
    names = ToldNames()
    for guest in range(told.MAX_GUESTS):
        names.on_reply(guest, reply("www.example.com", HOST))
        assert names.name(guest, HOST)
    names.on_reply(0, reply("again.example", HOST))
    names.on_reply(GUEST, reply("www.example.com", HOST))
    assert [bool(names.name(guest, HOST)) for guest in (0, 1, 2, GUEST)] == [True, False, True, True]
    assert len(names) == told.MAX_GUESTS


def test_a_very_long_reply_is_not_kept() -> None:
    names = ToldNames()
    names.on_reply(GUEST, reply("www.example.com", *(HOST + n for n in range(100))))
    assert names.name(GUEST, HOST) == ""
