"""Questions and answers about trains: what is built is parsed again, and anything else is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import vxlan, vxlan_train
from pipeline.wire.errors import WireError

NONCES = st.integers(0, 2**64 - 1)
VNIS = st.integers(0, vxlan.MAX_VNI)


@given(st.sampled_from([vxlan_train.QUESTION, vxlan_train.ANSWER]), VNIS, NONCES)
def test_what_is_built_is_parsed_again(kind: int, vni: int, nonce: int) -> None:
    assert vxlan_train.parse_control(vxlan_train.build_control(kind, vni, nonce), vni) == (kind, nonce)


@given(st.binary(max_size=40), VNIS)
def test_any_bytes_are_read_or_refused(data: bytes, vni: int) -> None:
    kind, reason = vxlan_train.QUESTION, ""
    try:
        kind, _ = vxlan_train.parse_control(data, vni)
    except WireError as error:
        reason = error.reason
    assert kind in (vxlan_train.QUESTION, vxlan_train.ANSWER)
    assert reason in ("", "vxlan_datagram_dropped_malformed")


def test_another_network_is_refused() -> None:
    with pytest.raises(WireError):
        vxlan_train.parse_control(vxlan_train.build_control(vxlan_train.QUESTION, 7, 1), 8)
    with pytest.raises(ValueError, match="no VNI"):
        vxlan_train.build_control(vxlan_train.QUESTION, 1 << 24, 1)


def test_no_other_implementation_takes_such_a_datagram() -> None:
    datagram = vxlan_train.build_control(vxlan_train.QUESTION, 7, 1) + bytes(60)
    with pytest.raises(WireError) as caught:
        vxlan.parse(datagram, 0, len(datagram))
    assert caught.value.reason == "vxlan_datagram_dropped_no_vni"
