"""What hosts that share one pool of addresses write into their common store, and how they ask for it.

The store keeps one value for each key, and a *revision* that grows with every write to any key. A write names
the revision that the key must still have (compare-and-set). All hosts see all writes in the same order.
"""

from typing import Final, NamedTuple

NO_KEY: Final = 0
"""The revision to expect of a key that must not exist."""
RESERVED: Final = b""
"""Stands for the MAC address of a claim that no guest has."""


class Claim(NamedTuple):
    """An address belongs to a host. Key: the address.

    epoch: the host's epoch when it wrote the claim. mac: of the guest that has the address, or RESERVED.
    """

    host: str
    epoch: int
    mac: bytes


class Member(NamedTuple):
    """A host is there. Key: its name.

    epoch: grows each time the host joins, since it forgets everything when it ends. beat: counts its writes
    within an epoch. fenced: another host has found it silent, so its claims are free.
    """

    epoch: int
    beat: int
    fenced: bool


class WriteClaim(NamedTuple):
    """Ask the store to write a claim, or with None to delete it, if the key has this revision."""

    addr: int
    claim: Claim | None
    revision: int


class WriteMember(NamedTuple):
    """Ask the store to write a member, if the key has this revision."""

    host: str
    member: Member
    revision: int


Write = WriteClaim | WriteMember
