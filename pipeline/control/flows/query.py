"""What a client of /flows asks for: the keys of its query, checked."""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MOST: Final = 10_000
"""The most flows of one answer."""
Protocol = Literal["tcp", "udp", "icmp"]
Sort = Literal["bytes", "age", "idle"]

_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)
_MAX_SHOWN: Final = 100
_ALLOWED: Final[Mapping[str, str]] = {
    "guest": "a guest's number, MAC address or IP address",
    "protocol": ", ".join(get_args(Protocol)),
    "host": "an address, or a name of at most 255 characters",
    "port": "1 to 65535",
    "limit": f"1 to {MOST}",
    "sort": ", ".join(get_args(Sort)),
}


class QueryError(ValueError):
    """The query is wrong. The text names the key, the value, and what is allowed."""


class FlowQuery(BaseModel):
    """A key that is left out fits every flow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    guest: Annotated[str, Field(description="The guest's number, MAC address or IP address.")] = ""
    protocol: Annotated[Protocol | None, Field(description="The protocol of the flow.")] = None
    host: Annotated[str, Field(max_length=255, description="The other end: its address or DNS name.")] = ""
    port: Annotated[int | None, Field(ge=1, le=65535, description="The port of the other end.")] = None
    limit: Annotated[int, Field(ge=1, le=MOST, description="The most flows of the answer.")] = 1000
    sort: Annotated[Sort, Field(description="The order, greatest first.")] = "bytes"

    def fits(self, flow: Mapping[str, object]) -> bool:
        """Whether a flow, as the answer shows it, is asked for."""
        return (
            (not self.guest or self._is_guest(flow))
            and (self.protocol is None or flow["protocol"] == self.protocol)
            and (not self.host or self.host.rstrip(".").lower() in (flow["address"], flow["name"]))
            and (self.port is None or flow["port"] == self.port)
        )

    def _is_guest(self, flow: Mapping[str, object]) -> bool:
        guest = self.guest.lower()
        return guest in (str(flow["guest"]), flow["guest_mac"], flow["guest_address"])


def read(pairs: Iterable[tuple[str, str]]) -> FlowQuery:
    """The query of these keys and values. Raises QueryError."""
    values: dict[str, str] = {}
    for key, value in pairs:
        if key in values:
            raise QueryError(f"{key} stands twice (allowed: once)")
        if key not in _ALLOWED:
            raise QueryError(f"unknown key {key[:_MAX_SHOWN]!r} (allowed: {', '.join(_ALLOWED)})")
        values[key] = value
    try:
        query = FlowQuery.model_validate(values)
    except ValidationError as error:
        raise _wrong(str(error.errors()[0]["loc"][0]), values) from None
    if query.guest and not _names_guest(query.guest.lower()):
        raise _wrong("guest", values)
    if ":" in query.guest and not _MAC.fullmatch(query.guest.lower()):
        # As flows have it (RFC 5952).
        return query.model_copy(update={"guest": str(ipaddress.ip_address(query.guest))})
    return query


def _wrong(key: str, values: Mapping[str, str]) -> QueryError:
    return QueryError(f"{key} {values[key][:_MAX_SHOWN]!r} is wrong (allowed: {_ALLOWED[key]})")


def _names_guest(text: str) -> bool:
    if (text.isascii() and text.isdigit()) or _MAC.fullmatch(text):
        return True
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
