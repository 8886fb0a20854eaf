"""Which room may import which: one row for each folder, and the other rules about files, checked with ast.

A row covers every module under its key; the longest key wins. ``own`` lists the rooms that it may
import, ``foreign`` (unless None) the only other modules, ``never`` what it may not import in any case.
"""

import ast
import functools
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 500
VAGUE_NAMES = {"utils", "helpers", "common", "misc", "core", "manager"}

LATE_IMPORTS = {
    "pipeline.gvproxy": "the daemon: help and version need it not",
    "pipeline.slirp4netns": "the same",
    "pipeline.release": "importlib.metadata, in a checkout that was never installed",
    "pipeline.config.merge": "YAML and pydantic, when there is a file",
    "pipeline.links.protocols": "taps, and the link to other hosts, which few daemons have",
    "pipeline.links.passed": "the same",
    "pipeline.links.adopted": "the same",
    "pipeline.daemon.taps": "the same",
    "pipeline.daemon.fleet": "the fleet, and nats-py, which is an extra",
    "pipeline.commands.fleet": "the same",
    "pipeline.config.scalars": "pydantic, when it makes a validator",
    "pipeline.engines.dns.message": "dnspython, for records of any type",
    "pipeline.engines.dns.responses": "the same",
    "pipeline.engines.dns.answers": "the same",
    "pipeline.engines.dns.services": "the same, for HTTPS records",
    "pipeline.engines.stated.quic": "cryptography, when a policy with names meets a datagram",
    "pipeline.engines.dns.glance": "the same, for names as text",
    "pipeline.engines.dns.hosts": "the same",
    "pipeline.engines.dns.lookup": "the same, for DNS64",
    "pipeline.engines.dns.patterns": "re2, when a zone has a pattern",
    "pipeline.control.http.access": "hmac, which loads OpenSSL, when the API has a token",
    "pipeline.ipc.channel": "tempfile, where there are no files in memory",
    "pipeline.system.stacks": "the same",
    "pipeline.control.http.head": "h11, when the first request comes whose connection changes its protocol",
    "pipeline.config.access": "netaddr, when a rule has several networks",
    "pipeline.control.http.servers": "aiohttp, when the first request comes",
    "pipeline.control.http.fronts": "the web page, when the daemon has -web",
    "pipeline.control.plane": "the API, when the first request comes",
    "pipeline.control.succession": "pydantic, when a policy goes from one supervisor to the next",
    "pipeline.control.metrics.meter": "prometheus_client, when a monitor asks",
    "pipeline.control.ssh.forwards": "asyncssh, which is an extra",
    "pipeline.client.top.command": "textual, which is an extra",
}
"""Modules that import in functions, and what: libraries that cost much and that many users never need."""


class Row(NamedTuple):
    own: tuple[str, ...]
    foreign: tuple[str, ...] | None = None
    never: tuple[str, ...] = ()


PURE = ("array", "collections", "enum", "ipaddress", "re", "struct", "typing")
OUTSIDE = (
    "asyncio", "logging", "mmap", "multiprocess", "multiprocessing", "os", "posix_ipc", "random", "secrets",
    "select", "selectors", "signal", "socket", "structlog", "subprocess", "threading", "time",
)  # fmt: skip
"""The outside world: clocks, sockets, files, randomness, logs."""

