"""Guests of one image on links of every kind, with ``guests: apart``.

Our agent sends whole frames, or packets of 64 KiB that stand for segments. Other machine monitors pass on
what a card would get: checksums that lack their payload, with a virtio-net header or without, and datagrams
longer than the MTU. So inner addresses are written into other frames than in test_apart.py.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.wire import ethernet
from tests.e2e.test_apart import INNER_MARKS, SAME, SAME6, Guest, add_same6, at_once
from tests.e2e.test_offload import checksum_errors, total
from tests.e2e.test_port_security import Card
from tests.support import dual_stack, foreign
from tests.support.agent import GATEWAY_ADDR, GUEST_MAC
from tests.support.daemon import Daemon
from tests.support.foreign import Foreign
from tests.support.headers import Headers
from tests.support.netns import (
    INTERNET_ADDR,
    Namespace,
    Network,
    new_shared_memory,
    shared_memory,
    wait_for,
)
from tests.support.servers import DATA, UDP_ECHO, Servers
from tests.support.stripped import Stripped

pytestmark = pytest.mark.e2e

MIB = 1 << 20
SO_RCVBUFFORCE = 33
CARD_BYTES = 64 * MIB
IMAGE = {"address": SAME, "mac": GUEST_MAC}
NUMBER = 15
"""Of both guests whose headers were stripped: they have the same MAC."""
WRONG = (
    "tcp_segment_dropped_bad_checksum",
    "udp_datagram_dropped_bad_checksum",
    "ipv4_packet_dropped_bad_checksum",
    "icmpv6_message_dropped_bad_checksum",
    "link_frame_dropped_bad_vnet_header",
    "link_frame_dropped_oversized",
)
"""Counters of frames that are as no kernel makes them."""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Namespaces for two guests, and an internet with IPv6."""
    before = shared_memory()
    with dual_stack.network(2) as made:
        yield made
    assert not new_shared_memory(before)


@pytest.fixture(scope="module")
def outside(network: Network) -> Iterator[Servers]:
    with dual_stack.servers(network) as servers:
        yield servers


