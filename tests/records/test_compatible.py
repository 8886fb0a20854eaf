"""Every layout lies over the fields of pipeline.shm.descriptor: stages can be converted one by one.

To be deleted with that module.
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.records import descriptor as d
from pipeline.records import frames, kinds, udp
from pipeline.records.flows import FLOW_FROM_EGRESS, Ends
from pipeline.records.run import Run
from tests.records.layouts import arbitrary, pack
from tests.support.layouts import CLASSES
from tests.support.record import Record

KINDS = sorted(CLASSES)
NAMES = {kind: name for name, kind in vars(kinds).items() if isinstance(kind, int) and name.isupper()}
SAME_NAME = ("slot", "off", "length", "stride", "skip", "link", "flow", "seq", "ack", "ts_val", "ts_ecr",
             "guest_addr", "remote_addr")  # fmt: skip
SAME_PLACE = {
    "piece_size": "gso_size", "mss": "gso_size", "segments": "flow", "frames": "aux", "except_link": "aux",
    "egress": "aux", "error": "aux", "pattern": "aux", "count": "length", "make_way": "length",
    "syn_seq": "seq", "ttl_s": "seq", "offender": "seq", "mtu": "ack", "window": "wnd", "flags": "flags",
}  # fmt: skip


def old_fields(kind: int, fields: dict[str, Any]) -> dict[str, int]:
    """What the old table says of these fields, kind by kind where it says one thing in several ways."""
    old = {name: fields[name] for name in SAME_NAME if name in fields}
    old |= {SAME_PLACE[name]: fields[name] for name in fields if name in SAME_PLACE}
    if "key" in fields:
        ends = Ends.of(fields["key"])
        old |= {"guest_addr": ends.guest_addr, "remote_addr": ends.remote_addr}
        old["ports"] = ends.guest_port << 16 | ends.remote_port
    if "mac" in fields:
        number = int.from_bytes(fields["mac"], "big")
        old |= {"seq": number >> 16, "ack": number & 0xFFFF}
        assert d.mac_of(old["seq"], old["ack"]) == fields["mac"]
    if kind in (d.FRAME, d.FRAME_OUT):
        old["flags"] = fields["vnet"] * d.FRAME_VNET | fields.get("borrowed", False) * d.FRAME_BORROWED
    elif kind == d.TCP_RANGE:
        old["aux"] = (
            fields["header_len"]
            | fields["has_timestamps"] * d.RUN_HAS_TIMESTAMPS
            | fields["has_other_options"] * d.RUN_OTHER_OPTIONS
            | fields["vnet"] * d.RUN_VNET
        )
    elif kind == d.UDP_RANGE:
        old["aux"] = udp.HEADERS_LEN | fields["vnet"] * d.RUN_VNET
    elif kind == d.UDP_DATA:
        old["aux"] = fields["after_steered"] * d.UDP_BEHIND
    elif kind == d.TCP_OUT:
        old |= tcp_out(fields)
    elif kind == d.SHUTDOWN:
        old["aux"] = fields["both"] * d.SHUTDOWN_BOTH
    elif kind == d.DIAL:
        old["ports"] = fields["guest_port"] << 16
    elif kind == d.DIAL_FAILED:
        old["aux"] = fields["final"] * d.DIAL_FINAL
    elif kind == d.WINDOW:
        old["length"] = old.pop("wnd")
    elif kind in (d.ICMP_ECHO, d.ICMP_REPLY, d.ICMP_ERROR):
        old["ports"] = fields["identifier"] << 16 | fields["sequence"]
    if kind == d.ICMP_ECHO:
        old["aux"] = fields["hops_left"] | fields["dont_fragment"] * d.ECHO_DONT_FRAGMENT
    elif kind in (d.ICMP_ERROR, d.GUEST_ERROR):
        old["aux"] = fields["type"] << 8 | fields["code"]
    elif kind == d.UNREACHABLE:
        old["aux"] = fields["protocol"] << 8 | fields["code"]
    if kind in (d.UDP_RANGE, d.UDP_OUT, d.UDP_TO_GUEST):
        run = Run(*(fields[name] for name in ("slot", "off", "length", "stride", "piece_size")))
        old["flow"] = run.piece_count()
    return old


def tcp_out(fields: dict[str, Any]) -> dict[str, int]:
    """The options of a TCP_OUT."""
    sack = fields["sack"]
    bits = fields["has_timestamps"] * d.OUT_TIMESTAMPS | len(sack) << d.OUT_SACK_SHIFT
    bits |= fields["sack_permitted"] * d.OUT_SACK_PERMITTED
    if fields["window_scale"] >= 0:
        bits |= d.OUT_WINDOW_SCALE | fields["window_scale"] << d.OUT_WINDOW_SCALE_SHIFT
    old = {"link": fields["window"], "stride": bits, "wnd": 0}
    for names, block in zip((("skip", "flow"), ("wnd", "aux"), ("slot", "off")), sack, strict=False):
        old |= dict(zip(names, block, strict=True))
    return old


@settings(deadline=None, max_examples=30)
@pytest.mark.parametrize("kind", KINDS, ids=[NAMES[kind] for kind in KINDS])
@given(data=st.data())
def test_every_field_lies_where_the_old_table_has_it(kind: int, data: st.DataObject) -> None:
    fields = data.draw(arbitrary(kind))
    found = Record(*d.DESCRIPTOR.unpack(pack(kind, fields)))
    expected = Record(kind, *[0] * 18)._replace(**old_fields(kind, fields))
    assert found == expected


def test_all_constants_are_the_same() -> None:
    for number, name in NAMES.items():
        if name not in ("RECORD_BYTES", "SLOT_ENTRY_BYTES"):
            assert getattr(d, name) == number
    assert kinds.RECORD_BYTES == d.DESCRIPTOR_BYTES
    assert kinds.REPORT_EVERY_S == d.TELL_EVERY_S
    assert frames.ALL_LINKS == d.ALL_LINKS
    assert FLOW_FROM_EGRESS == d.FLOW_FROM_EGRESS


@given(off=st.integers(0, 500), size=st.integers(1, 60), gap=st.integers(0, 40), length=st.integers(1, 900))
def test_pieces_are_counted_as_before(off: int, size: int, gap: int, length: int) -> None:
    run = Run(0, off, length, size + gap, size)
    assert run.piece_count() == d.piece_count(length, size)
    assert run.piece_bounds() == d.piece_bounds(off, length, size + gap, size)
