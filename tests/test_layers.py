"""Who may import whom: the one table, and the other rules about files, checked with ast.

A row covers every module whose dotted name starts with its key; the longest key wins.
``own`` lists what it may import of ours, ``foreign`` (when not None) the only other modules
it may import, and ``never`` what it must not, whatever else is allowed.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 500
VAGUE_NAMES = {"utils", "helpers", "common", "misc", "core", "manager"}
STAGES = {"ingress", "demux", "tcp", "egress", "resolver", "listen"}


class Row(NamedTuple):
    own: tuple[str, ...]
    foreign: tuple[str, ...] | None = None
    never: tuple[str, ...] = ()


PURE = ("collections", "enum", "re", "struct", "typing")
OUTSIDE = (
    "asyncio", "logging", "mmap", "multiprocess", "multiprocessing", "os", "posix_ipc", "random", "secrets",
    "select", "selectors", "signal", "socket", "structlog", "subprocess", "threading", "time",
)  # fmt: skip
"""The world outside: clocks, sockets, files, randomness, logs."""
LOW = (
    "pipeline.records",
    "pipeline.wire",
    "pipeline.engines",
    "pipeline.shm",
    "pipeline.links",
    "pipeline.host",
)
EVENTS = "pipeline.events"
"""What a poller tells: bits, and nothing else."""
OUTLET = "pipeline.outlet"
"""Writing without waiting, for the log and for captures."""
SOCKET_FILE = "pipeline.socket_file"
"""Which files of sockets may be replaced: one rule for all that bind."""
SMALL_FILE = "pipeline.small_file"
"""Reading what is read at the start."""
PATHS = "pipeline.links.addresses"
"""Which file a socket's URL means is said by who binds it."""
INET = "pipeline.inet"
"""What Go's names of networks mean, and how the address of a peer is written."""
LEAVES = ("pipeline.counters", "pipeline.limits", "pipeline.logs")
SETTINGS = (
    "pipeline.config",
    "pipeline.config_access",
    "pipeline.config_build",
    "pipeline.config_file",
    "pipeline.flags",
    "pipeline.options",
)

TOGETHER = (
    SOCKET_FILE,
    "pipeline.stages",
    "pipeline.control",
    "pipeline.descriptor_limit",
    "pipeline.shm",
    PATHS,
    "pipeline.links.inherited",
    "pipeline.links.pcap",
    "pipeline.links.protocols",
    "pipeline.links.stdio",
    "pipeline.topology",
    "pipeline.placement",
    "pipeline.process_name",
    "pipeline.signals",
    "pipeline.workers",
    "pipeline.supervisor",
    "pipeline.system",
    "pipeline.cli",
)

TABLE: dict[str, Row] = {
    "pipeline.records": Row(("pipeline.records",), ("array", "struct", "typing")),
    "pipeline.wire": Row(("pipeline.wire",), PURE),
    "pipeline.wire.checksum_np": Row(("pipeline.wire",), (*PURE, "numpy")),
    "pipeline.engines": Row(
        ("pipeline.records", "pipeline.wire", "pipeline.engines"),
        None,
        (*OUTSIDE, "dns.resolver", "dns.asyncresolver", "re2"),
    ),
    "pipeline.engines.regexp": Row((), (*PURE, "re2")),
    "pipeline.shm": Row(("pipeline.records", "pipeline.shm")),
    "pipeline.host": Row(("pipeline.records", "pipeline.host", EVENTS, INET, SOCKET_FILE, SMALL_FILE)),
    "pipeline.links": Row(
        (
            "pipeline.links",
            EVENTS,
            OUTLET,
            SOCKET_FILE,
            INET,
            "pipeline.records",
            "pipeline.wire.framing",
            "pipeline.wire.virtio_net",
            "pipeline.wire.offload",
            "pipeline.wire.errors",
        )
    ),
    "pipeline.stages": Row(
        (*LOW, *LEAVES, EVENTS, INET, SOCKET_FILE, "pipeline.config", "pipeline.topology", "pipeline.stages")
    ),
    # Of the stages it knows how a message looks on a control socket, and no more.
    "pipeline.control": Row(
        (
            "pipeline.control",
            "pipeline.stages.channel",
            "pipeline.shm",
            "pipeline.topology",
            PATHS,
            SOCKET_FILE,
            SMALL_FILE,
            INET,
            *LEAVES,
            *SETTINGS,
        )
    ),
    OUTLET: Row(()),
    SOCKET_FILE: Row(()),
    SMALL_FILE: Row(()),
    "pipeline.counters": Row((), ("typing",)),
    EVENTS: Row((), ("typing",)),
    INET: Row(()),
    "pipeline.limits": Row((), ("typing",)),
    "pipeline.system": Row(()),
    "pipeline.logs": Row(("pipeline.config", OUTLET)),
    # Goes into guests, as wire does.
    "pipeline.flags": Row((), PURE),
    "pipeline.options": Row((*LEAVES, "pipeline.config", "pipeline.flags")),
    "pipeline.config": Row(("pipeline.limits",), None, ("os", "socket")),
    "pipeline.config_build": Row((*LEAVES, *SETTINGS, PATHS, INET, SOCKET_FILE, SMALL_FILE)),
    "pipeline.config_access": Row((*LEAVES, *SETTINGS, INET)),
    # Patterns are checked by who will use them.
    "pipeline.config_file": Row((*LEAVES, *SETTINGS, "pipeline.engines.regexp")),
    "pipeline.topology": Row((*LEAVES, "pipeline.records", "pipeline.shm", "pipeline.config")),
    # The supervisor and the command line put everything together, but read no packet.
    "pipeline": Row((*LEAVES, *SETTINGS, *TOGETHER)),
    # Ships alone, on the standard library.
    "guest": Row(
        ("guest", "pipeline.flags", "pipeline.wire"),
        tuple(sys.stdlib_module_names),
        ("pipeline.wire.checksum_np",),
    ),
}


