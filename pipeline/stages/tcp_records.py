"""Ranges of the engine as records for ingress (TCP_OUT of pipeline.shm.descriptor)."""

from typing import cast

from pipeline.engines.tcp import actions
from pipeline.shm import descriptor as d
from pipeline.wire import tcp


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
