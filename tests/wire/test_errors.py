"""WireError carries a counter's name."""

from pipeline.wire.errors import WireError


def test_the_reason_is_kept_and_shown() -> None:
    error = WireError("link_frame_dropped_runt")
    assert error.reason == "link_frame_dropped_runt"
    assert str(error) == "link_frame_dropped_runt"
    assert isinstance(error, ValueError)
