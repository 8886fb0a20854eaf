"""Makes TCP ranges for tests of GSO from their fields. TCP options are given as bytes."""

from pipeline.engines.offload.gso import Buffer, Segmenter
from pipeline.records.flows import Ends
from pipeline.records.tcp import TcpOut
from pipeline.wire import tcp_options
from tests.support.frames import FAMILIES, Family

IPV4 = FAMILIES["IPv4"]
ENDS = Ends(IPV4.guest, 40000, IPV4.remote, 80)


def range_of(length: int, seq: int, ack: int, flags: int, window: int, options: bytes, mss: int) -> TcpOut:
    """A range of length bytes with these options, which must not be those of a SYN."""
    found = tcp_options.parse(options, 0, len(options))
    return TcpOut(
        key=ENDS.key(),
        flags=flags,
        seq=seq,
        ack=ack,
        window=window,
        mss=mss,
        slot=0,
        off=0,
        length=length,
        has_timestamps=found.has_ts,
        ts_val=found.ts_val,
        ts_ecr=found.ts_ecr,
        sack=found.sack,
        sack_permitted=False,
        window_scale=-1,
    )


def cut(
    segmenter: Segmenter,
    payload: memoryview | bytes,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    options: bytes,
    mss: int,
    ident: int,
    family: Family = IPV4,
) -> list[Buffer]:
    """The buffers for a range from the remote to the guest."""
    out = range_of(len(payload), seq, ack, flags, window, options, mss)
    ends = Ends(family.guest, 40000, family.remote, 80)
    return segmenter.segments(family.to_guest, ends, out, payload, ident)
