"""The resolver with its settings: name servers of the configuration, no DNS, guests' names, an outbound."""

from pathlib import Path
from time import monotonic

import dns.rcode
from structlog.testing import capture_logs

from pipeline.records import kinds
from pipeline.records.guests import LinkNotice
from pipeline.stages.resolver.stage import ResolverStage
from pipeline.wire import dhcp
from tests.support.resolver_rig import GUEST, Rig, texts

NAMED = ["-guest-names", "vm.internal"]
ADDRESS = "192.168.127.3"
REVERSE = "3.127.168.192.in-addr.arpa"


def ask_for_lease(rig: Rig, n: int, name: bytes = b"", kind: int = dhcp.REQUEST) -> dhcp.Message:
    """The server's answer to client n, which sends this host name if it is not empty."""
    options = {dhcp.MESSAGE_TYPE: bytes((kind,))} | ({dhcp.HOST_NAME: name} if name else {})
    rig.send(dhcp.build(dhcp.Message(dhcp.BOOT_REQUEST, 1, mac(n), options)), 67, guest_addr=0, guest_port=68)
    _, payload = rig.reply()
    return dhcp.parse(payload, 0, len(payload))


def mac(n: int) -> bytes:
    return b"\x02\0\0\0\0" + bytes((n,))


# --- name servers ---------------------------------------------------------------------------


def test_servers_of_the_configuration_are_asked_in_place_of_resolv_conf(tmp_path: Path) -> None:
    with capture_logs() as lines:
        rig = Rig(tmp_path, ["-dns-server", "127.0.0.1:{port}"], resolv_conf="nameserver 192.0.2.1\n")
        assert texts(rig.ask("www.example.com")) == ["10.1.2.3"]
    assert [line["servers"] for line in lines if line["event"] == "upstream name servers"] == [["127.0.0.1"]]
    assert rig.upstream.queries == 1
    rig.close()


def test_a_change_of_resolv_conf_changes_nothing_then(tmp_path: Path) -> None:
    rig = Rig(tmp_path, ["-dns-server", "127.0.0.1:{port}"], resolv_conf="")
    rig.ask("www.example.com")
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    rig.stage.dns.reload_files(monotonic() + 100)
    assert texts(rig.ask("www.example.com")) == ["10.1.2.3"]
    assert rig.upstream.queries == 1, "the answer is still in the cache"
    rig.close()


def test_a_server_on_loopback_is_asked_whatever_the_outbound_is(tmp_path: Path) -> None:
    rig = Rig(tmp_path, ["-outbound-address", "192.0.2.1", "-outbound-interface", "no-such0"])
    assert texts(rig.ask("www.example.com")) == ["10.1.2.3"]
    rig.close()


def test_no_question_leaves_when_the_outbound_is_gone(tmp_path: Path) -> None:
    words = ["-outbound-interface", "no-such0", "-dns-server", "192.0.2.1"]
    rig = Rig(tmp_path, words)
    assert rig.ask("www.example.com").rcode() == dns.rcode.SERVFAIL
    rig.close()


def test_a_name_server_on_an_interface_that_is_not_there_is_left_out_and_said(tmp_path: Path) -> None:
    words = ["-dns-server", "[fe80::1%no-such0]:53", "-dns-server", "127.0.0.1:{port}"]
    with capture_logs() as lines:
        rig = Rig(tmp_path, words)
    assert [line for line in lines if line["event"] == "a name server is left out"]
    assert texts(rig.ask("www.example.com")) == ["10.1.2.3"]
    rig.close()


# --- no DNS ---------------------------------------------------------------------------------


def test_without_dns_clients_get_no_name_server_and_the_hosts_files_are_not_read(tmp_path: Path) -> None:
    with capture_logs() as lines:
        rig = Rig(tmp_path, ["-disable", "dns"])
        offer = ask_for_lease(rig, 1)
    assert dhcp.DNS_SERVER not in offer.options
    assert offer.options[dhcp.ROUTER] == bytes((192, 168, 127, 1))
    assert not [line for line in lines if line["event"] == "upstream name servers"]
    rig.close()


# --- guests' names --------------------------------------------------------------------------


