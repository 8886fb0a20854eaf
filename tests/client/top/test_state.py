"""What top shows: polls in, rows out, without a screen."""

from time import localtime, strftime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.client.top import polls
from pipeline.client.top.polls import Ask, Poll
from pipeline.client.top.state import COLUMNS, State, View
from tests.support import played_daemon
from tests.support.played_daemon import CLOCK, poll


def state_at(view: View, *times: float) -> State:
    """A state with this view that has taken polls at these times."""
    state = State(2.0, 1000.0)
    state.show(view)
    for seconds in times:
        state.take(poll(state.asks(), seconds))
    return state


def cell(state: State, key: str, title: str) -> str:
    """A cell by its row and the title of its column."""
    shown = state.shown()
    at = [column.title for column in shown.columns].index(title)
    return next(row.cells[at] for row in shown.rows if row.key == key)


def keys(state: State) -> list[str]:
    return [row.key for row in state.shown().rows]


def answered(state: State, path: str, value: object, seconds: float = 0.0) -> None:
    """Take a poll in which this path has this answer."""
    found = poll(state.asks(), seconds)
    answers = {ask: value if ask.path == path else answer for ask, answer in found.answers.items()}
    state.take(found._replace(answers=answers))


@pytest.mark.parametrize(
    ("view", "paths"),
    [
        (View.GUESTS, ["/status", "/guests", "/metrics"]),
        (View.FLOWS, ["/status", "/flows"]),
        (View.WORKERS, ["/status", "/metrics"]),
        (View.DROPS, ["/status"]),
    ],
)
def test_a_poll_asks_once_for_what_the_view_shows(view: View, paths: list[str]) -> None:
    state = state_at(view)
    assert [ask.path for ask in state.asks()] == paths


def test_flows_are_asked_for_with_a_limit() -> None:
    assert state_at(View.FLOWS).asks()[1].fields == (("limit", "500"), ("sort", "bytes"))


def test_flows_have_rates_of_both_directions_after_two_polls() -> None:
    state = state_at(View.FLOWS, 0)
    assert [cell(state, "tcp0-17", title) for title in ("UP/s", "DOWN/s", "BOTH/s")] == ["-"] * 3
    state.take(poll(state.asks(), 2.0))
    assert [cell(state, "tcp0-17", title) for title in ("UP/s", "DOWN/s", "BOTH/s")] == (
        ["0 B", "35 MB", "35 MB"]
    )
    assert cell(state, "tcp0-21", "UP/s") == "9.1 MB"
    assert cell(state, "tcp0-30", "") == "<-"


def test_the_flow_that_uses_the_bandwidth_comes_first() -> None:
    assert keys(state_at(View.FLOWS, 0, 2)) == (
        ["tcp0-17", "tcp0-21", "tcp0-4", "egress0-9", "tcp0-30", "tcp0-33"]
    )


def test_before_there_are_rates_the_flow_with_most_bytes_comes_first() -> None:
    assert keys(state_at(View.FLOWS, 0))[:3] == ["tcp0-17", "tcp0-21", "tcp0-4"]


def test_guests_have_the_rates_of_their_mac_addresses() -> None:
    state = state_at(View.GUESTS, 0, 2)
    assert keys(state) == ["1", "2", "3"]
    assert [cell(state, "1", title) for title in ("UP/s", "DOWN/s", "TCP", "UDP")] == (
        ["18 kB", "35 MB", "1", "1"]
    )
    assert cell(state, "3", "ADDRESS") == "192.168.127.7"


def test_workers_have_busy_share_rings_and_slots() -> None:
    state = state_at(View.WORKERS, 0)
    titles = ("STATE", "BUSY", "WAITING", "FULLEST RING", "SLOTS IN USE")
    assert keys(state) == list(played_daemon.WORKERS), "as the daemon lists them"
    assert [cell(state, "tcp0", title) for title in titles] == ["ok", "36%", "197", "ingress 3%", "-"]
    assert [cell(state, "egress0", title) for title in titles] == ["ok", "58%", "41", "tcp0 1%", "127/224"]
    assert cell(state, "egress0", "") == "█████▊"


