"""The sub-commands of gvtap-pipeline as a table: words, flags, and the function that runs each.

The command line, its help, the man page and the completions come from this table. A function is named by its
module, which is loaded when the command runs. So help and version need none of the daemon's libraries.
"""

import pkgutil
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from pipeline.client import options as client_options
from pipeline.config import options
from pipeline.go.flags import Flag, Parsed

Run = Callable[[Parsed, Sequence[str]], int]
"""Runs a command: the parsed line, and its words as typed. Returns the exit code."""

ANY_NUMBER: Final = -1


class Command(NamedTuple):
    """A sub-command.

    ``name``: one word or two. ``argument``: what its words are, "" if it takes none. ``arity``: how many,
    ANY_NUMBER for one and more. ``place``: ``module:function``. ``lenient``: words that are not flags are
    ignored.
    """

    name: str
    help: str
    place: str
    flags: tuple[Flag, ...] = ()
    argument: str = ""
    arity: int = 0
    lenient: bool = False

    @property
    def usage(self) -> str:
        """The command with the form of what follows it."""
        flags = "[flags]" if self.flags else ""
        return " ".join(filter(None, (self.name, flags, self.argument)))

    def takes(self, words: Sequence[str]) -> bool:
        """Whether the number of words that are not flags is right."""
        return bool(words) if self.arity == ANY_NUMBER else len(words) == self.arity

    def load(self) -> Run:
        """The function that runs the command."""
        run: Run = pkgutil.resolve_name(self.place)
        return run


COMMANDS: Final = (
    Command("start", "run the network", "pipeline.commands.start:pipeline", options.START),
    Command(
        "config check",
        "say what is wrong with a configuration file",
        "pipeline.commands.config:check",
        argument="FILE",
        arity=1,
    ),
    Command(
        "config show",
        "print what flags and file come to, as a file",
        "pipeline.commands.config:show",
        options.START,
    ),
    Command(
        "config schema", "print the JSON schema of a configuration file", "pipeline.commands.config:schema"
    ),
    Command(
        "status",
        "print how a running daemon is: workers, sockets, forwards, drops and refusals",
        "pipeline.client.show:status",
        client_options.SHOW,
    ),
    Command("guests", "list the guests", "pipeline.client.show:guests", client_options.SHOW),
    Command("flows", "list open connections", "pipeline.client.show:flows", client_options.FLOWS),
    Command("leases", "list the addresses of guests", "pipeline.client.show:leases", client_options.SHOW),
    Command(
        "top",
        "watch guests, flows, workers and drops with their rates",
        "pipeline.client.top.command:run",
        client_options.TOP,
    ),
    Command(
        "expose",
        "open forwards to a guest, such as 8080:80; the words are those of start -forward",
        "pipeline.client.forwards:expose",
        client_options.SHOW,
        "FORWARD...",
        ANY_NUMBER,
    ),
    Command(
        "unexpose",
        "close forwards; the guest's side may be left out: 8080",
        "pipeline.client.forwards:unexpose",
        client_options.SHOW,
        "FORWARD...",
        ANY_NUMBER,
    ),
    Command(
        "fleet status", "list the hosts of a fleet", "pipeline.commands.fleet:status", options.FLEET_COMMANDS
    ),
    Command(
        "fleet guests",
        "list the guests of all hosts of a fleet",
        "pipeline.commands.fleet:guests",
        options.FLEET_COMMANDS,
    ),
    Command(
        "fleet forwards",
        "list the forwards of a fleet",
        "pipeline.commands.fleet:forwards",
        options.FLEET_COMMANDS,
    ),
    Command(
        "fleet expose",
        "open forwards on all hosts of a fleet, such as :8080:192.168.127.10:80",
        "pipeline.commands.fleet:expose",
        options.FLEET_COMMANDS,
        "FORWARD...",
        ANY_NUMBER,
    ),
    Command(
        "fleet unexpose",
        "close forwards on all hosts of a fleet; the guest's side may be left out: :8080",
        "pipeline.commands.fleet:unexpose",
        options.FLEET_COMMANDS,
        "FORWARD...",
        ANY_NUMBER,
    ),
    Command(
        "fleet show-policy",
        "print the egress policy of a fleet, as a file has it",
        "pipeline.commands.fleet:policy_show",
        options.FLEET_COMMANDS,
    ),
    Command(
        "fleet set-policy",
        "replace the egress policy of a fleet by that of a file",
        "pipeline.commands.fleet:policy_set",
        options.FLEET_COMMANDS,
        "FILE",
        1,
    ),
    Command(
        "policy show",
        "print the egress policy of a running daemon, as a file has it",
        "pipeline.client.policy:show",
        client_options.SHOW,
    ),
    Command(
        "policy set",
        "replace the egress policy of a running daemon by that of a file",
        "pipeline.client.policy:set_policy",
        client_options.POLICY_SET,
        "FILE",
        1,
    ),
    Command(
        "policy explain",
        "say which rule decides about a guest and a destination, such as example.com:443",
        "pipeline.client.policy:explain",
        client_options.POLICY_EXPLAIN,
        "GUEST DESTINATION",
        2,
    ),
    Command(
        "quotas show",
        "list what guests have used of their quotas, and what is left",
        "pipeline.client.quotas:show",
        client_options.SHOW,
    ),
    Command(
        "quotas reset",
        "let what a guest has used of its quotas begin at zero; all for all guests",
        "pipeline.client.quotas:reset",
        client_options.QUOTAS_RESET,
        "GUEST",
        1,
    ),
    Command(
        "restart",
        "replace a running daemon by the version and the configuration of now; guests stay",
        "pipeline.client.restart:run",
        client_options.SHOW,
    ),
    Command(
        "attach",
        "give a network namespace a tap of a running daemon, until it ends",
        "pipeline.client.attach:run",
        client_options.ATTACH,
        "PID|PATH",
        1,
    ),
    Command(
        "capture",
        "write what guests send and get, of a running daemon",
        "pipeline.client.capture:run",
        client_options.CAPTURE,
    ),
    Command(
        "extcap",
        "the same for Wireshark, which runs this command",
        "pipeline.client.extcap:run",
        client_options.EXTCAP,
        # Wireshark decides what follows its flags.
        lenient=True,
    ),
)


def find(words: Sequence[str]) -> tuple[Command, Sequence[str]] | None:
    """The command that a line begins with, and the words after its name."""
    for command in COMMANDS:
        name = command.name.split()
        if list(words[: len(name)]) == name:
            return command, words[len(name) :]
    return None
