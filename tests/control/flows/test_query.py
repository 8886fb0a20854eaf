"""The keys of a query for flows."""

from typing import Any

import pytest

from pipeline.control.flows.query import FlowQuery, QueryError, read

FLOW: dict[str, object] = {
    "protocol": "tcp",
    "guest": 3,
    "guest_mac": "5a:94:ef:e4:0c:ee",
    "guest_address": "192.168.127.2",
    "address": "93.184.216.34",
    "name": "www.example.com",
    "port": 443,
}


def test_without_keys_every_flow_fits() -> None:
    assert read([]) == FlowQuery(limit=1000, sort="bytes")
    assert read([]).fits(FLOW)
    assert read([]).fits(FLOW | {"guest_mac": None, "name": None})


@pytest.mark.parametrize(
    ("key", "value", "fits"),
    [
        ("guest", "3", True),
        ("guest", "33", False),
        ("guest", "5A:94:ef:e4:0c:ee", True),
        ("guest", "5a:94:ef:e4:0c:ef", False),
        ("guest", "192.168.127.2", True),
        ("guest", "93.184.216.34", False),
        ("protocol", "tcp", True),
        ("protocol", "udp", False),
        ("host", "93.184.216.34", True),
        ("host", "WWW.example.com.", True),
        ("host", "example.com", False),
        ("port", "443", True),
        ("port", "44", False),
    ],
)
def test_a_key_chooses_flows(key: str, value: str, fits: bool) -> None:
    assert read([(key, value)]).fits(FLOW) is fits


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        ([("limit", "0")], "limit '0' is wrong (allowed: 1 to 10000)"),
        ([("limit", "x")], "limit 'x' is wrong (allowed: 1 to 10000)"),
        ([("sort", "name")], "sort 'name' is wrong (allowed: bytes, age, idle)"),
        ([("protocol", "sctp")], "protocol 'sctp' is wrong (allowed: tcp, udp, icmp)"),
        ([("port", "65536")], "port '65536' is wrong (allowed: 1 to 65535)"),
        (
            [("guest", "me")],
            "guest 'me' is wrong (allowed: a guest's number, MAC address or IP address)",
        ),
        (
            [("links", "1")],
            "unknown key 'links' (allowed: guest, protocol, host, port, limit, sort)",
        ),
        ([("port", "1"), ("port", "2")], "port stands twice (allowed: once)"),
        (
            [("host", "h" * 300)],
            f"host {'h' * 100!r} is wrong (allowed: an address, or a name of at most 255 characters)",
        ),
    ],
)  # fmt: skip
def test_a_wrong_key_is_named_with_its_value(pairs: list[tuple[str, str]], text: str) -> None:
    with pytest.raises(QueryError) as raised:
        read(pairs)
    assert str(raised.value) == text


def test_a_query_says_what_it_is() -> None:
    found: dict[str, Any] = read([("limit", "5"), ("sort", "idle"), ("port", "53")]).model_dump()
    assert (found["limit"], found["sort"], found["port"]) == (5, "idle", 53)


def test_an_ipv6_address_of_a_guest_may_be_spelled_in_any_way() -> None:
    flow = FLOW | {"guest_address": "fd12:3456:789a:1::5"}
    assert read([("guest", "FD12:3456:789a:1:0:0:0:5")]).fits(flow)
    assert not read([("guest", "fd12:3456:789a:1::6")]).fits(flow)