def test_drops_have_rates_and_a_new_cause_began_with_nothing() -> None:
    state = state_at(View.DROPS, 0, 2)
    assert keys(state)[0] == "udp_datagram_dropped_socket_full"
    assert cell(state, "udp_datagram_dropped_socket_full", "DROPPED/s") == "35"
    assert cell(state, "tcp_segment_dropped_paws", "DROPPED/s") == "0"
    more = played_daemon.status(4)
    more["drops"]["link_frame_dropped_runt"] = 3
    answered(state, polls.STATUS, more, 4)
    assert cell(state, "link_frame_dropped_runt", "DROPPED/s") == "1.5"


def test_a_head_sums_up_the_daemon() -> None:
    first, second = state_at(View.DROPS, 0, 2).head()
    assert first == "gvtap-pipeline 0.1.0  up 1d2h  guests 3  flows 5 tcp 1 udp 0 icmp"
    assert second == "from guests 9.1 MB/s (667 MB)  to guests  38 MB/s (983 MB)"


def test_columns_are_sorted_by_number_or_by_text() -> None:
    state = state_at(View.FLOWS, 0, 2)
    titles = [column.title for column in COLUMNS[View.FLOWS]]
    state.sort_by(titles.index("UP/s"))
    assert keys(state)[0] == "tcp0-21", "numbers: the largest first"
    state.sort_by(titles.index("PEER"))
    assert keys(state)[0] == "tcp0-30", "texts: the first of the alphabet first"
    state.sort_by(titles.index("PEER"))
    assert keys(state)[-1] == "tcp0-30", "the same column again: the other way round"
    state.reverse()
    assert keys(state)[0] == "tcp0-30"


def test_every_column_with_a_title_can_be_sorted_by() -> None:
    for view in View:
        state = state_at(view, 0, 2)
        seen = set()
        for _ in COLUMNS[view]:
            state.sort_by_next(1)
            seen.add(state.shown().columns[state.shown().order.column].title)
        assert seen == {column.title for column in COLUMNS[view]} - {""}
        before = state.shown().order.column
        state.sort_by_next(1)
        state.sort_by_next(-1)
        assert state.shown().order.column == before


def test_workers_can_be_reversed_as_the_daemon_lists_them() -> None:
    state = state_at(View.WORKERS, 0)
    state.reverse()
    assert keys(state) == list(reversed(played_daemon.WORKERS))


def test_a_column_that_does_not_exist_changes_nothing() -> None:
    state = state_at(View.FLOWS, 0, 2)
    before = state.shown()
    state.sort_by(99)
    assert state.shown() == before


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", 6),
        ("example", 3),
        ("EXAMPLE 443", 2),
        ("192.168.127.7", 2),
        ("syn-sent", 1),
        ("nothing of this", 0),
    ],
)
def test_a_filter_keeps_rows_that_have_all_words(words: str, found: int) -> None:
    state = state_at(View.FLOWS, 0, 2)
    state.filter = words
    assert len(keys(state)) == found
    state.show(View.DROPS)
    assert state.filter == "", "each view has its own"


def test_flows_of_one_guest_are_asked_of_the_daemon() -> None:
    state = state_at(View.FLOWS, 0, 2)
    late = poll(state.asks(), 4)
    state.show_flows_of("3")
    assert keys(state) == []
    assert state.asks()[1].fields[0] == ("guest", "3")
    state.take(late)
    assert keys(state) == [], "an answer about all guests comes too late"
    state.take(poll(state.asks(), 6))
    assert keys(state) == ["tcp0-4", "tcp0-33"]
    assert "only guest 3" in state.notes(range(20))


def test_rates_begin_again_after_another_view() -> None:
    state = state_at(View.FLOWS, 0, 2)
    state.show(View.DROPS)
    state.show(View.FLOWS)
    state.take(poll(state.asks(), 60))
    assert cell(state, "tcp0-17", "DOWN/s") == "-"


