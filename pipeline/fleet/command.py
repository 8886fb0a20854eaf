"""The commands that look at a fleet: ``fleet status``, ``guests``, ``show-policy`` and ``set-policy``.

Those about forwards are in forward_commands.py. They ask the NATS servers themselves, so they work on any
machine that reaches one of them, also without a daemon. The flags are those of ``start``.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Final, NamedTuple

import yaml

from pipeline.client.tables import Column, table, terminal_width
from pipeline.config import fleet as fleet_settings
from pipeline.config import policy_json
from pipeline.config.errors import ConfigError
from pipeline.config.keys import FileKeys
from pipeline.config.merge import read_file
from pipeline.config.model import Fleet
from pipeline.engines.fleet import values
from pipeline.engines.fleet.mirror import Entry
from pipeline.fleet.store import ERRORS, Access, Session
from pipeline.go import flags
from pipeline.system import standard_files
from pipeline.wire import ethernet

SECONDS: Final = 10.0
"""How long a server has for everything."""
OK: Final = 0
FAILED: Final = 1

Keys = Mapping[str, bytes]
"""The values of the store."""


class Found(NamedTuple):
    """What the store has: the keys of a network. No value is None."""

    network: str
    entries: Mapping[str, Entry]

    def keys(self) -> Keys:
        """The values."""
        return {key: entry.value or b"" for key, entry in self.entries.items()}

    def without_hosts(self) -> Keys:
        """The same without the places of hosts, which are stations too (pipeline.fleet.station)."""
        hosts = [key.removeprefix(values.HOST) for key in self.entries if key.startswith(values.HOST)]
        own = {values.mac_key(fleet_settings.station_mac_of(self.network, name)) for name in hosts}
        return {key: value for key, value in self.keys().items() if key not in own}


class CommandError(Exception):
    """The command has failed. The text says why."""


def status(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """List the hosts, with what each has. Returns the exit code."""
    return run(parsed, _print_status)


def guests(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """List the guests of all hosts. Returns the exit code."""
    return run(parsed, _print_guests)


def policy_show(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """Print the egress policy of the fleet, as a file has it. Returns the exit code."""
    return run(parsed, _print_policy)


def policy_set(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """Replace the egress policy of the fleet by that of a file. Returns the exit code."""
    (path,) = parsed.arguments

    async def write(session: Session, _: Found) -> None:
        try:
            policy = read_file(path)[0].egress_policy
        except ConfigError as error:
            raise CommandError(str(error)) from None
        content = json.dumps(policy_json.written(policy)).encode()
        if len(content) > values.MAX_VALUE:
            raise CommandError(f"{path}: the policy has {len(content)} bytes (allowed: {values.MAX_VALUE})")
        await session.write(values.POLICY, content, None)

    return run(parsed, write)


Do = Callable[[Session, Found], Coroutine[None, None, None]]


def run(parsed: flags.Parsed, do: Do) -> int:
    """Do something with what the store has. Returns the exit code."""
    try:
        asyncio.run(_ask(_settings(parsed), do))
    except (CommandError, ConfigError) as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    return OK


def _settings(parsed: flags.Parsed) -> Fleet:
    path = parsed.text("config")
    found = fleet_settings.settings(parsed, read_file(path)[0] if path else FileKeys())
    if not found["fleet_servers"]:
        raise CommandError("which servers? (allowed: -fleet nats://HOST, or -config FILE with fleet.servers)")
    return Fleet(**found)  # type: ignore[arg-type]


async def _ask(fleet: Fleet, do: Do) -> None:
    """Ask the first server that answers. Raises CommandError."""
    error = ""
    try:
        access = Access.of(fleet)
    except OSError as failure:
        raise CommandError(str(failure)) from None
    for server in access.servers:
        session = Session(access)
        try:
            async with asyncio.timeout(SECONDS):
                await session.open(server)
                await do(session, Found(fleet.fleet_network, await _entries(session)))
        except ERRORS as failure:
            error = f"{server}: {failure or type(failure).__name__}"
        else:
            return
        finally:
            await session.close()
    raise CommandError(f"no server of the fleet answers: {error}")


async def _entries(session: Session) -> Mapping[str, Entry]:
    """Everything that the store has now."""
    found: dict[str, Entry] = {}
    complete = asyncio.Event()

    def on_entry(entry: Entry | None) -> None:
        if entry is None:
            complete.set()
        elif entry.value is None:
            found.pop(entry.key, None)
        elif values.admits(entry.key):
            value = values.limited(entry.key, entry.value) or b""
            found[entry.key] = entry._replace(value=value)

    await session.watch(on_entry)
    await complete.wait()
    return found


# --- what is printed --------------------------------------------------------------------------------


async def _print_status(_session: Session, found: Found) -> None:
    keys = found.without_hosts()
    counts = {prefix: _by_host(keys, prefix) for prefix in (values.PLACE, values.CLAIM)}
    named = _by_host(keys, values.NAME)
    rows = []
    for key in sorted(key for key in keys if key.startswith(values.HOST)):
        name = key.removeprefix(values.HOST)
        try:
            host = values.host_of(keys[key])
        except values.StoredValueError:
            continue
        numbers = (counts[values.PLACE], counts[values.CLAIM], named)
        rows.append(
            [name, f"{host.address} {host.port}", host.network, *(str(each.get(name, 0)) for each in numbers)]
        )
    columns = [
        *(Column("HOST"), Column("ADDRESS"), Column("NETWORK", optional=1)),
        *(Column("GUESTS", right=True), Column("ADDRESSES", right=True), Column("NAMES", right=True)),
    ]
    standard_files.write(table(columns, rows, terminal_width()))


def _by_host(keys: Keys, prefix: str) -> dict[str, int]:
    """How many values of a kind each host has."""
    read = {values.PLACE: values.place_of, values.CLAIM: values.claim_of, values.NAME: values.name_of}[prefix]
    found: dict[str, int] = {}
    for key, value in keys.items():
        if key.startswith(prefix):
            try:
                host = read(value).host  # type: ignore[attr-defined]
            except values.StoredValueError:
                continue
            found[host] = found.get(host, 0) + 1
    return found


async def _print_guests(_session: Session, found: Found) -> None:
    keys = found.without_hosts()
    labels: dict[bytes, str] = {}
    rows = []
    for key, value in keys.items():
        if key.startswith(values.NAME):
            try:
                labels[values.name_of(value).address] = key.removeprefix(values.NAME)
            except values.StoredValueError:
                continue
    for key in sorted(key for key in keys if key.startswith(values.PLACE)):
        try:
            mac, place = values.mac_of(key), values.place_of(keys[key])
        except values.StoredValueError:
            continue
        names = ", ".join(labels[addr] for addr in place.addresses if addr in labels)
        addresses = ", ".join(values.address_text(addr) for addr in place.addresses)
        rows.append([ethernet.mac_text(mac), place.host, names, addresses])
    columns = [Column("MAC"), Column("HOST"), Column("NAME"), Column("ADDRESSES", shrinks_to=15)]
    standard_files.write(table(columns, rows, terminal_width()))


async def _print_policy(_session: Session, found: Found) -> None:
    keys = found.keys()
    if values.POLICY not in keys:
        raise CommandError("the fleet has no policy: each host has its own")
    try:
        policy = policy_json.read(keys[values.POLICY])
    except ConfigError as error:
        raise CommandError(f"the policy of the fleet is wrong: {error}") from None
    shown = {policy_json.KEY: policy_json.written(policy)}
    standard_files.write(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True))
