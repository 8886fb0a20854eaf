"""What the resolver stage tells others: names of the egress policy to egress, leases to a file."""

import json
from pathlib import Path
from time import monotonic

import pytest

from pipeline.engines.policy import number_of
from pipeline.ipc.healing_messages import Know
from pipeline.records.guests import Leased
from pipeline.records.kinds import RECORD_BYTES
from pipeline.records.services import Named, ServiceDatagram, Told
from pipeline.wire import dhcp, ip
from tests.stages.resolver.test_stage import discover
from tests.support.layouts import decode
from tests.support.poller import LIMIT
from tests.support.resolver_rig import GUEST, Rig, framed, query

POLICY = """
egress-policy:
  default: deny
  rules:
    - {action: allow, names: [other.example, "*.example.com"]}
"""


def records(rig: Rig) -> list[Named | Told | Leased | ServiceDatagram]:
    """The next records for demux, as they follow each other."""
    end = monotonic() + LIMIT
    while not (burst := rig.from_stage.peek()):
        assert monotonic() < end, "nothing for demux"
        rig.breathe()
    found = [decode(burst[at : at + RECORD_BYTES]) for at in range(0, len(burst), RECORD_BYTES)]
    rig.from_stage.release(len(found))
    for record in found:
        if isinstance(record, ServiceDatagram):
            assert rig.worker.pool is not None
            rig.worker.pool.unref(record.slot)
    return found


