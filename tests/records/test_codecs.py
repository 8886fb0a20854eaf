"""Every record is read as it was written."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.records.flows import Ends, flow_key, flow_of
from pipeline.records.kinds import RECORD_BYTES
from pipeline.records.tcp import TcpOut
from tests.records.layouts import arbitrary, extremes, pack
from tests.support.layouts import CLASSES, decode

KINDS = sorted(CLASSES)
NAMES = [f"{kind}-{CLASSES[kind].__name__}" for kind in KINDS]


@settings(deadline=None, max_examples=30)
@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
@given(data=st.data())
def test_what_is_packed_is_unpacked(kind: int, data: st.DataObject) -> None:
    check_reading(kind, data.draw(arbitrary(kind)))


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_every_field_holds_its_least_and_its_largest_value(kind: int) -> None:
    for fields in extremes(kind):
        check_reading(kind, fields)


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_bytes_of_no_field_are_zero(kind: int) -> None:
    least, largest = (pack(kind, fields) for fields in extremes(kind))
    same = {at for at in range(RECORD_BYTES) if least[at] and least[at] == largest[at]}
    assert same == {0}


def check_reading(kind: int, fields: dict[str, Any]) -> None:
    """A record of these fields, between others, is read as it was written."""
    record = pack(kind, fields)
    assert len(record) == RECORD_BYTES
    assert record[0] == kind
    burst = memoryview(b"\xff" * RECORD_BYTES + record + b"\xff" * RECORD_BYTES)
    if "flow" in fields:
        assert flow_of(burst, RECORD_BYTES) == fields["flow"], "where every reader looks for it"
    cls: Any = CLASSES[kind]
    found = vars(cls.unpack(burst, RECORD_BYTES))
    # A received run has no skip, and no field for it.
    assert found.pop("skip", 0) == fields.pop("skip", 0)
    assert found == fields


@settings(deadline=None, max_examples=30)
@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
@given(record=st.binary(min_size=RECORD_BYTES - 1, max_size=RECORD_BYTES - 1))
def test_any_bytes_are_a_record(kind: int, record: bytes) -> None:
    decode(bytes([kind]) + record)


@given(*[st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFF)] * 2)
def test_a_key_has_both_ends_of_a_flow(guest: int, guest_port: int, remote: int, remote_port: int) -> None:
    ends = Ends(guest, guest_port, remote, remote_port)
    key = ends.key()
    assert key == flow_key(guest, guest_port, remote, remote_port)
    assert vars(Ends.of(key)) == vars(ends)


def test_sack_blocks_without_room_are_left_out() -> None:
    blocks = ((1, 2), (3, 4), (5, 6), (7, 8))
    usual = {"key": bytes(12), "flags": 16, "seq": 1, "ack": 2, "window": 3, "mss": 1460, "sack": blocks}
    assert decode(TcpOut.pack(**usual)).sack == blocks[:3]  # type: ignore[arg-type]
    with_data = decode(TcpOut.pack(**usual, slot=7, off=256, length=9))  # type: ignore[arg-type]
    assert (with_data.sack, with_data.slot, with_data.off) == (blocks[:2], 7, 256)