def test_rates_begin_again_with_another_daemon() -> None:
    state = state_at(View.FLOWS, 0)
    answered(state, polls.STATUS, played_daemon.status(0) | {"pid": 5000}, 2)
    assert cell(state, "tcp0-17", "DOWN/s") == "-"
    assert "from guests      -/s" in state.head()[1]


def test_rates_begin_again_with_another_daemon_of_the_same_pid() -> None:
    state = state_at(View.FLOWS, 0)
    answered(state, polls.STATUS, played_daemon.status(0) | {"uptime_seconds": 1.0}, 2)
    assert cell(state, "tcp0-17", "DOWN/s") == "-"


def test_numbers_in_texts_are_sorted_as_numbers() -> None:
    state = state_at(View.FLOWS)
    flow = played_daemon.flows(0)["flows"][0]
    flows = [flow | {"id": f"tcp0-{number}"} for number in (100, 9, 10)]
    answered(state, polls.FLOWS, {"flows": flows, "total": 3})
    state.sort_by(0)
    assert keys(state) == ["tcp0-9", "tcp0-10", "tcp0-100"]


def test_a_limit_is_reported() -> None:
    state = state_at(View.FLOWS, 0)
    answered(state, polls.FLOWS, played_daemon.flows(0) | {"total": 4321})
    assert state.notes(range(20)) == "6 of 4321 flows, those with most bytes"


def test_the_order_is_named_if_its_column_is_hidden() -> None:
    state = state_at(View.FLOWS, 0)
    assert state.notes([1, 2]) == "sorted by BOTH/s"
    assert state.notes(range(20)) == ""
    state.show(View.WORKERS)
    assert state.notes([]) == ""


def test_silence_has_the_time_of_the_last_answer_and_the_cause() -> None:
    state = State(2.0, 1000.0)
    assert state.silence(1004.0) == ""
    assert state.silence(1004.1) == "no answer since the start"
    state.take(poll(state.asks(), 0))
    assert state.silence(1003.9) == ""
    since = f"no answer since {strftime('%H:%M:%S', localtime(CLOCK))}"
    assert state.silence(1004.1) == since, "the interval and two seconds more have passed"
    state.take(Poll(1003.0, CLOCK + 3, {}, {}, "connection refused"))
    assert state.silence(1003.0) == f"{since}: connection refused"
    assert keys(state) != [], "the last rows stay"
    state.take(poll(state.asks(), 6))
    assert state.silence(1006.0) == ""


def test_what_the_daemon_refuses_is_reported_beside_what_it_answers() -> None:
    state = state_at(View.GUESTS)
    metrics = state.asks()[2]
    found = poll(state.asks(), 0)
    answers = {ask: answer for ask, answer in found.answers.items() if ask != metrics}
    state.take(found._replace(answers=answers, faults={metrics: "internal error"}))
    assert keys(state) == ["1", "2", "3"]
    assert cell(state, "1", "UP/s") == "-"
    assert state.notes(range(20)) == "/metrics: internal error"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["flows", "id", "guest", "workers", "worker", "drops", "a"]), inner)
    ),
    max_leaves=12,
)


@given(st.lists(_JSON, min_size=1, max_size=4))
def test_answers_of_another_shape_are_no_crash(values: list[Any]) -> None:
    for view in View:
        state = State(2.0, 1000.0)
        state.show(view)
        for seconds, value in enumerate(values):
            answers: dict[Ask, object] = {ask: value for ask in state.asks() if ask.path != polls.METRICS}
            state.take(Poll(float(seconds), CLOCK, answers, {}))
            shown = state.shown()
            assert all(len(row.cells) == len(row.order) == len(shown.columns) for row in shown.rows)
            assert len(set(keys(state))) == len(shown.rows)
            for column in range(len(shown.columns)):
                state.sort_by(column)
                state.shown()
            state.head()
