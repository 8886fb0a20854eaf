"""The table of sub-commands: it names functions that exist, and its flags can be told apart."""

import pytest

from pipeline import sub_commands
from pipeline.sub_commands import COMMANDS, Command


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_a_function(command: Command) -> None:
    assert callable(command.load())
    names = [flag.name for flag in command.flags]
    assert len(names) == len(set(names))


def test_a_line_begins_with_the_name_of_its_command() -> None:
    found = sub_commands.find(["config", "show", "-mtu", "1400"])
    assert found is not None
    command, rest = found
    assert (command.name, rest) == ("config show", ["-mtu", "1400"])
    assert sub_commands.find(["config"]) is None
    assert sub_commands.find([]) is None
