"""Features and sizes of virtio."""

import pytest

from pipeline.wire import offload, virtio


@pytest.mark.parametrize(
    ("features", "to_us", "to_guest"),
    [
        (0, 0, 0),
        (virtio.F_CSUM, offload.CSUM, 0),
        (virtio.F_GUEST_CSUM, 0, offload.CSUM),
        (virtio.F_HOST_TSO4 | virtio.F_GUEST_TSO6, offload.TSO4, offload.TSO6),
        (virtio.F_HOST_TSO6 | virtio.F_GUEST_TSO4, offload.TSO6, offload.TSO4),
        (virtio.F_HOST_USO, offload.USO4 | offload.USO6, 0),
        (virtio.F_GUEST_USO4, 0, offload.USO4),
        (virtio.F_GUEST_USO6, 0, offload.USO6),
        (virtio.F_MRG_RXBUF | virtio.F_EVENT_IDX | virtio.F_VERSION_1, 0, 0),
    ],
)
def test_features_say_what_each_side_leaves_to_the_other(features: int, to_us: int, to_guest: int) -> None:
    assert virtio.left_to_us(features) == to_us
    assert virtio.left_to_guest(features) == to_guest


def test_areas_have_the_sizes_of_the_specification() -> None:
    assert (virtio.DESCRIPTOR_LEN * 256, virtio.avail_len(256), virtio.used_len(256)) == (4096, 518, 2054)
