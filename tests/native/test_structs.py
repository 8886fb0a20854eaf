"""The compiled data path does to memory what the plain one does: records, views and rings, step by step.

Where there is no compiled tree of these sources, only the tests of formats run.
"""

import importlib
import importlib.util
import inspect
import re
import struct
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from perf import compiled
from pipeline.records.kinds import RECORD_BYTES
from tests.records.layouts import arbitrary
from tests.support.layouts import CLASSES
from tests.support.twin import Twins, require_compiled

RUN_FIELDS = ("slot", "off", "length", "stride", "piece_size")
CODES = "xsBHILQ?"
ODD = (-1, 1 << 8, 1 << 16, 1 << 32, 1 << 62, 1 << 63, 1 << 64, -(1 << 62), -(1 << 70))
"""Numbers near the ends of fields and of the compiler's short integers."""


@pytest.fixture(scope="module")
def structs() -> ModuleType:
    """The module that teaches the compiler. It is not part of the program."""
    spec = importlib.util.spec_from_file_location("structs", compiled.ROOT / "native" / "structs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@given(order=st.sampled_from("<>!"), parts=st.lists(st.tuples(st.integers(0, 40), st.sampled_from(CODES))))
def test_the_fields_of_a_format_lie_where_struct_puts_them(
    structs: ModuleType, order: str, parts: list[tuple[int, str]]
) -> None:
    text = order + "".join(f"{count}{code}" for count, code in parts)
    fields = structs.layout(text)
    assert fields is not None
    assert max((field.offset + field.size for field in fields), default=0) == struct.calcsize(text)
    valued = [field for field in fields if field.kind != "pad"]
    assert len(valued) == len(struct.unpack(text, bytes(struct.calcsize(text))))
    for number, field in enumerate(valued):
        data = bytearray(struct.calcsize(text))
        data[field.offset : field.offset + field.size] = b"\x01" * field.size
        for other, value in enumerate(struct.unpack(text, data)):
            assert any(value if isinstance(value, bytes) else (value,)) == (
                other == number and field.size > 0
            )


@pytest.mark.parametrize("text", ["BH", "@I", "=I", "<i", "<d", "<4p", "<5c", "<B H,"])
def test_other_formats_are_left_to_struct(structs: ModuleType, text: str) -> None:
    assert structs.layout(text) is None


def test_the_structs_of_the_records_are_found(structs: ModuleType) -> None:
    assert "pipeline.records.tcp._RANGE" in structs.STRUCTS
    assert len([name for name in structs.STRUCTS if name.startswith("pipeline.records.")]) > 30


def test_the_functions_that_the_compiler_replaces_exist() -> None:
    text = (compiled.ROOT / "native" / "compiler.py").read_text()
    names = re.findall(r'^    "(pipeline\.[a-z_.]+)": \(', text, re.M)
    assert "pipeline.ipc.fence.full_fence" in names
    for name in names:
        module, _, function = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), function)), name


# --- records ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twins() -> Iterator[Twins]:
    require_compiled()
    names = ", ".join(sorted({cls.__module__.rpartition(".")[2] for cls in CLASSES.values()}))
    with Twins(f"from pipeline.records import run, {names}") as both:
        yield both


