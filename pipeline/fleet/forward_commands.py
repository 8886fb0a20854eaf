"""The commands about the forwards of a fleet: ``fleet forwards``, ``expose`` and ``unexpose``.

The words are those of ``expose`` (pipeline.config.forward_words), but the guest is always named, and the host
is an address. Each key is written only if nobody else has written it since it was read.
"""

from collections.abc import Iterable, Sequence

from pipeline.client.tables import Column, printable, table, terminal_width
from pipeline.config import forward_words
from pipeline.config.model import PortForward
from pipeline.engines.fleet import values
from pipeline.engines.fleet.entries import NO_KEY
from pipeline.engines.fleet.values import Forward, StoredValueError
from pipeline.fleet.command import CommandError, Found, run
from pipeline.fleet.store import Session
from pipeline.go import flags
from pipeline.system import standard_files
from pipeline.wire import ip


def forwards(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """List the forwards of the fleet. Returns the exit code."""
    return run(parsed, _print_forwards)


def expose(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """Open forwards on all hosts. Returns the exit code."""

    async def write(session: Session, found: Found) -> None:
        wanted = {key: forward for word in parsed.arguments for key, forward in _meant(word)}
        there = {key: _forward(found, key) for key in wanted if key in found.entries}
        for key, other in there.items():
            if other != wanted[key]:
                raise CommandError(f"{_words_of(key, other)}: 'fleet unexpose' closes it")
        for key, forward in wanted.items():
            if key not in there and not await session.write(key, values.forward_bytes(forward), NO_KEY):
                raise CommandError(f"{forward.protocol} {forward.local}: somebody else has just opened it")
            standard_files.write(printable(f"{forward.local} -> {forward.remote} {forward.protocol}") + "\n")

    return run(parsed, write)


def unexpose(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """Close forwards on all hosts, also if some of them are not open. Returns the exit code."""

    async def delete(session: Session, found: Found) -> None:
        faults = []
        for protocol, local in _locals(parsed.arguments):
            key = _key(protocol, local)
            if key not in found.entries:
                faults.append(f"{protocol} {local}: the fleet has no such forward")
            elif not await session.write(key, None, found.entries[key].revision):
                faults.append(f"{protocol} {local}: somebody else has just changed it")
            else:
                standard_files.write(printable(f"closed {local} {protocol}") + "\n")
        if faults:
            raise CommandError("; ".join(faults))

    return run(parsed, delete)


def _locals(words: Iterable[str]) -> list[forward_words.Local]:
    try:
        return [local for word in words for local in forward_words.locals_of(word)]
    except forward_words.WordError as error:
        raise CommandError(str(error)) from None


def _meant(word: str) -> list[tuple[str, Forward]]:
    """The forwards that a word means, with their keys. Raises CommandError."""
    try:
        found = forward_words.forwards(word, "")
    except forward_words.WordError as error:
        raise CommandError(str(error)) from None
    return [_checked(word, forward) for forward in found]


def _checked(word: str, forward: PortForward) -> tuple[str, Forward]:
    if forward.remote.startswith(":"):
        allowed = f"{forward.local}:192.168.127.10{forward.remote}"
        raise CommandError(f"{flags.quote(word)} does not name the guest (allowed: such as {allowed})")
    try:
        values.check_remote(forward.remote)
    except StoredValueError as error:
        raise CommandError(f"{flags.quote(word)}: {error}") from None
    return _key(forward.protocol, forward.local), Forward(forward.protocol, forward.local, forward.remote)


def _key(protocol: str, local: str) -> str:
    try:
        return values.forward_key(protocol, local)
    except StoredValueError as error:
        raise CommandError(str(error)) from None


def _forward(found: Found, key: str) -> Forward | None:
    """A forward of the store; None if it cannot be read."""
    try:
        return values.forward_of(key, found.entries[key].value or b"")
    except StoredValueError:
        return None


def _words_of(key: str, forward: Forward | None) -> str:
    if forward is None:
        return f"{key} cannot be read"
    return f"{forward.protocol} {forward.local} leads to {forward.remote}"


async def _print_forwards(_session: Session, found: Found) -> None:
    hosts = _hosts_by_address(found)
    rows = []
    for key in sorted(key for key in found.entries if key.startswith(values.FORWARD)):
        forward = _forward(found, key)
        if forward is not None:
            host = hosts.get(ip.host_of(forward.remote), "")
            rows.append([forward.protocol, forward.local, forward.remote, host])
    columns = [Column("PROTOCOL"), Column("LOCAL"), Column("GUEST"), Column("AT HOST")]
    standard_files.write(table(columns, rows, terminal_width()))


def _hosts_by_address(found: Found) -> dict[str, str]:
    """Where the station with each address is."""
    hosts: dict[str, str] = {}
    for key, value in found.without_hosts().items():
        if key.startswith(values.PLACE):
            try:
                place = values.place_of(value)
            except StoredValueError:
                continue
            hosts |= {values.address_text(addr): place.host for addr in place.addresses}
    return hosts
