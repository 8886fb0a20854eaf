"""What the configuration says to the fleet."""

import pytest

pytest.importorskip("nats")

from pipeline.config.model import Config
from pipeline.fleet import door
from pipeline.fleet.store import Access
from pipeline.wire import ip
from tests.config.built import build

WORDS = ("-fleet", "nats://one,two.example:4223,[fd00::1],[fd00::2]:4224", "-fleet-host", "alpha")
LINK = ("-link", "vxlan+udp://10.66.0.1:4790?vni=7")


def made(*words: str) -> Config:
    return build(*WORDS, *LINK, *words)[0]


def test_servers_have_a_port() -> None:
    assert Access.of(made().fleet).servers == (
        "nats://one:4222",
        "nats://two.example:4223",
        "nats://[fd00::1]:4222",
        "nats://[fd00::2]:4224",
    )


def test_the_row_has_the_outer_address() -> None:
    row = door.own_row(made(), "run")
    assert (row.address, row.port, row.run) == ("10.66.0.1", 4790, "run")


@pytest.mark.parametrize(
    "words",
    [
        ("-subnet", "10.9.0.0/24"),
        ("-gatewayIP", "192.168.127.9"),
        ("-dhcp-range", "192.168.127.30-192.168.127.40"),
        ("-guest-names", "vm.internal"),
    ],
)
def test_another_network_has_another_text(words: tuple[str, ...]) -> None:
    assert door.own_row(made(), "").network != door.own_row(made(*words), "").network


def test_the_pool_has_what_dhcp_may_give() -> None:
    pool = door.pool(made())
    assert len(pool) == 251, "not the gateway, the host and the known guest"
    for text in ("192.168.127.0", "192.168.127.1", "192.168.127.2", "192.168.127.254", "192.168.127.255"):
        assert ip.parse_ipv4(text) not in pool
    ranged = door.pool(made("-dhcp-range", "192.168.127.10-192.168.127.12"))
    assert [ip.text(addr) for addr in ranged] == [f"192.168.127.{number}" for number in (10, 11, 12)]


def test_a_large_subnet_gives_a_bounded_pool() -> None:
    assert len(door.pool(made("-subnet", "10.0.0.0/8"))) <= door.MAX_POOL + 1


def test_a_file_that_is_no_certificate_is_an_error() -> None:
    config = build("-fleet", "tls://one", "-fleet-host", "a", *LINK, "-fleet-ca", __file__)[0]
    with pytest.raises(OSError):
        Access.of(config.fleet)
