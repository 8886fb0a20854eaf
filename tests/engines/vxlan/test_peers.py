"""Which hosts understand trains: they are asked while there is use for it."""

import itertools

from pipeline.engines.vxlan.peers import LONGEST_PAUSE, MISSES, Peers


def peers(count: int = 1) -> Peers:
    made = Peers()
    for host in range(count):
        made.add(host)
    return made


def test_nobody_is_asked_without_use() -> None:
    idle = peers(2)
    assert not idle.in_use
    assert idle.questions(1) == []


def test_a_host_that_answers_takes_trains_from_then_on() -> None:
    asking = peers(2)
    assert not asking.takes_trains(1)
    assert asking.in_use
    assert asking.questions(5) == [1]
    assert not asking.in_use
    asking.on_answer(1, 5)
    assert asking.takes_trains(1)
    assert not asking.takes_trains(0)


def test_an_answer_counts_once_and_with_the_last_nonce_alone() -> None:
    asking = peers()
    asking.on_answer(0, 0)
    asking.takes_trains(0)
    asking.questions(5)
    asking.on_answer(0, 4)
    asking.on_answer(0, 0)
    assert not asking.takes_trains(0)
    asking.questions(7)
    asking.on_answer(0, 5)
    assert not asking.takes_trains(0)
    asking.on_answer(0, 7)
    assert asking.takes_trains(0)


def test_a_host_that_no_longer_answers_gets_no_trains_after_three_questions() -> None:
    asking = peers()
    asking.takes_trains(0)
    asking.questions(1)
    asking.on_answer(0, 1)
    for tick in range(2, 2 + MISSES):
        assert asking.takes_trains(0)
        assert asking.questions(tick) == [0]
    assert asking.takes_trains(0)
    asking.questions(9)
    assert not asking.takes_trains(0)


def test_a_host_that_never_answers_is_asked_less_and_less_often() -> None:
    asking = peers()
    asked = []
    for tick in range(1, 1000):
        asking.takes_trains(0)
        if asking.questions(tick):
            asked.append(tick)
    pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert pauses[: MISSES + 3] == [1, 1, 1, 2, 4, 8]
    assert max(pauses) == pauses[-1] == LONGEST_PAUSE
    asking.on_answer(0, asked[-1])
    assert asking.takes_trains(0)
    assert asking.questions(2000) == [0], "it is asked at once again"


def test_a_host_that_is_gone_is_not_asked() -> None:
    asking = peers(2)
    asking.takes_trains(0)
    asking.remove(0)
    assert asking.questions(1) == []