class Kernel(Foreign):
    """A guest whose tap the daemon has opened in its namespace."""

    def __init__(self, guest: Namespace) -> None:
        super().__init__(guest, ["sleep", "3600"], **IMAGE)

    def leave(self) -> None:
        """Nothing: the tap goes with the daemon."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(5)
        self._process = None


Make = Callable[[Namespace, Path], Foreign]


def _headers(kind: str) -> Make:
    return lambda guest, path: Headers(guest, kind, path, path.parent, **IMAGE)


def _datagrams(guest: Namespace, path: Path) -> Foreign:
    return foreign.vfkit(guest, path, path.with_suffix(".own"), **IMAGE)


KINDS: dict[str, tuple[str, Make]] = {
    "QEMU's framing": ("qemu+unix://{path}", lambda guest, path: foreign.qemu(guest, path, **IMAGE)),
    "datagrams": ("vfkit+unixgram://{path}", _datagrams),
    "headers on a stream": ("qemu+unix://{path}?vnet", _headers("qemu")),
    "headers on datagrams": ("vfkit+unixgram://{path}?vnet", _headers("vfkit")),
    "vhost-user": (
        "vhost-user+unix://{path}",
        lambda guest, path: foreign.vhost_user(guest, path, **IMAGE),
    ),
    "taps": ("tap+tap0?netns={guest}", lambda guest, _: Kernel(guest)),
}
"""By name, the link of a guest and how to make the guest."""
PAIRS = [(kind, kind) for kind in KINDS] + [
    ("taps", "QEMU's framing"),
    ("headers on datagrams", "vhost-user"),
    ("datagrams", "headers on a stream"),
]


@contextlib.contextmanager
def pair_of(network: Network, kinds: Sequence[str], *flags: str) -> Iterator[tuple[Daemon, list[Foreign]]]:
    """A daemon and two guests of one image, on links of these kinds."""
    with contextlib.ExitStack() as stack:
        words, made = [], []
        for number, (kind, guest) in enumerate(zip(kinds, network.guests, strict=True)):
            link, make = KINDS[kind]
            path = network.directory / f"apart-{number}.sock"
            words += ["-link", link.format(path=path, guest=guest.name)]
            made.append(make(guest, path))
        daemon = stack.enter_context(Daemon(network, "-guests", "apart", "-ipv6", "on", *words, *flags))
        for each in made:
            stack.enter_context(each)
            add_same6(each)
            # Now it has shown its IPv4 address, too.
            each.guest.run("ping", "-n", "-c", "1", "-W", "2", GATEWAY_ADDR)
        yield daemon, made


def all_right(daemon: Daemon, guests: Sequence[Guest]) -> None:
    """Neither the daemon nor a guest has got a frame that is wrong."""
    assert {name: total(daemon, name) for name in WRONG} == dict.fromkeys(WRONG, 0)
    assert [checksum_errors(each.guest) for each in guests] == [0, 0]


def losses(daemon: Daemon) -> list[str]:
    """What the daemon has dropped: why a guest may lack an answer."""
    lines = daemon.api("/metrics")[1].decode().splitlines()
    counted = [line for line in lines if "_dropped_total" in line and not line.startswith("#")]
    return [line for line in counted if not line.endswith(" 0.0")]


def watched(guests: Sequence[Guest], working: int) -> list[list[bytes]]:
    """The frames that reach each guest while one of them works."""
    with Card(guests[0].guest) as first, Card(guests[1].guest) as second:
        for card in (first, second):
            # A packet of 64 KiB that stands for segments would soon fill the usual one.
            card.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, CARD_BYTES)
        thread = threading.Thread(target=at_once, args=([guests[working]], 1))
        thread.start()
        thread.join()
        return [first.received(), second.received()]


@pytest.mark.parametrize("kinds", PAIRS, ids=" and ".join)
def test_guests_of_one_image_work_on_links_of_every_kind(
    network: Network, outside: Servers, kinds: tuple[str, str]
) -> None:
    with pair_of(network, kinds) as (daemon, guests):
        assert at_once(guests, 2) == [[], []], losses(daemon)
        renamed = {line["address"] for line in daemon.events("guest renamed")}
        assert {GUEST_MAC, SAME, SAME6} <= renamed
        assert daemon.events("address contested") == []
        own = ethernet.mac_parse(GUEST_MAC)
        for working in (0, 1):
            got = watched(guests, working)
            # What the daemon sends to all guests is for groups: questions and router advertisements.
            assert [frame for frame in got[1 - working] if not frame[0] & 1] == []
            assert len(got[working]) > 5
            assert {frame[:6] for frame in got[working] if not frame[0] & 1} == {own}
            heads = [frame[:54] for frame in (*got[0], *got[1])]
            marks = [(head[:3], head[30:32], head[38:40]) for head in heads]
            assert not [mark for mark in marks if any(inner in mark for inner in INNER_MARKS)]
        all_right(daemon, guests)


def test_guests_in_one_process_of_workers(network: Network, outside: Servers) -> None:
    with pair_of(network, ("headers on datagrams", "vhost-user"), "-placement", "auto") as (daemon, guests):
        assert at_once(guests, 2) == [[], []], losses(daemon)
        all_right(daemon, guests)


@pytest.mark.parametrize("kind", ["datagrams", "headers on datagrams", "vhost-user", "taps"])
def test_both_work_again_when_ingress_has_died(network: Network, outside: Servers, kind: str) -> None:
    """Its successor gets the inner names of links that go on. A link that begins anew may get others."""
    with pair_of(network, (kind, kind)) as (daemon, guests):
        daemon.expect_errors = True
        before = daemon.workers()["ingress"]
        network.host.run("kill", "-9", str(before))
        wait_for(lambda: daemon.processes().get("ingress", before) != before, "a successor")
        wait_for(lambda: at_once(guests, 1) == [[], []], "both work", 60.0)


@pytest.mark.parametrize("kinds", [("qemu", "qemu"), ("vfkit", "vfkit"), ("qemu", "vfkit")], ids=" and ".join)
def test_guests_with_one_mac_whose_headers_were_stripped(
    network: Network, outside: Servers, kinds: tuple[str, str]
) -> None:
    """Also their DHCP messages have checksums without the payload. The daemon writes a MAC into these."""
    with contextlib.ExitStack() as stack:
        links = {"qemu": "qemu+unix", "vfkit": "vfkit+unixgram"}
        paths = [network.directory / f"stripped-{number}.sock" for number in range(2)]
        words = [
            word
            for kind, path in zip(kinds, paths, strict=True)
            for word in ("-link", f"{links[kind]}://{path}")
        ]
        daemon = stack.enter_context(Daemon(network, "-guests", "apart", *words))
        guests = [
            stack.enter_context(Stripped(guest, kind, path, NUMBER))
            for guest, kind, path in zip(network.guests, kinds, paths, strict=True)
        ]
        assert len({guest.address for guest in guests}) == 2
        found: list[list[str]] = [[], []]

        def work(guest: Stripped, wrong: list[str]) -> None:
            wrong += guest.run("transfer", INTERNET_ADDR, DATA, 2 * MIB, 2 * MIB, 2)["errors"]
            for size in (64, 1400, 6000):
                echoed = guest.run("udp", INTERNET_ADDR, UDP_ECHO, size, 5)
                wrong += [f"{size}: {echoed}"] if echoed["received"] != 5 else []
            for how in ("udp", "tcp"):
                resolved = guest.run("resolve", GATEWAY_ADDR, "www.example.test", "A", how)
                wrong += [f"{how}: {resolved}"] if resolved["answers"] != [INTERNET_ADDR] else []

        threads = [
            threading.Thread(target=work, args=(guest, wrong))
            for guest, wrong in zip(guests, found, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [[], []]
        names = WRONG[:3]
        wait_for(lambda: total(daemon, "link_addresses_inner") >= 1, "an inner MAC")
        assert {name: total(daemon, name) for name in names} == dict.fromkeys(names, 0)
        assert [checksum_errors(guest.guest) for guest in guests] == [0, 0]
