"""System calls that a process keeps, as data: each with its reason, and with conditions on its arguments.

A process may make a call if one entry has its name and all conditions of this entry hold. The kernel sees
arguments as numbers. It does not follow pointers, so no condition can look at a path or an address.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

WORD: Final = 0xFFFFFFFF
"""Mask of an argument whose C type is int: the upper half of the register may hold anything."""


class Arg(NamedTuple):
    """A condition: the bits ``mask`` of the argument with this number, from 0, are ``value``."""

    number: int
    value: int
    mask: int = WORD


class Call(NamedTuple):
    """One system call. ``why``: for the reader. An unknown name is ignored: older systems lack some calls."""

    name: str
    why: str
    when: tuple[Arg, ...] = ()


Calls = tuple[Call, ...]


def calls(why: str, *names: str) -> Calls:
    """Calls without conditions that share a reason."""
    return tuple(Call(name, why) for name in names)


def each_value(name: str, why: str, number: int, values: Iterable[int]) -> Calls:
    """A call that is kept for these values of an argument of type int."""
    return tuple(Call(name, why, (Arg(number, value),)) for value in values)
