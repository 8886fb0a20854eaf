"""Between records and the engine: segments with options, and ranges for ingress (TCP_OUT)."""

from typing import Final, cast

from pipeline.engines.tcp import actions
from pipeline.engines.tcp.segment import Segment
from pipeline.records import descriptor as d
from pipeline.wire import ethernet, ipv4, tcp, tcp_options

_OPTIONS_OFF: Final = ethernet.HEADER_LEN + ipv4.HEADER_LEN + tcp.HEADER_LEN


def with_options(
    view: memoryview, seq: int, ack: int, flags: int, wnd: int, length: int, buf: object, seg_count: int,
    off: int, aux: int,
) -> Segment:  # fmt: skip
    """A segment with options beyond timestamps: they are read from its slot. Raises WireError.

    Such segments stand alone in their run, so the options lie right before its payload.
    """
    options = tcp_options.parse(view, off - (aux & d.RUN_HEADER_MASK) + _OPTIONS_OFF, off)
    mss, wscale, sack_permitted, sack, ts_val, ts_ecr, has_ts = options
    return Segment(
        seq, ack, flags, wnd, length, buf, ts_val, ts_ecr, has_ts, sack, mss, wscale, sack_permitted,
        seg_count,
    )  # fmt: skip


def outgoing(key: tuple[int, int, int], out: actions.Outgoing) -> bytes:
    """The record of one range; key = (guest_addr, remote_addr, ports)."""
    guest_addr, remote_addr, ports = key
    options = d.OUT_TIMESTAMPS if out.has_ts else 0
    slot, off, skip, flow, wnd, aux = d.NO_SLOT, 0, 0, 0, 0, 0
    if out.length:
        slot, off = cast(int, out.buf), out.off
    if out.sack:
        blocks = out.sack[: 2 if out.length else 3]
        options |= len(blocks) << d.OUT_SACK_SHIFT
        skip, flow = blocks[0]
        if len(blocks) > 1:
            wnd, aux = blocks[1]
        if len(blocks) > 2:
            slot, off = blocks[2]
    if out.flags & tcp.SYN:
        if out.syn_sack:
            options |= d.OUT_SACK_PERMITTED
        if out.syn_wscale >= 0:
            options |= d.OUT_WINDOW_SCALE | out.syn_wscale << d.OUT_WINDOW_SCALE_SHIFT
    return d.DESCRIPTOR.pack(
        d.TCP_OUT, out.flags, out.wnd, options, out.mss, slot, off, out.length, skip, flow,
        out.seq, out.ack, wnd, out.ts_val, out.ts_ecr, guest_addr, remote_addr, ports, aux,
    )  # fmt: skip
