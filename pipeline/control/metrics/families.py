"""Prometheus' names for our counters and histograms, and which worker has which of them.

A row of counters.TABLE has a name such as ``tcp_segment_dropped_paws``. Prometheus wants one family for all
causes, with the cause as a label: ``gvtap_tcp_segments_dropped_total{cause="paws"}``. The rules below make
the names, so that a new row needs nothing here:

- ``<object>_<event>_<cause>`` is the family ``<objects>_<event>`` with the label ``cause``;
- ``<objects>_from_guest`` and the like are the family ``<objects>`` with the label ``direction``;
- any other counter has its own name, with the object in the plural;
- a counter ends with ``_total``, before it stands a base unit if it has one.

IRREGULAR has the rows whose names would mislead. WRITERS says which workers can change a row at all: the page
has no other series.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from pipeline import counters, histograms
from pipeline.counter_tables.row import Counter
from pipeline.topology import DEMUX, EGRESS, INGRESS, LISTEN, RESOLVER, TCP

PREFIX: Final = "gvtap_"
SUPERVISOR: Final = "supervisor"
WORKERS: Final = (INGRESS, DEMUX, TCP, EGRESS, RESOLVER, LISTEN)
POOLS: Final = (INGRESS, DEMUX, EGRESS, RESOLVER)
"""Roles whose workers own slots."""
CAUSE: Final = "cause"
DIRECTION: Final = "direction"

DIVISORS: Final[Mapping[str, int]] = {"microseconds": 1_000_000, "millionths": 1_000_000}
"""Units of rows that are not base units of Prometheus, and how many of them one base unit has."""

_BY_CAUSE: Final = re.compile(
    r"(?P<object>.+?)_(?P<event>dropped|refused|evicted|ignored|failed|paused|reset|closed)_(?P<cause>.+)"
)
_BY_DIRECTION: Final = re.compile(r"(?P<objects>.+)_(?P<direction>(?:from|to)_(?:guest|host))")
_BY_EVENT: Final = re.compile(
    r"(?P<object>.+?)_(?P<event>accepted|answered|asked|connected|contested|disconnected|dropped|evicted|failed"
    r"|forwarded|ignored|joined|lost|lowered|malformed|moved|changed|opened|paused|queued|received|replied|sent"
    r"|steered|unasked)(?P<rest>_.+)?"
)

IRREGULAR: Final[Mapping[str, tuple[str, str, str]]] = {
    "worker_busy": ("worker_busy_seconds", "", ""),
    "worker_busy_share": ("worker_busy_ratio", "", ""),
    "link_guests": ("links", "", ""),
    "link_guest_offload": ("link_guests_offloaded", "", ""),
    "link_data_dropped_no_slot": ("link_segments_dropped", CAUSE, "no_slot"),
    "egress_bytes_spilled": ("egress_spilled_bytes", "", ""),
    "tcp_reset_sent_no_flow": ("tcp_resets_sent", CAUSE, "no_flow"),
    "tcp_segments_sent": ("tcp_ranges_sent", "", ""),
    "tcp_flow_ended_guest_gone": ("tcp_flows_ended_guest_gone", "", ""),
    "tcp_flow_lost_out_of_order": ("tcp_out_of_order_data_lost", "", ""),
    "tcp_error_dropped_bad_sequence": ("tcp_icmp_errors_dropped", CAUSE, "bad_sequence"),
    "tcp_error_dropped_no_flow": ("tcp_icmp_errors_dropped", CAUSE, "no_flow"),
    "tcp_error_ignored": ("tcp_icmp_errors_ignored", "", ""),
    "tcp_path_mtu_ignored": ("tcp_path_mtu_ignored", "", ""),
    "tcp_path_mtu_lowered": ("tcp_path_mtu_lowered", "", ""),
    "dns_pending": ("dns_questions_pending", "", ""),
    "dns_queued": ("dns_questions_queued", "", ""),
    "dns_query_answered_from_cache": ("dns_queries_answered", "source", "cache"),
    "dns_query_answered_local": ("dns_queries_answered", "source", "local"),
    "dns_upstream_answered": ("dns_upstream_questions_answered", "", ""),
    "dns_upstream_asked_over_tcp": ("dns_upstream_questions_repeated_over_tcp", "", ""),
    "dns_upstream_failed": ("dns_upstream_questions_failed", "", ""),
}
"""Row -> family, label and its value."""

WRITERS: Final[Mapping[str, tuple[str, ...]]] = {
    "worker": WORKERS,
    "worker_restarts": (SUPERVISOR,),
    "worker_slots": POOLS,
    "worker_slot_refs": POOLS,
    "log": (*WORKERS, SUPERVISOR),
    "flow_log": (SUPERVISOR,),
    "fleet": (SUPERVISOR,),
    "capture": (INGRESS, DEMUX),
    "link": (INGRESS,),
    "vhost": (INGRESS,),
    "vxlan": (INGRESS,),
    "vxlan_packet": (DEMUX,),
    "arp": (DEMUX,),
    "demux": (DEMUX,),
    "neighbor": (DEMUX,),
    "switch": (DEMUX,),
    "udp": (DEMUX,),
    "udp_datagrams": (INGRESS, DEMUX),
    "udp_datagram_dropped_bad_checksum": (INGRESS, DEMUX),
    "ipv4": (DEMUX,),
    "ipv4_fragments_sent": (INGRESS, DEMUX),
    "ipv4_packets_received": (INGRESS, DEMUX),
    "ipv4_packet_dropped_bad_checksum": (INGRESS, DEMUX),
    "ipv6": (DEMUX,),
    "ipv6_fragments_sent": (INGRESS, DEMUX),
    "ipv6_packets_received": (INGRESS, DEMUX),
    "nd": (DEMUX,),
    "router": (DEMUX,),
    "icmpv6": (DEMUX,),
    "icmp": (DEMUX,),
    "icmp_echo": (EGRESS,),
    "icmp_echo_answered": (DEMUX,),
    "icmp_error_forwarded": (EGRESS,),
    "icmp_reply_dropped_no_room": (EGRESS,),
    "tcp": (TCP,),
    "tcp_dial_failed_no_port": (DEMUX,),
    "tcp_segment_dropped_bad_checksum": (INGRESS, DEMUX),
    "tcp_segment_dropped_bad_offset": (DEMUX,),
    "tcp_segment_dropped_bad_options": (DEMUX, TCP),
    "tcp_segment_dropped_truncated": (DEMUX,),
    "egress": (EGRESS,),
    "nat": (DEMUX, EGRESS),
    "nat_flow_refused_icmp_off": (DEMUX,),
    "nat_flow_refused_own_port": (EGRESS,),
    "nat_flow_refused_udp_off": (DEMUX,),
    "api": (SUPERVISOR,),
    "notifications": (SUPERVISOR,),
    "listen": (LISTEN,),
    "dhcp": (RESOLVER,),
    "dhcp_message_dropped_rate_limit": (DEMUX,),
    "dhcpv6": (RESOLVER,),
    "dns": (RESOLVER,),
    "dns_query_dropped_rate_limit": (DEMUX, RESOLVER),
    "resolver": (RESOLVER,),
    # Histograms.
    "tcp_connect": (EGRESS,),
}
"""First words of a row's name -> the roles that can change it. The longest entry wins."""


