"""The configuration refuses values that the engine could not work with."""

import pytest

from pipeline.engines.tcp.config import IPV6_TCP_HEADER_BYTES, TcpConfig


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"mtu": 127}, "mtu"),
        ({"mtu": 65536}, "mtu"),
        ({"initial_receive_window": 0}, "receive windows"),
        ({"initial_receive_window": 10, "max_receive_window": 9}, "receive windows"),
        ({"max_receive_window": 1 << 31}, "receive windows"),
        ({"max_range_bytes": 1000}, "max_range_bytes"),
        ({"min_rto": 2.0, "initial_rto": 1.0}, "retransmission"),
        ({"congestion": "vegas"}, "vegas"),
    ],
)
def test_a_wrong_value_is_refused_by_name(fields: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        TcpConfig(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "window, shift", [(65535, 0), (65536, 1), (256 * 1024, 3), (4 << 20, 7), (65535 << 14, 14)]
)
def test_window_shift_is_the_smallest_that_fits(window: int, shift: int) -> None:
    cfg = TcpConfig(initial_receive_window=1000, max_receive_window=window)
    assert cfg.window_shift == shift


def test_our_mss_leaves_room_for_both_headers() -> None:
    assert TcpConfig(mtu=1500).rcv_mss == 1460
    assert TcpConfig(mtu=65520).rcv_mss == 65480
    assert TcpConfig(mtu=1500, header_bytes=IPV6_TCP_HEADER_BYTES).rcv_mss == 1440
