"""The events of the resolver: leases and answered questions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.engines.dhcp import pool
from pipeline.wire import dhcp, dhcpv6, ip
from tests.support import dhcp6_clients
from tests.support.dhcp6_clients import na
from tests.support.resolver_rig import BROADCAST, GUEST, Rig

MAC = "02:00:00:00:00:01"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, [])
    yield made
    made.close()


def send(rig: Rig, kind: int, *, link: int = 3, addr: int = 0, mac: str = MAC, **options: bytes) -> None:
    found = {dhcp.MESSAGE_TYPE: bytes((kind,)), **{getattr(dhcp, name): v for name, v in options.items()}}
    message = dhcp.Message(dhcp.BOOT_REQUEST, 1, bytes.fromhex(mac.replace(":", "")), found, ciaddr=addr)
    rig.send(dhcp.build(message), 67, guest_addr=addr, remote=BROADCAST, guest_port=68, link=link)
    rig.breathe()
    rig.replies()


def reported(rig: Rig) -> list[tuple[str, dict[str, Any]]]:
    return [(kind, fields) for kind, fields in rig.worker.events.reported if kind.startswith("lease")]


def test_a_lease_is_given_then_renewed_then_released(rig: Rig) -> None:
    send(rig, dhcp.DISCOVER, HOST_NAME=b"vm")
    assert reported(rig) == []
    send(rig, dhcp.REQUEST, HOST_NAME=b"vm")
    send(rig, dhcp.REQUEST)
    (_, given), (_, renewed) = reported(rig)
    addr = dhcp_addr(given)
    send(rig, dhcp.RELEASE, addr=addr)
    assert [kind for kind, _ in reported(rig)] == ["lease-given", "lease-renewed", "lease-released"]
    expected = {"link": 3, "mac": MAC, "address": given["address"], "seconds": 3600}
    assert {key: given[key] for key in expected} == expected
    assert (given["host_name"], renewed["host_name"]) == ("vm", None)


def dhcp_addr(fields: dict[str, Any]) -> int:
    return int.from_bytes(bytes(map(int, fields["address"].split("."))), "big")


def test_leases_of_dhcpv6_are_reported_for_each_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MAX_TAKEN", 2)
    rig = Rig(tmp_path, ["-ipv6", "on"])
    guest, mac = ip.parse("fe80::1"), bytes.fromhex(MAC.replace(":", ""))

    def send6(payload: bytes) -> None:
        rig.send(payload, 547, guest, dhcpv6.ALL_SERVERS, 546, mac=mac)
        rig.breathe()
        rig.replies()

    asked = (na(iaid=1), na(iaid=2))
    send6(dhcp6_clients.message(dhcpv6.SOLICIT, 1, *asked))
    assert reported(rig) == []
    send6(dhcp6_clients.message(dhcpv6.REQUEST, 1, *asked))
    send6(dhcp6_clients.message(dhcpv6.RENEW, 1, asked[0]))
    given = [fields["address"] for _, fields in reported(rig)[:2]]
    send6(dhcp6_clients.message(dhcpv6.DECLINE, 1, na(ip.parse(given[1]), iaid=2)))
    send6(dhcp6_clients.message(dhcpv6.RELEASE, 1, na(ip.parse(given[0]), iaid=1)))
    assert [kind for kind, _ in reported(rig)] == [
        *("lease-given", "lease-given", "lease-renewed", "lease-declined", "lease-released"),
    ]
    assert [fields["address"] for _, fields in reported(rig)[2:]] == [given[0], given[1], given[0]]
    expected = {"link": 3, "mac": MAC, "seconds": 3600, "host_name": None}
    first = reported(rig)[0][1]
    assert {key: first[key] for key in expected} == expected
    for number in range(3, 6):
        send6(dhcp6_clients.message(dhcpv6.REQUEST, number, na()))
    kind, fields = reported(rig)[-1]
    assert (kind, fields["address"]) == ("lease-refused", None)
    assert rig.count(fields["reason"]) == 1
    assert rig.count("dhcpv6_leases") == 2
    rig.close()


def test_on_another_link_the_same_lease_is_given_again(rig: Rig) -> None:
    for link in (3, 4, 4):
        send(rig, dhcp.REQUEST, link=link)
    assert [kind for kind, _ in reported(rig)] == ["lease-given", "lease-given", "lease-renewed"]


def test_a_static_lease_is_given_once_for_each_link(rig: Rig) -> None:
    for link in (3, 3, 4):
        send(rig, dhcp.REQUEST, link=link, mac="5a:94:ef:e4:0c:ee")
    assert [kind for kind, _ in reported(rig)] == ["lease-given", "lease-renewed", "lease-given"]


def test_a_host_name_that_is_no_text_is_shown(rig: Rig) -> None:
    send(rig, dhcp.REQUEST, HOST_NAME=b"\xff\x1b")
    ((_, fields),) = reported(rig)
    assert fields["host_name"] == "\\xff\x1b"


def test_a_declined_address_is_reported(rig: Rig) -> None:
    send(rig, dhcp.REQUEST)
    ((_, given),) = reported(rig)
    send(rig, dhcp.DECLINE, REQUESTED_ADDRESS=dhcp_addr(given).to_bytes(4, "big"))
    assert reported(rig)[-1][0] == "lease-declined"


def test_a_refused_lease_has_its_reason(rig: Rig) -> None:
    for number in range(1, 256):
        send(rig, dhcp.REQUEST, mac=f"02:00:00:00:01:{number:02x}")
    refused = [fields for kind, fields in reported(rig) if kind == "lease-refused"]
    assert refused
    assert {fields["reason"] for fields in refused} <= {
        "dhcp_message_dropped_too_many_of_guest",
        "dhcp_message_dropped_no_address",
    }
    assert {fields["address"] for fields in refused} == {None}


def answered(rig: Rig) -> list[dict[str, Any]]:
    return rig.worker.events.of("question-answered")


def test_an_answer_has_its_source(rig: Rig) -> None:
    rig.ask("www.example.com")
    rig.ask("www.example.com")
    rig.ask("gateway.containers.internal")
    assert [fields["source"] for fields in answered(rig)] == ["upstream", "cache", "zone"]
    first, second, third = answered(rig)
    assert (first["name"], first["type"], first["rcode"]) == ("www.example.com", "A", "NOERROR")
    assert (first["answers"], first["addresses"]) == (1, ["10.1.2.3"])
    assert first["seconds"] >= 0
    assert (second["seconds"], third["seconds"]) == (None, None)
    assert third["addresses"] == ["192.168.127.1"]


def test_what_is_no_query_is_an_error_of_the_gateway(rig: Rig) -> None:
    rig.send(b"\0\1\1\0" + bytes(20), 53, guest_addr=GUEST)
    rig.breathe()
    rig.replies()
    (fields,) = answered(rig)
    assert (fields["source"], fields["rcode"], fields["name"]) == ("gateway", "FORMERR", "")
