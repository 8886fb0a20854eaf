"""The shape of /stats."""

from typing import Any

from pipeline import counters
from pipeline.control.http import stats


def paths(tree: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for key, value in tree.items():
        found |= paths(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return found


def test_every_source_is_a_counter_of_the_table() -> None:
    names = {name for sources in stats._SOURCES.values() for name in sources.split()}
    assert names <= set(counters.INDEX)


def test_every_filled_field_is_one_of_the_shape() -> None:
    assert set(stats._SOURCES) <= paths(stats.gvisor({}))


def test_the_top_level_is_gvisors() -> None:
    answer = stats.gvisor({})
    expected = "ARP BytesReceived BytesSent DroppedPackets ICMP IGMP IP NICs TCP UDP"
    assert list(answer) == expected.split()
    assert answer["ICMP"]["V4"]["PacketsReceived"]["ICMPv4PacketStats"]["EchoRequest"] == 0
    assert set(answer["TCP"]) >= {"ForwardMaxInFlightDrop", "ListenOverflowSynDrop", "Retransmits"}
    assert len(paths(answer)) == 172


def test_keys_are_sorted_at_every_level() -> None:
    def check(tree: dict[str, Any]) -> None:
        assert list(tree) == sorted(tree)
        for value in tree.values():
            if isinstance(value, dict):
                check(value)

    check(stats.gvisor({}))


def test_workers_are_added_up() -> None:
    answer = stats.gvisor(
        {
            "ingress": {"link_bytes_from_guest": 5, "link_frame_dropped_runt": 2},
            "tcp0": {"tcp_segment_dropped_bad_checksum": 3},
            "tcp1": {"tcp_segment_dropped_bad_checksum": 4},
        }
    )
    assert answer["BytesReceived"] == 5
    assert answer["NICs"]["Rx"]["Bytes"] == 5
    assert answer["TCP"]["ChecksumErrors"] == 7
    assert answer["DroppedPackets"] == 9