def call(kind: int, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A step that packs a record of these fields, and the names that it needs."""
    cls: Any = CLASSES[kind]
    name = f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"
    wanted = list(inspect.signature(cls.pack).parameters)
    if wanted == ["self"]:
        return f"{name}(**fields).pack()", {"fields": fields}
    given = {"kind": kind, **fields}
    given = {key: given[key] for key in wanted if key != "run"}
    if "run" not in wanted:
        return f"{name}.pack(**given)", {"given": given}
    return f"{name}.pack(run=run.Run(*place), **given)", {
        "given": given,
        "place": [fields[key] for key in RUN_FIELDS],
    }


@pytest.mark.parametrize("kind", sorted(CLASSES))
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_a_record_is_packed_and_unpacked_as_by_struct(twins: Twins, kind: int, data: st.DataObject) -> None:
    fields = data.draw(arbitrary(kind))
    if data.draw(st.booleans()):
        numbers = [name for name, value in fields.items() if type(value) is int]
        if numbers:
            fields[data.draw(st.sampled_from(numbers))] = data.draw(st.sampled_from(ODD))
    step, names = call(kind, fields)
    twins.both(step, **names)


@pytest.mark.parametrize("kind", sorted(CLASSES))
@settings(deadline=None, max_examples=25)
@given(data=st.binary(min_size=2 * RECORD_BYTES, max_size=2 * RECORD_BYTES), at=st.integers(-200, 300))
def test_any_bytes_are_unpacked_as_by_struct(twins: Twins, kind: int, data: bytes, at: int) -> None:
    cls = CLASSES[kind]
    unpack = f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}.unpack"
    twins.both(f"{unpack}(memoryview(data), {max(at, 0)})", data=data)


# --- views ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def views() -> Iterator[Twins]:
    require_compiled()
    with Twins("from pipeline.records.flows import flow_of") as both:
        yield both


@pytest.mark.parametrize(
    "view",
    [
        "memoryview(bytes(range(99)))",
        "memoryview(bytearray(range(99)))[3:]",
        "memoryview(bytearray(range(99)))[::2]",
        "memoryview(bytearray(range(96))).cast('I')",
        "memoryview(bytearray(range(96))).cast('b')",
        "memoryview(bytearray(range(96))).cast('B', (8, 12))",
        "memoryview(b'')",
        "bytes(range(99))",
        "bytearray(range(99))",
        "released",
    ],
)
@settings(deadline=None, max_examples=30)
@given(at=st.integers(-120, 120) | st.sampled_from([at for at in ODD if abs(at) < 1 << 63]))
def test_a_field_is_read_from_any_view_as_by_struct(views: Twins, view: str, at: int) -> None:
    views.both("released = memoryview(bytearray(99)); released.release()")
    views.both(f"flow_of({view}, {at})")


# --- rings ------------------------------------------------------------------------------------


class Rings(RuleBasedStateMachine):
    """A plain ring and a compiled one, each with its own memory, do the same at each step."""

    @initialize(
        start=st.sampled_from([0, 2**32 - 3, 2**62 - 3, 2**63 - 3, 2**64 - 100_000]),
        capacity=st.sampled_from([1, 2, 8]),
        readable=st.booleans(),
    )
    def begin(self, start: int, capacity: int, readable: bool) -> None:
        self.number = 0
        self.twins = Twins(
            "import struct\nfrom pipeline.ipc.ring import Consumer, Producer, SlotConsumer, SlotProducer\n"
            "from pipeline.ipc.ring import depth, passed, ring_bytes\nfrom pipeline.ipc.wake import Bell"
        )
        self.twins.both(
            "class Waiter:\n"
            "    posts = 0\n"
            "    def post(self): self.posts += 1\n"
            "    def wait(self, timeout): return False\n"
            "    def close(self): pass\n"
        )
        self.twins.both("memory = memoryview(bytearray(ring_bytes(capacity, 64)))", capacity=capacity)
        self.twins.both("slots = memoryview(bytearray(ring_bytes(capacity, 8)))")
        self.twins.both(
            "[struct.pack_into('=Q', m, at, start) for m in (memory, slots) for at in (0, 64)]", start=start
        )
        self.twins.both("p = Producer(memory, capacity)\nc = Consumer(memory, capacity)")
        self.twins.both("sp = SlotProducer(slots, capacity)\nsc = SlotConsumer(slots, capacity)")
        self.twins.both("line = memoryview(bytearray(64))\nwaiter = Waiter()\nbell = Bell(line, waiter)")

    @rule(count=st.integers(0, 20))
    def push(self, count: int) -> None:
        for _ in range(count):
            self.number += 1
            self.twins.both("p.push(struct.pack('<Q', n) * 8)", n=self.number)
            self.twins.both("sp.push(n)")

    @rule(limit=st.integers(1, 10))
    def peek(self, limit: int) -> None:
        self.twins.both("c.peek(n)", n=limit)

    @rule(count=st.integers(0, 10))
    def release(self, count: int) -> None:
        self.twins.both("c.release(n)", n=count)

    @rule(
        step=st.sampled_from(
            [
                "p.publish()", "p.room()", "p.has_room()", "p.arm()", "p.released()", "p.disarm()",
                "p.completed(p.push_idx())", "p.watch(p.push_idx())", "c.pending()", "c.fresh()",
                "c.wake_due()", "len(c)", "sp.publish()", "sc.drain()", "sc.pending()", "sp.room()",
                "bell.ring()", "bell.ring_for_slots()", "bell.prewake()", "bell.take_prewake()",
                "bell.take_control()", "bell.notify_control()", "bell.announce(True)", "bell.announce(False)",
                "bell.awake()", "depth(memory, capacity)", "passed(memory)", "p.publish() or c.peek()",
            ]
        )
    )  # fmt: skip
    def step(self, step: str) -> None:
        self.twins.both(step)
        self.twins.both("(bytes(memory), bytes(slots), bytes(line), waiter.posts, p.scarce, c.cons_idx)")

    def teardown(self) -> None:
        self.twins.__exit__(None, None, None)


@pytest.fixture
def _compiled() -> None:
    require_compiled()


@pytest.mark.usefixtures("_compiled")
class TestRings(Rings.TestCase):  # type: ignore[misc]
    settings = settings(max_examples=25, stateful_step_count=40, deadline=None)


# --- sums -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sums() -> Iterator[Twins]:
    require_compiled()
    with Twins("from pipeline.engines.offload import checksum") as both:
        yield both


@settings(deadline=None, max_examples=200)
@given(
    data=st.one_of(st.binary(max_size=1600), st.integers(0, 600).map(lambda n: b"\xff" * n)),
    kind=st.sampled_from(["bytes", "bytearray", "memoryview"]),
    off=st.integers(0, 9),
    short=st.integers(0, 9),
    initial=st.sampled_from([0, 1, 0xFFFF, 0x1FFFE, 0xFFFFF]),
)
def test_a_checksum_is_that_of_the_plain_code(
    sums: Twins, data: bytes, kind: str, off: int, short: int, initial: int
) -> None:
    sums.both(f"view = {kind}(data)", data=data)
    where = {"off": off, "length": max(len(data) - off - short, 0), "initial": initial}
    sums.both("checksum.checksum(view, off, length, initial)", **where)
    sums.both("checksum.verify(view, off, length, initial)", **where)
