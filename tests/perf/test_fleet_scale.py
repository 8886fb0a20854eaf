"""The simulation of a fleet: what it writes for hosts that are not there, and what it counts."""

import argparse

import pytest

pytest.importorskip("nats")

from perf.fleet_scale import absent
from perf.fleet_scale.daemons import WatchedView, guest_mac, host_name, outer_address, pool
from perf.fleet_scale.measure import pool_size
from perf.fleet_scale.servers import Usage
from pipeline.engines.fleet.lease_pool import RESERVE
from pipeline.engines.fleet.mirror import Entry
from pipeline.engines.fleet.values import Host

HOSTS, GUESTS = 3, 5


def options() -> argparse.Namespace:
    made = argparse.Namespace(hosts=1, absent=HOSTS, guests=GUESTS, named=True)
    made.pool = pool_size(made)
    return argparse.Namespace(**{**vars(made), "hosts": HOSTS, "first": 1})


def test_a_daemon_reads_all_that_is_written_for_absent_hosts() -> None:
    own = Host(outer_address(9), 4789, "0123456789abcdef", "run", 0)
    view = WatchedView(host_name(9), own, 90.0, pool(options().pool), lambda count: count // 2)
    rows = list(absent.all_rows(options()))
    assert len(rows) == len(dict(rows)) == HOSTS * (2 + RESERVE + 3 * GUESTS)
    for revision, (key, value) in enumerate(rows, start=1):
        view.on_entry(Entry(key, value, revision), 0.0)
    assert (view.bad_values, view.entries) == (0, len(rows))
    assert len(view.members) == HOSTS + 1
    assert len(view.places) == len(view.names) == HOSTS * GUESTS
    assert not view.members.strangers()
    assert view.places.host_of(guest_mac(2, 4)) == host_name(2)


def test_a_pool_has_room_for_all_hosts_and_one_more() -> None:
    claims = [key for key, _ in absent.all_rows(options()) if key.startswith("claim.")]
    assert options().pool >= len(claims) + 2 * (GUESTS + RESERVE)


def test_a_step_is_the_difference_of_two_looks() -> None:
    assert Usage(5.0, 30, 300, 4000, 1.5).since(Usage(2.0, 10, 100, 1000, 1.0)) == (3.0, 20, 200, 3000, 0.5)
