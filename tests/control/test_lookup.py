"""Host names looked up beside the event loop: what is found, what is none, and how many at once."""

import asyncio
import socket
import threading
from typing import Any

import pytest

from pipeline.control import lookup
from pipeline.control.lookup import Lookups


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64, "a\0b", ""])
def test_what_is_no_name_has_no_addresses(host: str) -> None:
    assert asyncio.run(Lookups().addresses(host or "..")) == []


def test_the_hosts_own_name_is_found() -> None:
    assert "127.0.0.1" in asyncio.run(Lookups().addresses("localhost"))


def test_lookups_that_hang_have_a_bound_and_give_their_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    over, asked = threading.Event(), []

    def hang(host: bytes, *_: object, **__: object) -> list[Any]:
        asked.append(host.decode())
        over.wait(10)
        return [(0, 0, 0, "", ("192.0.2.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(lookup, "TIMEOUT", 0.1)

    async def run() -> None:
        lookups = Lookups()
        names = [f"{number}.example" for number in range(3 * lookup.MAX_AT_ONCE)]
        answers = await asyncio.gather(*map(lookups.addresses, names), return_exceptions=True)
        assert all(isinstance(answer, TimeoutError) for answer in answers)
        assert asked == names[: lookup.MAX_AT_ONCE]
        over.set()
        monkeypatch.setattr(lookup, "TIMEOUT", 10)
        for name in names:
            assert await lookups.addresses(name) == ["192.0.2.1"]

    asyncio.run(run())


@pytest.mark.parametrize("known", [True, False], ids=["services", "no-services"])
def test_services_have_their_ports_also_without_a_list_of_them(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not known:

        def unknown(*_: str) -> int:
            raise OSError("service/proto not found")

        monkeypatch.setattr(lookup.socket, "getservbyname", unknown)
    assert lookup.port_number("tcp", "ssh") == 22
    assert lookup.port_number("tcp4", "NFS") == 2049
    assert lookup.port_number("udp", "domain") == 53
    for text in ("", "nothing", "a\0b", "x" * 1000, "\u00b2", "-1"):
        assert lookup.port_number("tcp", text) is None
    assert lookup.port_number("tcp", "0080") == 80
