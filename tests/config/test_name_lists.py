"""Files with names: what they may hold, and what is said about a mistake."""

from pathlib import Path

import pytest

from pipeline.config import name_lists
from pipeline.config.errors import ConfigError
from pipeline.config.model import EgressPolicy, PolicyRule
from tests.config.built import build


def policy(*paths: Path) -> EgressPolicy:
    files = tuple(map(str, paths))
    return EgressPolicy("deny", (PolicyRule("allow", names=("x.test",), name_files=files),))


def test_each_line_has_a_name(tmp_path: Path) -> None:
    path = tmp_path / "names"
    path.write_bytes(b"# a list\n\n  A.example. # one\r\n*.b.example\na.example\n")
    assert name_lists.read(str(path)) == ("a.example", "*.b.example")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"a.example\na b\n", 'line 2: must be a name such as example.com, or .* below it, not "a b"'),
        (b"\xff\n", "is not a text in UTF-8"),
        (None, "cannot be read: no such file or directory"),
    ],
)
def test_a_mistake_names_the_key_the_file_and_the_line(
    tmp_path: Path, text: bytes | None, error: str
) -> None:
    path = tmp_path / "names"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(ConfigError, match=rf'egress-policy.rules\[0\].name-files: ".*names": {error}'):
        name_lists.read_all(policy(path))


def test_the_policy_of_workers_has_the_names_of_the_files(tmp_path: Path) -> None:
    path = tmp_path / "names"
    path.write_text("a.example\n")
    made = policy(path)
    lists = name_lists.read_all(made)
    assert made.with_names(lists).rules[0].names == ("x.test", "a.example")
    assert made.rules[0].names == ("x.test",)


def test_a_change_of_a_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "names"
    before = name_lists.stamps(policy(path))
    path.write_text("a.example\n")
    after = name_lists.stamps(policy(path))
    assert before != after
    path.write_text("b.example.org\n")
    assert name_lists.stamps(policy(path)) != after


def test_a_preset_stands_in_the_place_of_a_default(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("egress-policy: {preset: locked, default: deny}")
    with pytest.raises(ConfigError, match=r"egress-policy.default: a preset stands in its place"):
        build("-config", str(tmp_path / "c.yaml"))


@pytest.mark.parametrize(
    ("made", "rebinding", "quic", "removed"),
    [
        (EgressPolicy(), False, False, set()),
        (EgressPolicy(preset="open"), False, False, set()),
        (EgressPolicy(preset="public"), True, False, set()),
        (EgressPolicy(preset="locked"), True, True, {"ech", "h3"}),
        (EgressPolicy(preset="locked", rebinding="allow", quic="read", ech="allow"), False, False, set()),
        (EgressPolicy(rebinding="deny", quic="deny", ech="deny"), True, True, {"ech", "h3"}),
        (EgressPolicy(quic="deny", h3="allow"), False, True, set()),
    ],
)
def test_a_preset_has_settings_which_the_file_may_change(
    made: EgressPolicy, rebinding: bool, quic: bool, removed: set[str]
) -> None:
    assert (made.denies_rebinding, made.denies_quic, made.removed) == (rebinding, quic, removed)
