"""Open vSwitch as the other end of a VXLAN link, in user space."""

import pytest

from tests.e2e.test_vxlan import MIB, dropped, guest_addr, one, reaches, serving
from tests.support.agent import run_client
from tests.support.fleet import Fleet
from tests.support.netns import leftovers, wait_for
from tests.support.open_vswitch import OpenVswitch, missing, send_whole
from tests.support.servers import DATA

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(missing()), reason=missing())]


def test_a_guest_reaches_one_behind_open_vswitch() -> None:
    with Fleet(2) as fleet:
        first, second = fleet.hosts
        send_whole(first.host, "veth0")
        with (
            one(first, second.number) as daemon,
            OpenVswitch(second, first.number, guest_addr(second)),
            serving(second.host, second),
        ):
            # The switch loses what comes before it knows the other host.
            wait_for(
                lambda: reaches(first.guest, guest_addr(second), "-M", "do", "-s", "1422"), "the guest", 15.0
            )
            assert reaches(second.host, guest_addr(first))
            moved = run_client(first.guest, "transfer", guest_addr(second), DATA, 4 * MIB, 4 * MIB)
            assert moved["errors"] == []
            assert dropped(daemon, "vxlan_datagram_dropped_unknown_source") == 0
    assert leftovers() == []
