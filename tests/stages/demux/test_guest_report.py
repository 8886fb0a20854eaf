"""What demux reports of each guest for the path /guests."""

from pipeline.engines.neighbors.addresses import GuestAddresses
from pipeline.engines.neighbors.table import Neighbors
from pipeline.stages.demux import guest_report
from pipeline.wire import ip


def test_addresses_of_all_links_of_a_guest_stand_together() -> None:
    macs = [bytes([2, 0, 0, 0, 0, number]) for number in range(3)]
    answer = guest_report.answer(
        links={1: 7, 2: 7, 3: 9},
        cam={macs[0]: 1, macs[1]: 2, macs[2]: 3},
        neighbors={
            ip.parse_ipv4("192.168.127.3"): (macs[1], 2),
            ip.parse_ipv4("192.168.127.2"): (macs[0], 1),
        },
        udp_flows={9: 4},
    )
    assert answer.macs == {"7": ["02:00:00:00:00:00", "02:00:00:00:00:01"], "9": ["02:00:00:00:00:02"]}
    assert answer.ips == {"7": ["192.168.127.2", "192.168.127.3"]}
    assert answer.guests == {"7": {"addresses": 2}, "9": {"udp_flows": 4}}


def test_a_guest_that_makes_up_addresses_has_a_short_list() -> None:
    cam = {(0x020000000000 + number).to_bytes(6, "big"): 1 for number in range(1000)}
    answer = guest_report.answer({1: 1}, cam, {}, {})
    assert answer.macs is not None
    assert len(answer.macs["1"]) == guest_report.MAX_NAMES


def test_only_addresses_that_are_asked_for_and_known_are_answered() -> None:
    one, two, three = (ip.parse_ipv4(f"192.168.127.{last}") for last in (2, 3, 4))
    addresses = GuestAddresses(ip.parse_ipv4("192.168.127.0"), 24)
    table = Neighbors(addresses, b"\x02gatew")
    mac = bytes([2, 0, 0, 0, 0, 1])
    table.learn(one, mac, 1, 0.0)
    table.learn(two, mac, 2, 0.0)
    table.resolve(three, 0.0)
    wanted = [ip.text(addr) for addr in (one, three)]
    wanted.append("fd12:3456:789a::2")
    answer = guest_report.neighbors({1: 7}, table, wanted)
    assert answer.neighbors == {"192.168.127.2": ["02:00:00:00:00:01", 7]}
