"""The commands ``status``, ``guests``, ``flows`` and ``leases``: what a running daemon says.

On a terminal, tables have human units and fit the terminal. Elsewhere sizes are bytes, times are seconds, and
no field is cut. With ``-json`` the daemon's answer is printed.
"""

import io
import json
import sys
from collections.abc import Callable, Sequence
from typing import Final

from pipeline.client import api, options, units
from pipeline.client.records import UNKNOWN, Record, records
from pipeline.client.tables import Column, printable, table, terminal_width
from pipeline.go import flags
from pipeline.system import standard_files

PROGRAM: Final = "gvtap-pipeline"
OK: Final = 0
FAILED: Final = 1
MISUSED: Final = 2
INTERRUPTED: Final = 130
"""128 and the number of SIGINT, as shells have it."""
MAX_LIMIT: Final = 10_000
"""Flows of one answer."""

_GUESTS: Final = (
    Column("GUEST", right=True),
    Column("ADDRESS"),
    Column("MAC"),
    Column("OPENED BY", shrinks_to=12),
    Column("LINKS", right=True, optional=2),
    Column("TCP", right=True),
    Column("UDP", right=True),
    Column("FORWARDS", right=True, optional=1),
)
_LEASES: Final = (Column("ADDRESS"), Column("MAC"), Column("LINK", right=True))
_FLOWS: Final = (
    Column("ID", optional=4),
    Column("PROTO"),
    Column("GUEST", shrinks_to=15, keeps_end=True),
    Column(""),
    Column("PEER", shrinks_to=20, keeps_end=True),
    Column("STATE", shrinks_to=6, optional=1),
    Column("AGE", right=True),
    Column("IDLE", right=True, optional=3),
    Column("UP", right=True),
    Column("DOWN", right=True),
)
_ENDPOINTS: Final = (Column("SOCKET"), Column("URL", shrinks_to=20))
_WORKERS: Final = (
    Column("WORKER"),
    Column("PROCESS"),
    Column("PID", right=True),
    Column("STATE"),
    Column("BUSY", right=True),
)
_FORWARDS: Final = (
    Column("FORWARD", shrinks_to=20),
    Column("PROTOCOL"),
    Column("LEADS TO", shrinks_to=20),
)
_DROPS: Final = (Column("TIMES", right=True), Column("DROPPED OR REFUSED"))


