"""Which name a proxy is told."""

from pipeline.engines import told
from pipeline.engines.told import ToldNames, is_host

GUEST, OTHER, ADDRESS = 1, 2, 100


def names() -> ToldNames:
    made = ToldNames()
    made.learn(GUEST, ADDRESS, "a.test")
    made.learn(GUEST, ADDRESS, "b.test")
    return made


def test_a_stated_name_is_believed_only_if_the_gateway_gave_the_address_for_it() -> None:
    assert names().choose((GUEST,), ADDRESS, "a.test") == "a.test"
    assert names().choose((GUEST,), ADDRESS, "localhost") == ""
    assert names().choose((OTHER,), ADDRESS, "a.test") == ""
    assert names().choose((GUEST,), ADDRESS + 1, "a.test") == ""
    assert names().choose((OTHER, GUEST), ADDRESS, "a.test") == "a.test", "another address of the guest"


def test_without_a_stated_name_the_last_one_counts() -> None:
    made = names()
    assert made.choose((GUEST,), ADDRESS, "") == "b.test"
    made.learn(GUEST, ADDRESS, "a.test")
    assert made.choose((GUEST,), ADDRESS, "") == "a.test"


def test_names_have_bounds() -> None:
    made = ToldNames()
    for number in range(2 * told.MAX_NAMES):
        made.learn(GUEST, ADDRESS, f"n{number}.test")
    assert made.choose((GUEST,), ADDRESS, "n0.test") == ""
    assert made.choose((GUEST,), ADDRESS, f"n{told.MAX_NAMES}.test")
    for address in range(told.MAX_PAIRS + 10):
        made.learn(OTHER, address, "a.test")
    assert len(made) == told.MAX_PAIRS


def test_a_name_that_a_program_may_take_for_an_address_or_a_line_is_none() -> None:
    assert all(map(is_host, ("a", "a.test", "_x.a-b.test", "xn--a.test", "1.a")))
    wrong = ("", ".", "127.1", "a.1", "0x7f.0x1", "a b", "a\r\nX: y", "a..b", "-a", "a:80", "x" * 254, "a@b")
    assert not any(map(is_host, wrong))
    made = ToldNames()
    made.learn(GUEST, ADDRESS, "127.1")
    assert not len(made)