_ACRONYMS: Final = frozenset(
    {"api", "arp", "dhcp", "dhcpv6", "dns", "icmp", "mac", "nat", "nd", "tcp", "udp"}
)


class Series(NamedTuple):
    """One row of the table as a part of a family. label: its name and value, "" if it has none."""

    row: Counter
    label: str
    value: str

    @property
    def divisor(self) -> int:
        """How many units of the row one base unit has."""
        return DIVISORS.get(self.row.unit, 1)


class Family(NamedTuple):
    """A family of the Prometheus page. name: with the prefix, without ``_total``."""

    name: str
    kind: str
    help: str
    series: tuple[Series, ...]

    @property
    def label(self) -> str:
        """The label that tells its series apart, beside the worker."""
        return self.series[0].label


def writers(name: str) -> tuple[str, ...]:
    """The roles of the workers that can change this row. KeyError if no entry covers it."""
    words = name.split("_")
    for count in range(len(words), 0, -1):
        if (roles := WRITERS.get("_".join(words[:count]))) is not None:
            return roles
    raise KeyError(f"{name}: no entry of WRITERS says which worker counts it")


def plural(name: str) -> str:
    """A name whose last word is in the plural."""
    if name.endswith("s"):
        return name
    if name.endswith("y") and name[-2] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}es" if name.endswith("echo") else f"{name}s"


def place(row: Counter) -> tuple[str, str, str]:
    """The family of a row, without prefix, and its label and value."""
    if row.name in IRREGULAR:
        return IRREGULAR[row.name]
    if row.kind == "gauge":
        return row.name, "", ""
    if found := _BY_CAUSE.fullmatch(row.name):
        return f"{plural(found['object'])}_{found['event']}", CAUSE, found["cause"]
    if found := _BY_DIRECTION.fullmatch(row.name):
        return found["objects"], DIRECTION, found["direction"]
    if found := _BY_EVENT.fullmatch(row.name):
        return f"{plural(found['object'])}_{found['event']}{found['rest'] or ''}", "", ""
    return row.name, "", ""


def _families() -> tuple[Family, ...]:
    members: dict[str, list[Series]] = {}
    for row in counters.TABLE:
        name, label, value = place(row)
        members.setdefault(name, []).append(Series(row, label, value))
    return tuple(
        Family(PREFIX + name, series[0].row.kind, _help(name, series), tuple(series))
        for name, series in members.items()
    )


def _help(name: str, series: list[Series]) -> str:
    first = series[0]
    if not first.label:
        return first.row.help
    words = [word.upper() if word in _ACRONYMS else word for word in name.split("_")]
    return f"{' '.join(words)}, by {first.label}"


FAMILIES: Final = _families()
"""In the order of the table."""


def histogram_name(row: histograms.Histogram) -> str:
    """The family of a histogram, with its unit."""
    return f"{PREFIX}{row.family}_{row.unit}"