def status(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """Print the state of the daemon. Returns FAILED if a worker does not answer."""

    def show(found: api.Api, width: int) -> int:
        answer = found.table("/status")
        state = Record(answer)
        print_answer(parsed, answer, lambda: status_text(state, width))
        silent = [each.text("worker") for each in state.records("workers") if not each.true("answers")]
        if silent:
            raise api.ApiError(f"workers that do not answer: {', '.join(silent)}")
        return OK

    return ask("status", parsed, show)


def guests(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """List the guests."""

    def show(found: api.Api, width: int) -> int:
        answer = found.read("/guests")
        rows = [_guest(each) for each in records(answer)]
        print_answer(parsed, answer, lambda: table(_GUESTS, rows, width))
        return OK

    return ask("guests", parsed, show)


def leases(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """List the leases, the gateway's address included."""

    def show(found: api.Api, width: int) -> int:
        answer = found.table("/leases")
        links = Record(found.table("/cam")) if not parsed.true("json") else Record(None)
        rows = [(address, str(mac), links.text(str(mac)) or UNKNOWN) for address, mac in answer.items()]
        print_answer(parsed, answer, lambda: table(_LEASES, rows, width))
        return OK

    return ask("leases", parsed, show)


def flows(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """List open flows."""
    if fault := _wrong_filter(parsed):
        sys.stderr.write(f"{PROGRAM} flows: {fault}\n")
        return MISUSED

    def show(found: api.Api, width: int) -> int:
        answer = found.table("/flows", _query(parsed))
        state = Record(answer)
        rows = [_flow(each, human=width > 0) for each in state.records("flows")]
        print_answer(parsed, answer, lambda: table(_FLOWS, rows, width))
        total = int(state.number("total"))
        if total > len(rows) and not parsed.true("json"):
            sys.stderr.write(f"{len(rows)} of {total} flows: -limit lists more\n")
        return OK

    return ask("flows", parsed, show)


def ask(command: str, parsed: flags.Parsed, show: Callable[[api.Api, int], int]) -> int:
    """Run a command that asks the daemon. Returns its exit code. show: gets the API and the width."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal's encoding lacks must not end the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return show(api.find(parsed), terminal_width())
    except BrokenPipeError:
        standard_files.discard_output()  # the reader, such as head, has enough
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED
    except api.ApiError as error:
        sys.stdout.flush()
        sys.stderr.write(f"{PROGRAM} {command}: {printable(str(error))}\n")
        return FAILED


def print_answer(parsed: flags.Parsed, answer: object, text: Callable[[], str]) -> None:
    """Print the answer of the daemon as JSON, or as text."""
    sys.stdout.write(f"{json.dumps(answer, indent=2)}\n" if parsed.true("json") else text())
    sys.stdout.flush()


def status_text(state: Record, width: int) -> str:
    """The state of the daemon for people. width: of the terminal, 0 for none."""
    human = width > 0
    network, open_flows = state.record("network"), state.record("flows")
    numbers = {name: state.text(name) or UNKNOWN for name in ("guests", "links", "leases")}
    kinds = ", ".join(f"{open_flows.text(name)} {name}" for name in options.PROTOCOLS)
    facts = (
        ("version", f"{state.text('version')}, {state.text('data_path')}, Python {state.text('python')}"),
        ("uptime", _time(state.number("uptime_seconds"), human=human)),
        ("process", f"{state.text('pid')}, placement {state.text('placement')}"),
        ("network", f"{network.text('subnet')}, MTU {network.text('mtu')}"),
        ("addresses", ", ".join(f"{name} {network.text(name)}" for name in ("gateway", "guest", "host"))),
        ("guests", f"{numbers['guests']}, with {numbers['links']} links and {numbers['leases']} leases"),
        ("flows", kinds),
        ("from guests", _size(state.number("bytes_from_guests"), human=human)),
        ("to guests", _size(state.number("bytes_to_guests"), human=human)),
    )
    lines = "".join(f"{name:<11}  {printable(value)}\n" for name, value in facts)
    parts = (
        (_ENDPOINTS, [(each.text("use"), each.text("url")) for each in state.records("endpoints")]),
        (_WORKERS, [_worker(each) for each in state.records("workers")]),
        (_FORWARDS, [forward_row(each) for each in state.records("forwards")]),
        (_DROPS, _drops(state.record("drops"))),
    )
    return "\n".join([lines, *(table(columns, rows, width) for columns, rows in parts if rows)])


def forward_row(forward: Record) -> tuple[str, str, str]:
    """A forward as a row of FORWARDS."""
    return forward.text("local"), forward.text("protocol"), forward.text("remote")


def _worker(worker: Record) -> tuple[str, ...]:
    condition = "ok" if worker.true("answers") else "silent"
    busy = f"{worker.number('busy'):.0%}"
    return worker.text("worker"), worker.text("process"), worker.text("pid"), condition, busy


def _drops(drops: Record) -> list[tuple[str, str]]:
    """Causes with their numbers, the most frequent first."""
    found = sorted(drops.numbers().items(), key=lambda item: (-item[1], item[0]))
    return [(str(count), cause) for cause, count in found]


def _guest(guest: Record) -> tuple[str, ...]:
    return (
        *guest_texts(guest),
        guest.text("links"),
        guest.text("tcp_flows") or "0",
        guest.text("udp_flows") or "0",
        guest.text("forwards") or "0",
    )


def guest_texts(guest: Record) -> tuple[str, ...]:
    """Number, addresses, MAC addresses and opener of a guest."""
    return (
        guest.text("guest"),
        _first(guest.texts("ip_addresses")),
        _first(guest.texts("mac_addresses")),
        guest.text("opened_by") or "gone",
    )


def _first(texts: list[str]) -> str:
    """The first text, and how many more there are."""
    if not texts:
        return UNKNOWN
    return texts[0] if len(texts) == 1 else f"{texts[0]} +{len(texts) - 1}"


def _flow(flow: Record, *, human: bool) -> tuple[str, ...]:
    return (
        *flow_texts(flow),
        _time(flow.number("age_seconds"), human=human),
        _time(flow.number("idle_seconds"), human=human),
        _size(flow.number("bytes_from_guest"), human=human),
        _size(flow.number("bytes_to_guest"), human=human),
    )


def flow_texts(flow: Record) -> tuple[str, ...]:
    """Identifier, protocol, guest, direction, peer and state of a flow."""
    return (
        flow.text("id"),
        flow.text("protocol"),
        address(flow.text("guest_address"), flow.text("guest_port")),
        "<-" if flow.text("direction") == "in" else "->",
        address(flow.text("name") or flow.text("address"), flow.text("port")),
        flow.text("state"),
    )


def address(host: str, port: str) -> str:
    """An address with its port, if it has one."""
    if not port:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _time(seconds: float, *, human: bool) -> str:
    return units.time(seconds) if human else f"{seconds:g}"


def _size(count: float, *, human: bool) -> str:
    return units.size(count) if human else f"{count:.0f}"


def _wrong_filter(parsed: flags.Parsed) -> str:
    """What is wrong with the flags of flows, "" if nothing is."""
    protocol, sort = parsed.text("protocol"), parsed.text("sort")
    limit, port = parsed.number("limit"), parsed.number("port")
    if protocol and protocol not in options.PROTOCOLS:
        return f"-protocol {flags.quote(protocol)} is wrong (allowed: {', '.join(options.PROTOCOLS)})"
    if sort not in options.SORTS:
        return f"-sort {flags.quote(sort)} is wrong (allowed: {', '.join(options.SORTS)})"
    if not 1 <= limit <= MAX_LIMIT:
        return f"-limit {limit} is wrong (allowed: 1 to {MAX_LIMIT})"
    if not 0 <= port <= 65535:
        return f"-port {port} is wrong (allowed: 1 to 65535, 0 for all)"
    return ""


def _query(parsed: flags.Parsed) -> list[tuple[str, str]]:
    """The fields of the request for /flows."""
    fields = [(name, parsed.text(name)) for name in ("guest", "protocol", "host")]
    fields.append(("port", str(parsed.number("port") or "")))
    fields += [("limit", str(parsed.number("limit"))), ("sort", parsed.text("sort"))]
    return [(name, value) for name, value in fields if value]
