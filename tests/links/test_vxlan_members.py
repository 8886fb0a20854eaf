"""The link to other hosts in a fleet: hosts come and go while it runs, and places of stations are known."""

from collections.abc import Iterator

import pytest

from pipeline.engines.vxlan.forwarding import ALL_HOSTS
from pipeline.links.vxlan_url import End
from pipeline.wire import arp, ethernet, icmpv6, ip, ipv6
from tests.links.test_vxlan import ELSEWHERE, HEADER, HERE, THERE, Hosts, frame, framed, question

FAR = ip.parse_ipv4("192.168.127.9")
FAR6 = ip.parse("fd12:3456:789a:1::9")


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    made = Hosts(3)
    made.link._place = made.link._place._replace(remotes=())
    made.link.set_members(())
    yield made
    made.close()


def end(hosts: Hosts, number: int) -> End:
    return End(*hosts.socks[number].getsockname())


def sent_to(hosts: Hosts) -> list[int]:
    """The hosts that have got something."""
    return [number for number in range(3) if hosts.received(number)]


def solicitation(src: int = FAR6 + 1) -> bytes:
    group = ipv6.solicited_node(FAR6)
    message = icmpv6.build(icmpv6.NEIGHBOR_SOLICITATION, 0, 0, src, group, FAR6.to_bytes(16, "big"))
    return icmpv6.frame(ethernet.BROADCAST, HERE, src, group, message)


def test_only_members_are_heard_and_get_frames(hosts: Hosts) -> None:
    hosts.send(HEADER + frame())
    assert hosts.frames() == []
    assert hosts.drops() == {"vxlan_datagram_dropped_unknown_source": 1}
    hosts.link.set_members([end(hosts, 0), end(hosts, 1)])
    hosts.send(HEADER + frame())
    assert hosts.frames() == [frame()]
    hosts.link.send([framed(frame(ethernet.BROADCAST, HERE))])
    assert sent_to(hosts) == [0, 1]
    hosts.link.set_members([end(hosts, 1), end(hosts, 2)])
    hosts.link.send([framed(frame(ethernet.BROADCAST, HERE))])
    assert sent_to(hosts) == [1, 2]
    hosts.send(HEADER + frame())
    assert hosts.frames() == []


def test_what_was_learned_from_a_host_goes_with_it(hosts: Hosts) -> None:
    hosts.link.set_members([end(hosts, 0), end(hosts, 1)])
    hosts.send(HEADER + frame())
    assert hosts.frames()
    hosts.link.send([framed(frame(THERE, HERE))])
    assert sent_to(hosts) == [0]
    hosts.link.set_members([end(hosts, 1)])
    assert hosts.link.table.host_of(THERE) == ALL_HOSTS
    hosts.link.set_members([end(hosts, 2), end(hosts, 1)])
    hosts.link.send([framed(frame(THERE, HERE))])
    assert sent_to(hosts) == [1, 2], "a host with the number of an old one has not its stations"


def test_a_place_leads_to_one_host_until_a_frame_says_more(hosts: Hosts) -> None:
    hosts.link.set_members([end(hosts, number) for number in range(3)])
    hosts.link.set_places({THERE: "127.0.0.3"}, {})
    hosts.link.send([framed(frame(THERE, HERE))])
    assert sent_to(hosts) == [1]
    hosts.send(HEADER + frame(), host=2)
    assert hosts.frames()
    hosts.link.send([framed(frame(THERE, HERE))])
    assert sent_to(hosts) == [2]
    hosts.link.set_places({THERE: "127.0.0.2"}, {})
    hosts.link.send([framed(frame(THERE, HERE))])
    assert sent_to(hosts) == [0], "the station has moved"
    hosts.link.set_places({THERE: ""}, {})
    hosts.link.send([framed(frame(THERE, HERE))])
    assert sent_to(hosts) == [0, 1, 2]


def test_a_question_for_a_known_address_goes_to_one_host(hosts: Hosts) -> None:
    hosts.link.set_members([end(hosts, number) for number in range(3)])
    hosts.link.set_places({}, {ip.packed(FAR): "127.0.0.3", ip.packed(FAR6): "127.0.0.4"})
    for asked, expected in (
        (question(FAR, HERE), [1]),
        (question(FAR + 1, HERE), [0, 1, 2]),
        (solicitation(), [2]),
        (solicitation(src=0), [0, 1, 2]),
        (frame(ethernet.BROADCAST, HERE), [0, 1, 2]),
    ):
        hosts.link.send([framed(asked)])
        assert sent_to(hosts) == expected


def test_announcements_go_to_all_hosts(hosts: Hosts) -> None:
    hosts.link.set_members([end(hosts, number) for number in range(3)])
    hosts.link.set_places({}, {ip.packed(FAR): "127.0.0.3"})
    for operation in (arp.REQUEST, arp.REPLY):
        body = arp.build(operation, HERE, FAR, ethernet.ZERO, FAR)
        hosts.link.send([framed(ethernet.header(ethernet.BROADCAST, HERE, ethernet.TYPE_ARP) + body)])
        assert sent_to(hosts) == [0, 1, 2]


def test_hosts_of_the_configuration_stay(hosts: Hosts) -> None:
    hosts.link._place = hosts.link._place._replace(remotes=(end(hosts, 0),))
    hosts.link.set_members([end(hosts, 1)])
    hosts.link.set_members([])
    hosts.link.send([framed(frame(ELSEWHERE, HERE))])
    assert sent_to(hosts) == [0]
