"""Namespaces and servers with both families, for tests of IPv6."""

import contextlib
from collections.abc import Iterator

from tests.support.netns import Network, add_ipv6, leftovers
from tests.support.servers import Servers


@contextlib.contextmanager
def network(guest_count: int) -> Iterator[Network]:
    """Guests, and an internet with IPv6. Programs of the host may have ping sockets."""
    with Network(guest_count=guest_count) as made:
        add_ipv6(made)
        made.host.run("sysctl", "-q", "-w", "net.ipv4.ping_group_range=0 2147483647")
        yield made
    assert leftovers() == []


@contextlib.contextmanager
def servers(network: Network) -> Iterator[Servers]:
    """Servers in the internet, for both families."""
    made = Servers(network.internet, network.directory, "::")
    yield made
    made.close()