@pytest.mark.parametrize("rows", [1, 3])
def test_addresses_of_a_named_destination_are_told_before_the_guest_is(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(POLICY)
    rig = Rig(tmp_path, ["-config", str(path)])
    rig.upstream.rows = rows
    rig.send(query("www.example.com"), 53)
    found = records(rig)
    assert [type(record) for record in found] == [*[Named] * rows, ServiceDatagram]
    named = found[:-1]
    assert {record.remote_addr for record in named} == {ip.parse_ipv4("10.1.2.3") + n for n in range(rows)}
    for record in named:
        assert (record.guest_addr, record.pattern) == (GUEST, number_of("*.example.com"))
        assert 0 < record.ttl_s <= 60
    rig.send(query("www.example.net"), 53)
    assert [type(record) for record in records(rig)] == [ServiceDatagram]
    rig.close()


PROXY = """
egress-policy:
  default: allow
  rules:
    - {action: proxy, names: ["*.example.com"], via: "socks5://127.0.0.1:1"}
"""


@pytest.mark.parametrize(("policy", "expected"), [(POLICY, [Named]), (PROXY, [Named, Told]), ("", [])])
def test_another_daemons_resolver_tells_egress_what_guests_know(
    tmp_path: Path, policy: str, expected: list[type]
) -> None:
    """The policy of the other one is that of the parameter, and the first one has a proxy."""
    path = tmp_path / "config.yaml"
    path.write_text(PROXY)
    old = Rig(tmp_path, ["-config", str(path)])
    old.send(query("www.example.com"), 53)
    told = records(old)[:-1]
    assert [type(record) for record in told] == [Named, Told]
    old.stage.hand_over()
    old.close()
    (message,) = [message for message in old.worker.sent if message["event"] == "knowledge"]
    path.write_text(policy)
    new = Rig(tmp_path, ["-config", str(path)])
    assert new.request(Know(names=message["names"]).encode()) == {}
    new.turn()
    found = records(new) if new.from_stage.peek() else []
    new.close()
    assert [type(record) for record in found] == expected
    for record, before in zip(found, told, strict=False):
        assert vars(record) == vars(before)


def test_over_tcp_the_guest_is_the_one_of_the_connection(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(POLICY)
    rig = Rig(tmp_path, ["-config", str(path)])
    sock = rig.connect("192.168.127.9:4000")
    sock.send(framed(query("www.example.com")))
    found = records(rig)
    assert [(type(record), record.guest_addr) for record in found] == [
        (Named, ip.parse_ipv4("192.168.127.9"))
    ]
    sock.close()
    rig.close()


def test_leases_are_written_a_moment_after_they_changed_and_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "leases.json"
    rig = Rig(tmp_path, ["-state-file", str(path)])
    request = discover("020000000001", dhcp.REQUEST)
    rig.send(request, 67, guest_addr=0, guest_port=68)
    rig.reply()
    assert rig.worker.saved == []
    assert rig.stage.deadline() <= monotonic() + 1.0
    rig.breathe(monotonic() + 1.1)
    (content,) = rig.worker.saved
    assert [lease["mac"] for lease in json.loads(content)["leases"]] == ["02:00:00:00:00:01"]
    rig.send(discover("020000000002", dhcp.REQUEST), 67, guest_addr=0, guest_port=68)
    rig.reply()
    leases = rig.request({"op": "leases"})
    rig.close()
    path.write_bytes(rig.worker.saved[-1])
    again = Rig(tmp_path, ["-state-file", str(path)])
    assert again.request({"op": "leases"}) == leases
    assert len(records(again)) == 2
    again.close()


def test_demux_is_told_the_leases_that_were_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "leases.json"
    rows = [("192.168.127.9", "02:00:00:00:00:09"), ("192.168.127.5", "02:00:00:00:00:05")]
    # Addresses that cannot be a client's (the gateway's) are not taken over.
    rows.append(("192.168.127.1", "02:00:00:00:00:01"))
    leases = [{"ip": ip, "mac": mac, "expires": 4102444800} for ip, mac in rows]
    path.write_text(json.dumps({"version": 1, "leases": leases}))
    rig = Rig(tmp_path, ["-state-file", str(path)])
    told = [(type(record), record.guest_addr, record.mac) for record in records(rig)]
    assert sorted(told, key=lambda each: each[1]) == [
        (Leased, ip.parse_ipv4("192.168.127.5"), bytes.fromhex("020000000005")),
        (Leased, ip.parse_ipv4("192.168.127.9"), bytes.fromhex("020000000009")),
    ]
    rig.close()


def test_a_successor_takes_over_the_leases_that_were_reported(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [])
    rig.send(discover("020000000001", dhcp.REQUEST), 67, guest_addr=0, guest_port=68)
    rig.reply()
    assert not rig.worker.sent
    rig.breathe(rig.stage.leases.deadline())
    (report,) = rig.worker.sent
    leases = rig.request({"op": "leases"})
    rig.close()
    successor = Rig(tmp_path, [])
    answer = successor.request({**report, "op": "restore_leases"})
    assert "error" not in answer
    assert successor.request({"op": "leases"}) == leases
    assert [type(record) for record in records(successor)] == [Leased]
    successor.close()


def test_a_successor_has_the_leases_written_that_its_predecessor_has_only_reported(tmp_path: Path) -> None:
    path = tmp_path / "leases.json"
    flags = ["-state-file", str(path)]
    rig = Rig(tmp_path, flags)
    rig.send(discover("020000000001", dhcp.REQUEST), 67, guest_addr=0, guest_port=68)
    rig.reply()
    rig.breathe(rig.stage.leases.deadline())
    (report,) = rig.worker.sent
    assert rig.worker.saved == []
    successor = Rig(tmp_path, flags)
    assert "error" not in successor.request({**report, "op": "restore_leases"})
    successor.breathe(monotonic() + 1.1)
    (content,) = successor.worker.saved
    assert [lease["mac"] for lease in json.loads(content)["leases"]] == ["02:00:00:00:00:01"]
    rig.close()
    path.write_text("no leases")
    unreadable = Rig(tmp_path, flags)
    unreadable.request({**report, "op": "restore_leases"})
    unreadable.breathe(monotonic() + 1.1)
    assert unreadable.worker.saved == [], "the user can repair it"
    for each in (successor, unreadable):
        assert [type(record) for record in records(each)] == [Leased]
        each.close()
