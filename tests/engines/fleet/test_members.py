"""Members of a fleet, in virtual time."""

from pipeline.engines.fleet.members import RETRY_S, Members, WriteHost
from pipeline.engines.fleet.values import Host

TTL = 90.0
OWN = Host("10.0.0.1", 4789, "net", "run1", 0)
OTHER = Host("10.0.0.2", 4789, "net", "run2", 1)


def online() -> Members:
    members = Members("alpha", OWN, TTL)
    members.on_online(0.0)
    return members


def test_a_host_writes_its_row_at_once_and_three_times_in_a_ttl() -> None:
    members = online()
    assert members.take_writes() == [WriteHost("alpha", OWN._replace(beat=1), None)]
    assert members.deadline() == RETRY_S
    members.on_host("alpha", OWN._replace(beat=1), 1, 0.5)
    assert members.deadline() == TTL / 3
    members.on_timer(TTL / 3)
    assert [write.host for write in members.take_writes()] == [OWN._replace(beat=2)]


def test_a_row_that_does_not_come_back_is_written_again() -> None:
    members = online()
    members.take_writes()
    members.on_timer(RETRY_S)
    assert [write.host for write in members.take_writes()] == [OWN._replace(beat=2)]


def test_another_host_is_a_member_until_it_is_silent_for_a_ttl() -> None:
    members = online()
    assert members.take_changes() == set()
    members.on_host("beta", OTHER, 5, 10.0)
    assert members.take_changes() == {"beta"}
    assert members.address_of("beta") == "10.0.0.2"
    members.on_host("beta", OTHER._replace(beat=2), 6, 60.0)
    assert members.take_changes() is None
    members.take_writes()
    members.on_timer(149.0)
    assert members.others()
    members.take_writes()
    members.on_timer(150.0)
    assert not members.others()
    assert members.take_changes() == {"beta"}
    assert WriteHost("beta", None, 6) in members.take_writes()


def test_the_host_that_is_silent_for_longest_decides_when_to_look() -> None:
    members = online()
    members.on_host("alpha", OWN._replace(beat=1), 1, 0.0)
    members.on_host("beta", OTHER, 5, 10.0)
    members.on_host("gamma", OTHER._replace(address="10.0.0.3"), 6, 20.0)
    members.on_host("beta", OTHER._replace(beat=2), 7, 30.0)
    members.on_timer(90.0)
    members.on_host("alpha", OWN._replace(beat=2), 8, 90.0)
    assert members.deadline() == 20.0 + TTL
    members.on_timer(20.0 + TTL - 0.1)
    assert list(members.others()) == ["beta", "gamma"]
    members.on_timer(20.0 + TTL)
    assert list(members.others()) == ["beta"]
    members.on_host("beta", OTHER._replace(address="10.0.0.9", beat=3), 9, 115.0)
    assert members.take_changes() == {"beta", "gamma"}


def test_no_member_is_lost_while_the_store_is_away() -> None:
    members = online()
    members.on_host("beta", OTHER, 5, 10.0)
    members.on_offline()
    assert members.deadline() == float("inf")
    members.on_timer(10_000.0)
    assert members.others()
    members.on_online(10_000.0)
    members.on_timer(10_000.0 + TTL - 1)
    assert members.others()
    members.on_timer(10_000.0 + TTL)
    assert not members.others()


def test_a_host_whose_row_was_removed_writes_it_again_at_once() -> None:
    members = online()
    members.take_writes()
    members.on_host("alpha", None, 9, 20.0)
    members.on_timer(20.0)
    assert [write.host for write in members.take_writes()] == [OWN._replace(beat=2)]


def test_beats_that_do_not_come_back_are_counted() -> None:
    members = online()
    members.on_timer(TTL / 3)
    assert members.unanswered == 2
    members.on_host("alpha", OWN._replace(beat=2), 3, 31.0)
    assert members.unanswered == 0


def test_another_daemon_with_the_same_name_is_noticed() -> None:
    members = online()
    members.on_host("alpha", OWN._replace(run="run9", beat=4), 3, 1.0)
    assert members.rival == "run9"


def test_hosts_of_another_network_are_named() -> None:
    members = online()
    members.on_host("beta", OTHER._replace(network="else"), 5, 10.0)
    assert members.strangers() == ["beta"]


def test_hosts_of_a_fleet_that_is_too_large_choose_the_same_ones() -> None:
    names = ("alpha", "beta", "gamma", "delta")
    chosen = {}
    for name in names:
        members = Members(name, OWN, TTL)
        for number, other in enumerate(names):
            if other != name:
                members.on_host(other, OTHER._replace(address=other), number, 0.0)
        chosen[name] = sorted(host.address for host in members.linked(2))
        assert len(members.linked(3)) == 3
    assert chosen == {
        "alpha": ["beta", "delta"],
        "beta": ["alpha", "delta"],
        "delta": ["alpha", "beta"],
        "gamma": [],
    }
