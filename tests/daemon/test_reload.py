"""A stage that was given other settings is equal to one that was made with them."""

import inspect
import os
from collections.abc import Iterator
from types import GetSetDescriptorType

import pytest

from pipeline.config import limits, merge, options
from pipeline.config.limits import Limits
from pipeline.config.model import Config, EgressPolicy, PolicyRule
from pipeline.daemon.placement import Group
from pipeline.daemon.processes import make_loop
from pipeline.go import flags
from pipeline.ipc.fabric import Fabric
from pipeline.stages.worker import Worker
from pipeline.topology import Layout
from tests.support.configured import changed

LAYOUT = Layout()
BOUNDED = {"max_out_of_order_slots", "max_forwards_of_guests", "max_forward_changes_per_second"}
"""Limits of which only the smaller of two numbers counts, or that the supervisor has."""


def other_limits() -> dict[str, int]:
    """A value for each limit that no other one has, and that is not its default."""
    return {
        row.name: max(row.low, row.default * 3 // 4) + 2 * index + 1 for index, row in enumerate(limits.TABLE)
    }


def config(**settings: object) -> Config:
    return changed(merge.build(flags.parse(options.START, []), resolv_conf=os.devnull)[0], **settings)


NAMED = PolicyRule("allow", names=("example.com",))
OTHERS: dict[str, object] = {
    **other_limits(),
    "egress_policy": EgressPolicy("deny", (NAMED,)),
    "dns_search_domains": ("example.com",),
}


class Made:
    """All workers of one process."""

    def __init__(self, made_with: Config) -> None:
        names = LAYOUT.names
        self.fabric = Fabric.create(LAYOUT, [names])
        _, self.workers = make_loop(self.fabric, Group("all", tuple(names)), made_with, {})

    def numbers(self) -> dict[str, float]:
        """All numbers in the stages, by where they are."""
        found: dict[str, float] = {}
        seen: set[int] = set()
        for name, worker in self.workers.items():
            collect(worker.stage, name, found, seen)
        return found


def attributes(value: object) -> Iterator[tuple[str, object]]:
    """The attributes of an object, compiled or not."""
    names = set(getattr(value, "__dict__", ()))
    names |= {
        name
        for name, kind in inspect.getmembers_static(type(value))
        if isinstance(kind, GetSetDescriptorType) or inspect.ismemberdescriptor(kind)
    }
    for name in sorted(names - {"__dict__", "__weakref__"}):
        try:
            yield name, getattr(value, name)
        except AttributeError:
            continue


def collect(value: object, path: str, found: dict[str, float], seen: set[int]) -> None:
    if isinstance(value, int | float):
        found[path] = float(value)
        return
    ours = type(value).__module__.startswith("pipeline.")
    if id(value) in seen or not ours or isinstance(value, Worker | Config | Limits | type):
        return
    seen.add(id(value))
    for name, inner in attributes(value):
        collect(inner, f"{path}.{name}", found, seen)


@pytest.fixture(scope="module")
def made() -> dict[str, Made]:
    others = config(**other_limits())
    return {
        "default": Made(config()),
        "again": Made(config()),
        "other": Made(others),
        "reloaded": Made(config()),
    }


def test_after_a_reload_every_number_is_as_if_the_stage_had_been_made_with_it(made: dict[str, Made]) -> None:
    default, again, other = (made[name].numbers() for name in ("default", "again", "other"))
    # Some numbers are random, or times.
    depends = {path for path in default if default[path] != other[path] and default[path] == again[path]}
    found = {other[path] for path in depends}
    missing = {
        name: value
        for name, value in other_limits().items()
        if value not in found and name not in BOUNDED and value / 2 not in found
    }
    assert missing == {}, "limits that no stage has"
    for worker in made["reloaded"].workers.values():
        worker.stage.reload(config(**OTHERS))
    numbers = made["reloaded"].numbers()
    wrong = {path: (numbers[path], other[path]) for path in depends if numbers[path] != other[path]}
    assert wrong == {}
