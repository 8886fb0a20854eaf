"""Actions are plain values; a stage tells them apart by type."""

import typing

from pipeline.engines.tcp import actions


def test_every_action_has_a_type_of_its_own_and_no_attributes_but_its_fields() -> None:
    kinds = typing.get_args(actions.Action)
    assert len(set(kinds)) == len(kinds) == 8
    assert not any(issubclass(kind, other) for kind in kinds for other in kinds if kind is not other)
    assert not any(hasattr(action, "__dict__") for action in (actions.GONE, actions.Deliver(1, 2, 3)))


def test_outgoing_without_syn_asks_for_no_options() -> None:
    out = actions.Outgoing(1, 16, (2, 3, 0, 0, False, (), 1460))
    assert (out.seq, out.ack, out.flags, out.wnd, out.mss) == (1, 2, 16, 3, 1460)
    assert out.buf is None
    assert out.syn_wscale == -1
    assert not out.syn_sack
