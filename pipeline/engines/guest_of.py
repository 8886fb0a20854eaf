"""Which guest has a link: the shares of a bounded resource count guests, not links."""

from typing import Final

NO_UPLINK: Final = 0
"""Stands for the link to other hosts, if there is none. No link has this number."""


def by_link(link: int) -> int:
    """The number of a link's guest, if each link is a guest of its own."""
    return link
