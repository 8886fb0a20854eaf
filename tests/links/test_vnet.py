"""Virtio-net headers on links: the option of the URL, and the packets that framed buffers stand for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.links import vnet
from pipeline.wire import offload
from pipeline.wire.offload import CSUM, TSO4, TSO6


@pytest.mark.parametrize(
    ("url", "features"),
    [
        ("unixgram:///run/vm.sock", None),
        ("unixgram:///run/vm.sock?", None),
        ("unixgram:///run/vm.sock?vnet", CSUM | TSO4 | TSO6),
        ("unix:///run/vm.sock?vnet=csum,tso4", CSUM | TSO4),
        ("tcp://127.0.0.1:1?vnet=tso6,csum", CSUM | TSO6),
        ("vsock://:1024?vnet=csum", CSUM),
        ("fd://3?vnet=none", 0),
        ("fd://name?vnet", CSUM | TSO4 | TSO6),
        ("", None),
    ],
)
def test_the_option_says_what_the_guest_takes(url: str, features: int | None) -> None:
    assert vnet.guest_features(url) == features


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("vent", "unknown option 'vent'"),
        ("vnet&x=1", "unknown option 'vnet&x=1'"),
        ("vnet=", "option vnet: unknown word ''"),
        ("vnet=csum,ufo", "option vnet: unknown word 'ufo'"),
        ("vnet=none,csum", "option vnet: unknown word 'none'"),
        ("vnet=tso4", "option vnet: tso4 and tso6 need csum"),
    ],
)
def test_a_wrong_option_is_named(query: str, words: str) -> None:
    with pytest.raises(ValueError, match="vnet") as raised:
        vnet.guest_features(f"unixgram:///s?{query}")
    assert str(raised.value).startswith(words)
    if "unknown" in words:
        assert "vnet= and some of csum, tso4, tso6" in str(raised.value)


@given(st.lists(st.binary(min_size=12, max_size=300), max_size=8), st.randoms(use_true_random=False))
def test_packets_are_found_however_their_frames_lie_in_buffers(packets: list[bytes], random: object) -> None:
    buffers: list[bytes | memoryview] = []
    for packet in packets:
        made = offload.FRAMING.prefix.pack(len(packet)) + packet
        how = random.randrange(3)  # type: ignore[attr-defined]
        if how == 0 and buffers:
            buffers[-1] = bytes(buffers[-1]) + made
        elif how == 1 and len(packet) > 12:
            buffers += [made[:16], memoryview(made)[16:]]
        else:
            buffers.append(made)
    assert [b"".join(parts) for parts in vnet.packets(buffers)] == packets


def test_a_long_payload_is_not_copied() -> None:
    payload = memoryview(bytes(60000))
    head = offload.FRAMING.prefix.pack(66 + len(payload)) + bytes(66)
    ((first, second),) = vnet.packets([head, payload])
    assert len(first) == 66
    assert second is payload
