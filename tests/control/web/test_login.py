"""Tokens and sessions of the web page."""

import pytest

from pipeline.control.web.login import IDLE, MAX_SESSIONS, Login, Session


class Rig:
    """A login with a clock that the test moves, and all tokens that the log got."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.tokens: list[str] = []
        self.login = Login(8080, self.tokens.append, lambda: self.now)
        self.login.renew()

    def enter(self) -> Session:
        session = self.login.exchange(self.tokens[-1])
        assert session is not None
        return session


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_token_works_once_and_the_next_one_is_reported(rig: Rig) -> None:
    (token,) = rig.tokens
    assert len(token) == 43, "256 bits"
    assert rig.login.exchange(token) is not None
    assert rig.login.exchange(token) is None
    assert len(set(rig.tokens)) == 2
    assert rig.login.exchange(rig.tokens[1]) is not None


@pytest.mark.parametrize("wrong", ["", "x", "\udcff", "ü" * 43])
def test_a_wrong_token_gets_nothing_and_does_not_use_up_the_right_one(rig: Rig, wrong: str) -> None:
    assert rig.login.exchange(wrong) is None
    assert rig.login.exchange(rig.tokens[0][:-1]) is None
    assert len(rig.tokens) == 1
    assert rig.login.exchange(rig.tokens[0]) is not None


def test_before_the_first_token_nothing_is_one() -> None:
    assert Login(8080, lambda _token: None).exchange("") is None


def test_a_request_needs_both_secrets_of_one_session(rig: Rig) -> None:
    one, other = rig.enter(), rig.enter()
    assert rig.login.is_valid(one.cookie, one.key)
    assert rig.login.is_valid(other.cookie, other.key)
    for cookie, key in (
        (one.cookie, other.key),
        (one.cookie, ""),
        ("", one.key),
        ("", ""),
        (one.key, one.cookie),
    ):
        assert not rig.login.is_valid(cookie, key)
    assert not rig.login.is_valid(one.cookie, "\udcff")
    assert len({*one, *other}) == 4


def test_a_session_lives_on_while_it_is_used(rig: Rig) -> None:
    used, idle = rig.enter(), rig.enter()
    rig.now += IDLE - 1
    assert rig.login.is_valid(*used)
    rig.now += 2
    assert rig.login.is_valid(*used)
    assert not rig.login.is_valid(*idle)
    rig.now += IDLE + 1
    assert not rig.login.is_valid(*used)


def test_the_session_unused_for_longest_makes_room(rig: Rig) -> None:
    sessions = [rig.enter() for _ in range(MAX_SESSIONS)]
    assert rig.login.is_valid(*sessions[0])
    newest = rig.enter()
    assert not rig.login.is_valid(*sessions[1])
    assert all(rig.login.is_valid(*session) for session in (sessions[0], *sessions[2:], newest))


def test_a_session_can_be_ended(rig: Rig) -> None:
    session = rig.enter()
    rig.login.end(session.cookie)
    rig.login.end(session.cookie)
    assert not rig.login.is_valid(*session)


def test_daemons_on_one_address_have_cookies_of_their_own() -> None:
    assert Login(1, str).cookie_name != Login(2, str).cookie_name
