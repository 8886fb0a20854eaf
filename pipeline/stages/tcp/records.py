"""Converts records to segments for the TCP engine (TCP_RANGE), and its output to records (TCP_OUT)."""

from typing import Final

from pipeline.engines.tcp import actions
from pipeline.engines.tcp.segment import Segment
from pipeline.records.flows import Ends, FlowKey
from pipeline.records.kinds import NO_SLOT
from pipeline.records.tcp import TcpOut, TcpRange
from pipeline.wire import ip, tcp, tcp_options

_OPTIONS_OFF: Final = 54
_OPTIONS_OFF6: Final = 74
"""Bytes of Ethernet, IP and TCP header before the options."""


def segment(run: TcpRange) -> Segment:
    """The segment of a run without options other than timestamps. The run is the handle of its payload."""
    return Segment(
        run.seq,
        run.ack,
        run.flags,
        run.window,
        run.length,
        run if run.length else None,
        run.ts_val,
        run.ts_ecr,
        run.has_timestamps,
        (),
        0,
        -1,
        False,
        run.segments,
    )


def segment_with_options(run: TcpRange, slot: memoryview) -> Segment:
    """The segment of a run with other options, which are read from its slot. Raises WireError.

    GRO does not merge such segments. So the options lie right before the payload of the run.
    """
    before = _OPTIONS_OFF if ip.is_ipv4(Ends.of(run.key).guest_addr) else _OPTIONS_OFF6
    options = tcp_options.parse(slot, run.off - run.header_len + before, run.off)
    mss, wscale, sack_permitted, sack, ts_val, ts_ecr, has_ts = options
    return Segment(
        run.seq,
        run.ack,
        run.flags,
        run.window,
        run.length,
        run if run.length else None,
        ts_val,
        ts_ecr,
        has_ts,
        sack,
        mss,
        wscale,
        sack_permitted,
        run.segments,
    )


def outgoing(key: FlowKey, out: actions.Outgoing) -> bytes:
    """The TCP_OUT record for one range that the engine sends."""
    slot = NO_SLOT
    if out.length:
        assert isinstance(out.buf, int)
        slot = out.buf
    is_syn = out.flags & tcp.SYN != 0
    return TcpOut.pack(
        key=key,
        flags=out.flags,
        seq=out.seq,
        ack=out.ack,
        window=out.wnd,
        mss=out.mss,
        slot=slot,
        off=out.off if out.length else 0,
        length=out.length,
        has_timestamps=out.has_ts,
        ts_val=out.ts_val,
        ts_ecr=out.ts_ecr,
        sack=out.sack,
        sack_permitted=is_syn and out.syn_sack,
        window_scale=out.syn_wscale if is_syn else -1,
    )