TABLE: dict[str, Row] = {
    # The ground floor: bytes and names, no state.
    "pipeline.wire": Row((), PURE),
    "pipeline.records": Row((), PURE),
    "pipeline.go": Row((), (*PURE, "json")),
    "pipeline.counter_tables": Row((), PURE),
    "pipeline.counters": Row(("counter_tables",), PURE),
    "pipeline.events": Row((), PURE),
    "pipeline.histograms": Row(("counters",), (*PURE, "bisect")),
    "pipeline.counter_block": Row(("counters", "histograms"), PURE),
    # Questions to the operating system that know nothing of this program.
    "pipeline.system": Row(("blake2", "wire.ip", "wire.offload")),
    "pipeline.blake2": Row((), ("_blake2", "hashlib")),
    "pipeline.topology": Row(("records",), (*PURE, "dataclasses")),
    # State machines without I/O.
    "pipeline.engines": Row(
        ("wire", "records", "blake2"), None, (*OUTSIDE, "dns.resolver", "dns.asyncresolver")
    ),
    # The operating system.
    "pipeline.ipc": Row(("records", "counters", "counter_block", "topology")),
    "pipeline.links": Row(("wire", "records", "system", "ipc", "engines.virtio", "engines.vxlan")),
    "pipeline.host": Row(("records", "wire.icmp", "wire.icmp_messages", "wire.ip", "system", "ipc")),
    # What the user asked for. Patterns and addresses are checked by the code that will use them.
    "pipeline.config": Row(("go", "wire", "blake2", "system", "engines", "links")),
    "pipeline.log": Row((), ("os", "structlog", *PURE)),
    "pipeline.logs": Row(("counters", "events", "log", "system")),
    # One worker process in each folder.
    "pipeline.stages": Row(
        (
            *("wire", "records", "counters", "histograms", "counter_block", "events", "topology"),
            *("system", "engines", "ipc", "links", "host", "config"),
        )
    ),
    # The supervisor's side. It reads no packet.
    "pipeline.control": Row(
        (
            *("release", "blake2", "go", "wire.ip", "counters", "counter_tables"),
            *("histograms", "counter_block"),
            *("events", "topology", "system", "ipc", "links", "host.listener", "config", "logs"),
            *("engines.guest_set", "engines.quota_limits"),
        )
    ),
    # The supervisor's side of a fleet. Only daemon.fleet loads it, with -fleet.
    "pipeline.fleet": Row(
        (
            *("wire.ip", "topology", "ipc", "links.vxlan_url", "engines.fleet", "config", "control"),
            *("go", "system", "client.tables", "wire.ethernet", "events"),
        )
    ),
    # Commands that ask a running daemon.
    "pipeline.client": Row(("go", "wire", "system", "links", "config")),
    "pipeline.daemon": Row(
        ("counters", "topology", "system", "ipc", "links", "config", "logs", "stages", "control", "fleet")
    ),
    # The commands. Each is loaded when it runs.
    "pipeline.release": Row((), ("importlib", "pathlib", "sys", "typing")),
    "pipeline.commands": Row(("release", "go", "system", "config", "links", "logs", "daemon", "fleet")),
    "pipeline": Row(("cli", "sub_commands", "commands", "release", "go", "system", "config", "client")),
    # The guest's agent ships alone, with the standard library.
    "guest": Row(("go", "wire", "system.netlink", "system.tap"), tuple(sys.stdlib_module_names)),
}


