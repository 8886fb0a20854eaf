"""The resolver in a fleet: DHCP clients wait until it has chosen an address; names of all hosts count."""

from pathlib import Path

import pytest

from pipeline.ipc import fleet_messages
from pipeline.ipc.message import Event
from pipeline.records import kinds
from pipeline.records.guests import LinkNotice
from pipeline.stages.resolver import fleet
from pipeline.wire import dhcp, ip
from tests.stages.resolver.test_settings import mac
from tests.support.resolver_rig import Rig, texts

FLAGS = [
    *("-fleet", "nats://one.example", "-fleet-host", "alpha", "-link", "vxlan+udp://127.0.0.1?vni=7"),
    *("-guest-names", "vm.internal"),
]
ADDR = ip.parse_ipv4("192.168.127.77")


class FleetRig(Rig):
    """A resolver, and what it tells the supervisor."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, FLAGS)

    def of(self, kind: type[Event]) -> list[Event]:
        """The events of a kind since the last call."""
        found = [kind.decode(event) for event in self.worker.sent if event["event"] == kind.NAME]
        self.worker.sent = [event for event in self.worker.sent if event["event"] != kind.NAME]
        return found

    def ask_for_lease(self, n: int, kind: int = dhcp.REQUEST, name: bytes = b"") -> None:
        """Client n sends a message, which has no answer yet."""
        options = {dhcp.MESSAGE_TYPE: bytes((kind,))} | ({dhcp.HOST_NAME: name} if name else {})
        wire = dhcp.build(dhcp.Message(dhcp.BOOT_REQUEST, 1, mac(n), options))
        self.send(wire, 67, guest_addr=0, guest_port=68)
        self.breathe()

    def grant(self, n: int, addr: int, seconds: float = 3600.0) -> None:
        """The fleet answers."""
        ask = fleet_messages.LeaseGranted(mac(n), ip.packed(addr) if addr else b"", seconds)
        assert self.stage.on_control(ask.encode(), []) == {}

    def leased(self) -> dhcp.Message:
        """The server's answer."""
        _, payload = self.reply()
        return dhcp.parse(payload, 0, len(payload))


@pytest.fixture
def rig(tmp_path: Path) -> FleetRig:
    return FleetRig(tmp_path)


def test_a_client_gets_the_address_that_the_fleet_chooses(rig: FleetRig) -> None:
    rig.ask_for_lease(1)
    assert rig.of(fleet_messages.LeaseWantedEvent) == [fleet_messages.LeaseWantedEvent(mac(1), 3600.0)]
    rig.grant(1, ADDR, 90.0)
    answer = rig.leased()
    assert answer.yiaddr == ADDR
    assert answer.options[dhcp.LEASE_TIME] == (90).to_bytes(4, "big")
    rig.close()


def test_a_client_of_a_link_that_is_gone_gets_no_answer(rig: FleetRig) -> None:
    rig.ask_for_lease(1)
    rig.to_stage.push(LinkNotice.pack(kinds.LINK_DOWN, 3, 3))
    rig.to_stage.publish()
    rig.breathe()
    rig.grant(1, ADDR)
    assert ADDR not in rig.stage.dhcp.leases()
    rig.close()


def test_an_address_that_is_given_back_is_reported(rig: FleetRig) -> None:
    rig.ask_for_lease(1)
    rig.grant(1, ADDR)
    rig.leased()
    options = {dhcp.MESSAGE_TYPE: bytes((dhcp.RELEASE,))}
    wire = dhcp.build(dhcp.Message(dhcp.BOOT_REQUEST, 1, mac(1), options, ciaddr=ADDR))
    rig.send(wire, 67, guest_addr=ADDR, guest_port=68)
    rig.breathe()
    over = fleet_messages.LeaseOverEvent(mac(1), ip.packed(ADDR), False)
    assert rig.of(fleet_messages.LeaseOverEvent) == [over]
    rig.close()


def test_the_number_of_messages_that_wait_is_bounded(rig: FleetRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "MAX_WAITING", 2)
    for n in range(1, 5):
        rig.ask_for_lease(n)
    assert len(rig.of(fleet_messages.LeaseWantedEvent)) == 2
    assert rig.count("dhcp_message_dropped_fleet_busy") == 2
    rig.close()


def test_a_client_that_repeats_its_message_is_asked_for_once(rig: FleetRig) -> None:
    for kind in (dhcp.DISCOVER, dhcp.DISCOVER, dhcp.REQUEST, dhcp.REQUEST, dhcp.DISCOVER):
        rig.ask_for_lease(1, kind)
    wanted = [fleet_messages.LeaseWantedEvent(mac(1), seconds) for seconds in (60.0, 3600.0)]
    assert rig.of(fleet_messages.LeaseWantedEvent) == wanted
    rig.grant(1, ADDR)
    assert rig.leased().yiaddr == ADDR
    rig.close()


def test_names_of_this_host_are_reported_and_those_of_others_are_answered(rig: FleetRig) -> None:
    rig.ask_for_lease(1, name=b"web")
    rig.grant(1, ADDR)
    rig.leased()
    assert rig.of(fleet_messages.NamesEvent) == [fleet_messages.NamesEvent({"web": ip.packed(ADDR)})]
    far = bytes((192, 168, 127, 88))
    away = fleet_messages.NamesAway({"db": far}, True)
    assert rig.stage.on_control(away.encode(), []) == {}
    assert texts(rig.ask("db.vm.internal")) == ["192.168.127.88"]
    assert texts(rig.ask("web.vm.internal")) == ["192.168.127.77"]
    assert texts(rig.ask("88.127.168.192.in-addr.arpa", "PTR")) == ["db.vm.internal."]
    rig.ask_for_lease(2, name=b"db")
    rig.grant(2, ADDR + 1)
    rig.leased()
    assert texts(rig.ask("db.vm.internal")) == ["192.168.127.88"], "the name is taken"
    away = fleet_messages.NamesAway({}, True)
    assert rig.stage.on_control(away.encode(), []) == {}
    assert texts(rig.ask("db.vm.internal")) == []
    rig.close()


def test_a_change_of_names_leaves_the_others(rig: FleetRig) -> None:
    def tell(names: dict[str, bytes]) -> None:
        assert rig.stage.on_control(fleet_messages.NamesAway(names, False).encode(), []) == {}

    one, two = bytes((192, 168, 127, 88)), bytes((192, 168, 127, 89))
    tell({"db": one, "web": two, "old": two})
    tell({"db": two, "web": b"", "none": b""})
    assert texts(rig.ask("db.vm.internal")) == ["192.168.127.89"]
    assert texts(rig.ask("old.vm.internal")) == ["192.168.127.89"]
    assert texts(rig.ask("web.vm.internal")) == []
    assert texts(rig.ask("88.127.168.192.in-addr.arpa", "PTR")) == []
    tell({"db": b""})
    assert texts(rig.ask("89.127.168.192.in-addr.arpa", "PTR")) == ["old.vm.internal."], (
        "the other name of it"
    )
    rig.close()
