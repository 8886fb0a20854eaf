"""The snapshot shows the truth in plain values."""

import json

import pytest

from tests.engines.tcp.builders import BUILDERS, MASK, established


@pytest.mark.parametrize("start", sorted(BUILDERS))
def test_a_snapshot_is_json_in_every_state(start: str) -> None:
    rig = BUILDERS[start]()
    snapshot = rig.conn.snapshot()
    assert json.loads(json.dumps(snapshot)) == snapshot
    assert snapshot["state"] == rig.state
    assert isinstance(snapshot["queued_bytes"], int)
    assert snapshot["queued_bytes"] >= 0


def test_a_snapshot_counts_what_is_queued_and_in_flight() -> None:
    rig = established()
    rig.host_data(65536)
    rig.send()
    snapshot = rig.conn.snapshot()
    assert snapshot["queued_bytes"] == 65536
    assert snapshot["queued_handles"] == 1
    assert snapshot["pipe"] == 14480
    assert snapshot["snd_nxt"] == (rig.conn.snd_una + 14480) & MASK


def test_a_connection_is_small() -> None:
    """Thousands of them sit in TIME-WAIT."""
    assert not hasattr(established().conn, "__dict__")