def sources(*tops: str) -> list[Path]:
    return [path for top in tops for path in sorted((ROOT / top).rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sources("pipeline", "guest")}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of everything a file imports; the module, where a name in it is imported."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
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


def row_of(module: str) -> Row:
    return TABLE[max((key for key in TABLE if covers((key,), module)), key=len)]


def allowed(row: Row, name: str) -> bool:
    if covers(row.never, name):
        return False
    if name.split(".")[0] in ("pipeline", "guest", "tests", "perf"):
        return covers(row.own, name)
    return row.foreign is None or covers(row.foreign, name)


def upward_imports() -> list[str]:
    """The imports that the table does not allow; `make figures` counts them too."""
    return [
        f"{path.relative_to(ROOT)}:{line}: {module} imports {name}"
        for module, path in MODULES.items()
        for name, line in imports(path)
        if not allowed(row_of(module), name)
    ]


def test_every_import_is_in_the_table() -> None:
    wrong = upward_imports()
    assert not wrong, "\n".join(wrong)


def test_stages_do_not_import_each_other() -> None:
    wrong = []
    for module, path in MODULES.items():
        stage = module.removeprefix("pipeline.stages.").split("_")[0]
        if not module.startswith("pipeline.stages."):
            continue
        for name, line in imports(path):
            other = name.removeprefix("pipeline.stages.").split(".")[0].split("_")[0]
            if name.startswith("pipeline.stages.") and other in STAGES and other != stage:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {module} imports {name}")
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
    assert all(covers(("guest", "pipeline.flags", "pipeline.wire"), module) for module in reached)


@pytest.mark.parametrize(
    "tops", [("pipeline", "guest"), ("tests", "perf")], ids=["program", "tests and perf"]
)
class TestFiles:
    def test_no_import_inside_a_function_or_class(self, tops: tuple[str, ...]) -> None:
        scopes = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        wrong = [
            f"{path.relative_to(ROOT)}:{inner.lineno}"
            for path in sources(*tops)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, scopes)
            for inner in ast.walk(node)
            if isinstance(inner, ast.Import | ast.ImportFrom)
        ]
        assert not wrong, "\n".join(wrong)

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

    def test_every_module_says_what_it_is_for(self, tops: tuple[str, ...]) -> None:
        silent = [
            str(path.relative_to(ROOT))
            for path in sources(*tops)
            if path.read_text() and not ast.get_docstring(ast.parse(path.read_text()))
        ]
        assert not silent


def test_the_table_refuses_what_it_should() -> None:
    assert not allowed(row_of("pipeline.wire.tcp"), "numpy")
    assert allowed(row_of("pipeline.wire.checksum_np"), "numpy")
    assert not allowed(row_of("pipeline.engines.tcp.connection"), "time")
    assert not allowed(row_of("pipeline.engines.dns"), "dns.resolver")
    assert not allowed(row_of("pipeline.engines.dns_zones"), "re2")
    assert allowed(row_of("pipeline.engines.regexp"), "re2")
    assert not allowed(row_of("pipeline.engines.gro"), "pipeline.counters")
    assert not allowed(row_of("pipeline.links.stream"), "pipeline.wire.tcp")
    assert not allowed(row_of("pipeline.control.api"), "pipeline.engines.nat")
    assert not allowed(row_of("guest.agent"), "structlog")
    assert not allowed(row_of("guest.agent"), "pipeline.options")
    assert not allowed(row_of("pipeline.flags"), "pipeline.limits")
    assert not allowed(row_of("pipeline.supervisor"), "tests.support")
