"""The control messages about flows: to tcp and egress, which have them, and to the resolver, which has names.

message_table.py describes control messages. A row of a flow is a list of plain values (flow_rows.py).
"""

from dataclasses import dataclass

from pipeline.ipc.message import Answer, Request


@dataclass(frozen=True, slots=True)
class FlowIds(Request):
    """Report the numbers of all flows."""

    NAME = "flow_ids"


@dataclass(frozen=True, slots=True)
class FlowIdsAnswer(Answer):
    """numbers: each is unique in the worker as long as the flow lives."""

    numbers: list[int]


@dataclass(frozen=True, slots=True)
class Flows(Request):
    """Report these flows. The caller asks for few at a time, since the worker does nothing else meanwhile."""

    NAME = "flows"
    numbers: list[int]


@dataclass(frozen=True, slots=True)
class FlowsAnswer(Answer):
    """flows: a row for each flow that is still there (pipeline.ipc.flow_rows)."""

    flows: list[list[object]]


@dataclass(frozen=True, slots=True)
class EndFlow(Request):
    """End this flow. A TCP connection is reset towards both sides."""

    NAME = "end_flow"
    number: int


@dataclass(frozen=True, slots=True)
class EndFlowAnswer(Answer):
    """found: whether there was such a flow."""

    found: bool


@dataclass(frozen=True, slots=True)
class Names(Request):
    """Report by which names guests learnt addresses. pairs: the addresses of a guest and of a host."""

    NAME = "names"
    pairs: list[list[str]]


@dataclass(frozen=True, slots=True)
class NamesAnswer(Answer):
    """names: one for each pair, "" where none is known."""

    names: list[str]