def sources(*tops: str) -> list[Path]:
    return [path for top in tops for path in sorted((ROOT / top).rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sources("pipeline", "guest")}


@functools.cache
def import_statements(path: Path) -> list[tuple[ast.Import | ast.ImportFrom, bool]]:
    """The import statements of a file, and whether each stands in a function or a class."""
    found: list[tuple[ast.Import | ast.ImportFrom, bool]] = []
    todo: list[tuple[ast.AST, bool]] = [(ast.parse(path.read_text(), str(path)), False)]
    while todo:
        node, inside = todo.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append((node, inside))
        elif not isinstance(node, ast.expr):
            inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            todo.extend((child, inside) for child in ast.iter_child_nodes(node))
    return found


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of everything a file imports; the module, where a name in it is imported."""
    for node, _ in import_statements(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                is_module = full in MODULES or node.module in ("dns", "pipeline", "guest")
                yield (full if is_module else str(node.module)), node.lineno


def covers(prefixes: tuple[str, ...], name: str) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def key_of(module: str) -> str:
    return max((key for key in TABLE if covers((key,), module)), key=len)


def allowed(module: str, name: str) -> bool:
    """Whether a module may import another one, ours or foreign."""
    key = key_of(module)
    row = TABLE[key]
    if covers(row.never, name):
        return False
    if name.split(".")[0] in ("pipeline", "guest", "tests", "perf"):
        own = tuple(f"pipeline.{room}" for room in row.own)
        return covers(own, name) or (key != "pipeline" and covers((key,), name))
    return row.foreign is None or covers(row.foreign, name)


def stage_of(module: str) -> str:
    """The folder of stages/ that a module lies in; "" for what all stages stand on."""
    parts = module.split(".")
    return parts[2] if parts[:2] == ["pipeline", "stages"] and len(parts) > 3 else ""


def upward_imports() -> list[str]:
    """Each import that the table does not allow, as text."""
    return [
        f"{path.relative_to(ROOT)}:{line}: {module} imports {name}"
        for module, path in MODULES.items()
        for name, line in imports(path)
        if not allowed(module, name)
    ]


def test_every_import_is_in_the_table() -> None:
    wrong = upward_imports()
    assert not wrong, "\n".join(wrong)


def test_stages_do_not_import_each_other() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module} imports {name}"
        for module, path in MODULES.items()
        if module.startswith("pipeline.stages.")
        for name, line in imports(path)
        if stage_of(name) not in ("", stage_of(module))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_circle() -> None:
    graph = {
        module: {name for name, _ in imports(path) if name in MODULES} for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for name in sorted(graph[module]):
                visit(name, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_what_the_guest_loads_is_standard_library_alone() -> None:
    reached, todo = set(), [module for module in MODULES if module.startswith("guest")]
    while todo:
        module = todo.pop()
        if module not in reached:
            reached.add(module)
            for name, line in imports(MODULES[module]):
                if name in MODULES:
                    todo.append(name)
                else:
                    assert name.split(".")[0] in sys.stdlib_module_names, f"{module}:{line}: {name}"
    shared = ("pipeline.go", "pipeline.wire", "pipeline.system.netlink", "pipeline.system.tap")
    assert all(covers(("guest", *shared), module) for module in reached)


def says_something(path: Path) -> bool:
    """Whether a file begins with a docstring. Its first statement is enough to see that."""
    with path.open("rb") as file:
        skipped = (tokenize.ENCODING, tokenize.COMMENT, tokenize.NL)
        first = next(token for token in tokenize.tokenize(file.readline) if token.type not in skipped)
    return first.type == tokenize.STRING and bool(ast.literal_eval(first.string).strip())


@pytest.mark.parametrize(
    "tops", [("pipeline", "guest"), ("tests", "perf")], ids=["program", "tests and perf"]
)
class TestFiles:
    def test_no_import_inside_a_function_or_class(self, tops: tuple[str, ...]) -> None:
        wrong = [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for path in sources(*tops)
            if module_name(path) not in LATE_IMPORTS
            for node, inside in import_statements(path)
            if inside
        ]
        assert not wrong, "\n".join(wrong)

    def test_modules_with_late_imports_have_some(self, tops: tuple[str, ...]) -> None:
        late = {module_name(path) for path in sources(*tops)} & LATE_IMPORTS.keys()
        found = {module for module in late if any(inside for _, inside in import_statements(MODULES[module]))}
        assert found == late

    def test_no_file_is_too_long(self, tops: tuple[str, ...]) -> None:
        long = {
            str(path.relative_to(ROOT)): count
            for path in sources(*tops)
            if (count := len(path.read_text().splitlines())) > MAX_LINES
        }
        assert not long

    def test_package_files_are_empty(self, tops: tuple[str, ...]) -> None:
        assert not [path for path in sources(*tops) if path.name == "__init__.py" and path.read_text()]

    def test_no_file_has_a_vague_name(self, tops: tuple[str, ...]) -> None:
        assert not [path for path in sources(*tops) if path.stem in VAGUE_NAMES]

    def test_no_file_repeats_the_name_of_its_folder(self, tops: tuple[str, ...]) -> None:
        assert not [
            path
            for path in sources(*tops)
            if path.stem.removeprefix("test_").startswith(f"{path.parent.name}_")
        ]

    def test_every_module_says_what_it_is_for(self, tops: tuple[str, ...]) -> None:
        silent = [
            str(path.relative_to(ROOT))
            for path in sources(*tops)
            if path.read_text() and not says_something(path)
        ]
        assert not silent


def test_the_table_refuses_what_it_should() -> None:
    assert not allowed("pipeline.wire.tcp", "numpy")
    assert not allowed("pipeline.wire.tcp", "pipeline.records.tcp")
    assert allowed("pipeline.wire.tcp", "pipeline.wire.errors")
    assert not allowed("pipeline.engines.tcp.connection", "time")
    assert not allowed("pipeline.engines.dns.server", "dns.resolver")
    assert not allowed("pipeline.engines.offload.gro", "pipeline.counters")
    assert not allowed("pipeline.links.stream", "pipeline.engines.nat")
    assert not allowed("pipeline.control.http.api", "pipeline.engines.nat")
    assert not allowed("pipeline.daemon.supervisor", "pipeline.wire.tcp")
    assert not allowed("pipeline.daemon.supervisor", "tests.support")
    assert not allowed("pipeline.control.plane", "pipeline.fleet.agent")
    assert not allowed("pipeline.engines.fleet.view", "pipeline.fleet.store")
    assert not allowed("guest.agent", "structlog")
    assert not allowed("guest.agent", "pipeline.config.options")
    assert not allowed("pipeline.go.flags", "pipeline.config.limits")
