"""The first sequence number of a connection (RFC 6528): ISN = M + F(4-tuple, secret).

M is a clock that ticks every 4 microseconds, F a keyed hash. The ISNs of one 4-tuple grow with time, so
segments of an earlier connection are not taken for those of a later one. An attacker cannot guess the ISNs of
another 4-tuple. The caller provides the secret (at least 16 random bytes, new at each start).
"""

from struct import Struct
from typing import Final

from pipeline.blake2 import blake2b
from pipeline.engines.tcp.seq import MASK

_TUPLE: Final = Struct("!16s16sHH")
_WORD: Final = Struct("!I")


def initial_sequence_number(
    secret: bytes, guest_addr: int, guest_port: int, remote_addr: int, remote_port: int, now: float
) -> int:
    """The ISN of a connection that is opened at ``now`` (monotonic seconds). secret: 1 to 64 bytes."""
    guest, remote = guest_addr.to_bytes(16, "big"), remote_addr.to_bytes(16, "big")
    pair = _TUPLE.pack(guest, remote, guest_port, remote_port)
    (keyed,) = _WORD.unpack(blake2b(pair, digest_size=4, key=secret).digest())
    return (int(now * 250_000) + int(keyed)) & MASK
