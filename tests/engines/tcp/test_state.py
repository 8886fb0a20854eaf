"""Names of the states."""

from pipeline.engines.tcp import state


def test_states_print_with_hyphens() -> None:
    assert state.STATE_NAMES[state.TIME_WAIT] == "TIME-WAIT"
    assert state.STATE_NAMES[state.FIN_WAIT_1] == "FIN-WAIT-1"
    assert len(state.STATE_NAMES) == state.TIME_WAIT + 1
