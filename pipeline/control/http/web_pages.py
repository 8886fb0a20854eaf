"""Keeps web pages away from the API. A browser on the host can send requests to any TCP port of the host.

A page may send a POST to any origin, and it may read the answers of its own origin. With DNS rebinding, the
page's own name leads to this endpoint, which then is its own origin. Three rules keep pages out:

- An endpoint on TCP has no name but localhost. So Host must be an address or localhost.
- A browser says in Origin or Sec-Fetch-Site that a page made the request (Fetch standard section 3.2; Fetch
  Metadata). Programs such as curl send neither.
- A browser sends no Origin with a GET, and no Sec-Fetch-Site to addresses such as 0.0.0.0. Such a GET reads
  only, and the page cannot see the answer. But a take-over path takes any method. So these paths refuse the
  User-Agent of a browser.

A browser cannot open unix and vsock sockets. A guest reaches the gateway's port 80 by names that its own
administrator chose. So only the second rule holds there, and any Origin is refused.
"""

import ipaddress
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

LOCAL_NAMES: Final = frozenset({"localhost", "localhost."})
OWN_SITES: Final = frozenset({"none", "same-origin"})
"""Sec-Fetch-Site of a request that the user typed, and of one that a page of this endpoint makes."""
HOST_HINT: Final = "use an IP address or localhost"
BROWSER: Final = "mozilla/"
"""The first letters of every browser's User-Agent, in lower case."""


def refusal(
    hosts: Sequence[str],
    origins: Sequence[str],
    sites: Sequence[str],
    agents: Sequence[str] = (),
    *,
    guest: bool = False,
) -> str:
    """Why a request is refused, "" if it is not. Each argument has all values of one header field.

    A missing or empty Host is allowed: clients of HTTP/1.0 and of the original send it, and browsers do not.
    agents: the values of User-Agent, only for a take-over path. guest: the request comes from a guest.
    """
    if not guest:
        for host in hosts:
            if host and not _is_local(host):
                return f"Host {host[:100]!r} is refused: {HOST_HINT}"
    for site in sites:
        if site.strip().lower() not in OWN_SITES:
            return "requests of web pages are refused (Sec-Fetch-Site)"
    for origin in origins:
        if guest or len(hosts) != 1 or origin.strip().lower() != f"http://{hosts[0].strip().lower()}":
            return f"requests of web pages are refused (Origin {origin[:100]!r})"
    if any(agent.strip().lower().startswith(BROWSER) for agent in agents):
        return "browsers are refused on this path (User-Agent)"
    return ""


def _is_local(host: str) -> bool:
    """Whether a Host field names an address or localhost, with or without a port."""
    try:
        parts = urlsplit(f"//{host.strip()}")
        name, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if parts.netloc != host.strip() or "@" in parts.netloc:
        return False
    if name in LOCAL_NAMES:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