def test_a_guests_name_resolves_both_ways_while_it_has_its_lease(tmp_path: Path) -> None:
    rig = Rig(tmp_path, NAMED)
    assert rig.ask("web.vm.internal").rcode() == dns.rcode.NXDOMAIN
    assert ask_for_lease(rig, 1, b"web").kind == dhcp.ACK
    assert texts(rig.ask("web.vm.internal")) == texts(rig.ask("WEB.vm.internal")) == [ADDRESS]
    assert texts(rig.ask(REVERSE, "PTR")) == ["web.vm.internal."]
    assert rig.ask("web.vm.internal", "AAAA").rcode() == dns.rcode.NOERROR
    assert rig.count("dhcp_host_names") == 1
    release = {dhcp.MESSAGE_TYPE: bytes((dhcp.RELEASE,))}
    rig.send(dhcp.build(dhcp.Message(dhcp.BOOT_REQUEST, 1, mac(1), release, ciaddr=GUEST + 1)), 67)
    rig.breathe()
    # The same bytes were answered before: the reply that was kept must not be sent again.
    assert rig.ask("web.vm.internal").rcode() == dns.rcode.NXDOMAIN
    assert rig.ask(REVERSE, "PTR").rcode() == dns.rcode.NXDOMAIN
    assert rig.count("dhcp_host_names") == 0
    rig.close()


def test_a_name_ends_with_its_lease_by_itself(tmp_path: Path) -> None:
    rig = Rig(tmp_path, NAMED)
    ask_for_lease(rig, 1, b"web")
    rig.breathe(rig.stage.deadline())  # the report to the supervisor
    due = rig.stage.deadline()
    assert due <= monotonic() + 3600
    rig.breathe(due)
    assert rig.ask("web.vm.internal").rcode() == dns.rcode.NXDOMAIN
    assert (rig.stage.deadline(), rig.count("dhcp_host_names")) == (float("inf"), 0)
    rig.close()


def test_a_guest_that_leaves_keeps_its_name_as_its_lease(tmp_path: Path) -> None:
    rig = Rig(tmp_path, NAMED)
    ask_for_lease(rig, 1, b"web")
    rig.to_stage.push(LinkNotice.pack(kinds.LINK_DOWN, 3, 3))
    rig.to_stage.publish()
    rig.breathe()
    assert texts(rig.ask("web.vm.internal")) == [ADDRESS]
    rig.close()


def test_names_of_the_zones_are_not_taken_whenever_they_were_added(tmp_path: Path) -> None:
    rig = Rig(tmp_path, ["-guest-names", "containers.internal"])
    assert ask_for_lease(rig, 1, b"gateway").kind == dhcp.ACK
    zone = {"Name": "containers.internal.", "Records": [{"Name": "db", "IP": "10.0.0.1"}]}
    assert rig.request({"op": "dns_add", "zone": zone}) == {}
    ask_for_lease(rig, 1, b"db")
    assert rig.count("dhcp_host_name_refused_taken") == 2
    ask_for_lease(rig, 1, b"late")
    zone["Records"] = [{"Name": "late", "IP": "10.0.0.2"}]
    assert rig.request({"op": "dns_add", "zone": zone}) == {}
    assert texts(rig.ask("gateway.containers.internal")) == ["192.168.127.1"]
    assert texts(rig.ask("db.containers.internal")) == ["10.0.0.1"]
    assert texts(rig.ask("late.containers.internal")) == ["10.0.0.2"]
    rig.close()


def test_a_name_that_is_refused_is_counted_and_costs_nobody_the_lease(tmp_path: Path) -> None:
    rig = Rig(tmp_path, NAMED)
    assert ask_for_lease(rig, 1, b"no_name").kind == dhcp.ACK
    assert rig.count("dhcp_host_name_refused_invalid") == 1
    assert rig.ask("no_name.vm.internal").rcode() == dns.rcode.NXDOMAIN
    rig.close()


def test_guests_names_are_listed_with_the_zones(tmp_path: Path) -> None:
    rig = Rig(tmp_path, NAMED)
    ask_for_lease(rig, 1, b"web")
    listed = rig.request({"op": "dns_all"})["zones"]
    assert {"Name": "vm.internal.", "Records": [{"Name": "web", "IP": ADDRESS}], "DefaultIP": ""} in listed
    rig.close()


def test_by_default_a_host_name_has_no_effect(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [])
    stage: ResolverStage = rig.stage
    ask_for_lease(rig, 1, b"web")
    assert rig.ask("web.containers.internal").rcode() == dns.rcode.NXDOMAIN
    assert rig.ask(REVERSE, "PTR").rcode() == dns.rcode.NXDOMAIN
    assert stage.guest_names.deadline() == float("inf")
    rig.close()
