"""Actions are plain values that a stage tells apart by type."""

import typing

from pipeline.engines.tcp import actions


def test_every_action_is_a_tuple_of_its_own_type() -> None:
    kinds = typing.get_args(actions.Action)
    assert len(set(kinds)) == len(kinds) == 8
    assert all(issubclass(kind, tuple) for kind in kinds)


def test_outgoing_without_syn_asks_for_no_options() -> None:
    out = actions.Outgoing(1, 2, 16, 3, 0, 0, False, (), None, 0, 0, 1460)
    assert out.syn_wscale == -1
    assert not out.syn_sack
