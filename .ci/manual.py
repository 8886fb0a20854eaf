"""Writes man pages and shell completions from the tables of flags: manual.py [DIRECTORY], by default contrib.

The pages are in mdoc(7). tests/test_manual.py keeps the committed files equal to the tables.
"""

import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from guest import agent  # noqa: E402
from pipeline import sub_commands  # noqa: E402
from pipeline.config import options, slirp4netns  # noqa: E402
from pipeline.go.flags import Flag  # noqa: E402
from pipeline.sub_commands import Command  # noqa: E402

MOST: Final = 8
"""Commands."""
WIDTH: Final = 66
"""Of a line of a page. mandoc wants at most 80 bytes, and an escaped dash has two."""
DATE: Final = "November 30, 2026"
"""Of the last change to the words in this file."""


class Program(NamedTuple):
    """What a page says of a program. ``flags``: of a program without sub-commands."""

    name: str
    title: str
    text: str
    flags: Sequence[Flag] = ()
    commands: Sequence[Command] = ()
    exits: Sequence[tuple[str, str]] = ()
    arguments: str = ""
    form: Sequence[str] = (
        "A flag has one dash or two.",
        "A value is the next word, or follows an equals sign.",
    )


PIPELINE: Final = Program(
    "gvtap-pipeline",
    "user-mode network for virtual machines",
    "It is the gateway, DHCP server and DNS server of its guests. "
    "It opens host sockets for their connections. "
    "Frames arrive on the sockets that the flags name. "
    "The guest is 192.168.127.2, the gateway 192.168.127.1 and the host 192.168.127.254.",
    commands=(
        *sub_commands.COMMANDS,
        Command("version", "print the version, how the data path was built, and the version of Python", ""),
        Command("help", "list the commands", ""),
    ),
    exits=(
        (
            "0",
            "After an orderly end: SIGINT, SIGTERM, SIGHUP without a configuration file, and under systemd "
            "after a successor has taken over.",
        ),
        (
            "1",
            "If the configuration is wrong, the start fails, a worker process ends or does not answer, "
            "or a daemon cannot be asked or refuses.",
        ),
        ("2", "If the command line is wrong, and after SIGQUIT."),
    ),
)
GVPROXY: Final = Program(
    "gvtap-gvproxy",
    "replacement for gvproxy",
    "It has the flags, texts and life of gvproxy: it ends when its machine ends. "
    "A link of the name gvproxy to this program serves podman machine.",
    options.GVPROXY,
    exits=(
        ("0", "After a signal, and when the guest has gone."),
        ("1", "If the configuration is wrong, or the daemon fails."),
        ("2", "If the command line is wrong."),
    ),
)
GUEST: Final = Program(
    "gvtap-guest",
    "network of a guest, from a host with gvtap-pipeline or gvproxy",
    "It makes a tap interface and carries its frames to the host. It needs root and /dev/net/tun. "
    "If a step fails, it closes everything, waits a second and starts again.",
    agent.FLAGS,
    exits=(
        ("0", "After a signal, and if an interface of -stop-if-exist exists."),
        ("2", "If the command line is wrong."),
    ),
)
SLIRP4NETNS: Final = Program(
    "gvtap-slirp4netns",
    "replacement for slirp4netns: user-mode network for a network namespace",
    "It makes a tap in the namespace of a process, or of a path. "
    "It is the gateway, DHCP server and DNS server of that namespace. "
    "It has the options and the API socket of slirp4netns. "
    "It ends when the namespace ends.",
    slirp4netns.OPTIONS,
    exits=(
        ("0", "After a signal, and when the namespace has ended or the descriptor of --exit-fd hangs up."),
        ("1", "If the command line is wrong, or the start fails."),
    ),
    arguments="PID|PATH [TAPNAME]",
    form=(
        "The value of a long option is the next word, or follows an equals sign.",
        "Short options are "
        + ", ".join(f"-{letter} for -{name}" for letter, name in slirp4netns.SHORT.items())
        + ".",
    ),
)
PROGRAMS: Final = (PIPELINE, GVPROXY, GUEST, SLIRP4NETNS)


# --- man pages ----------------------------------------------------------------------------------


def escaped(text: str) -> str:
    """Text that roff leaves as it is, in lines of at most WIDTH characters."""
    lines = textwrap.wrap(text, WIDTH, break_on_hyphens=False)
    lines = [line.replace("\\", "\\e").replace("-", "\\-") for line in lines]
    return "\n".join(f"\\&{line}" if line[:1] in (".", "'") else line for line in lines)


def paragraph(text: str) -> list[str]:
    """The sentences of a text, each on a line of its own, as mandoc wants it."""
    return [escaped(sentence) for sentence in re.split(r"(?<=[.:!?]) (?=[A-Z])", text)]


def groups(program: Program) -> list[tuple[list[str], list[Flag]]]:
    """The flags of a program, and the sub-commands that have them: those of the same commands together."""
    commands: dict[Flag, list[str]] = {}
    for command in program.commands:
        for flag in command.flags:
            commands.setdefault(flag, []).append(command.name)
    found: dict[tuple[str, ...], list[Flag]] = {}
    for flag, names in commands.items():
        found.setdefault(tuple(names), []).append(flag)
    return [(list(names), flags) for names, flags in found.items()]


def enumeration(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def flag_lines(flags: Sequence[Flag]) -> list[str]:
    """The list of flags, sorted by name."""
    lines = [".Bl -tag -width Ds"]
    for flag in sorted(flags):
        kind = "" if flag.kind == "bool" else f" Ar {flag.kind}"
        value = flag.value_if_absent
        default = "" if not value else f" (default {str(value).lower() if value is True else value})"
        lines += [f".It Fl {escaped(flag.name)}{kind}", escaped(f"{flag.help}{default}.")]
    return [*lines, ".El"]


def page(program: Program) -> str:
    """The man page."""
    lines = [f".Dd {DATE}", f".Dt {program.name.upper()} 1", ".Os", ".Sh NAME"]
    lines += [f".Nm {program.name}", f".Nd {escaped(program.title)}", ".Sh SYNOPSIS"]
    for command in program.commands:
        lines += [f".Nm {program.name}", f".Cm {command.name}"]
        lines += [".Op Ar flags"] if command.flags else []
        lines += [f".Ar {command.argument.lower()}"] if command.argument else []
    if not program.commands:
        lines += [f".Nm {program.name}", ".Op Ar flags"]
        lines += [f".Ar {escaped(program.arguments.lower())}"] if program.arguments else []
    lines += [".Sh DESCRIPTION", *paragraph(program.text)]
    if program.commands:
        lines += [".Pp", "The commands are:", ".Bl -tag -width Ds"]
        for command in program.commands:
            lines += [f".It Cm {command.name}", escaped(f"{command.help[0].upper()}{command.help[1:]}.")]
        lines.append(".El")
    lines += [".Pp", *(escaped(sentence) for sentence in program.form)]
    if program.flags:
        lines += ["The flags are:", *flag_lines(program.flags)]
    for names, flags in groups(program):
        # The version is a flag of nearly all commands: the page need not list them.
        who = "most commands" if len(names) > MOST else enumeration(names)
        lines += [".Pp", escaped(f"The flags of {who} are:"), *flag_lines(flags)]
    lines += [".Sh EXIT STATUS", ".Bl -tag -width Ds"]
    for status, text in program.exits:
        lines += [f".It {status}", escaped(text)]
    return "\n".join([*lines, ".El"]) + "\n"


# --- completions --------------------------------------------------------------------------------


def function(program: Program) -> str:
    """A name for the shell function of a program."""
    return "_" + program.name.replace("-", "_")


def first_words(program: Program) -> list[str]:
    """The sub-commands, each once."""
    return list(dict.fromkeys(command.name.split()[0] for command in program.commands))


def second_words(program: Program) -> dict[str, str]:
    """What may follow each sub-command that has parts."""
    found: dict[str, str] = {}
    for command in program.commands:
        first, _, second = command.name.partition(" ")
        if second:
            found[first] = f"{found.get(first, '')} {second}".lstrip()
    return found


def tables(program: Program) -> dict[str, list[Flag]]:
    """The flags after each first word, sorted by name. Without sub-commands the word is ``*``."""
    if program.flags:
        return {"*": sorted(program.flags)}
    found: dict[str, dict[str, Flag]] = {}
    for command in program.commands:
        first = found.setdefault(command.name.split()[0], {})
        first.update({flag.name: flag for flag in command.flags})
    return {first: sorted(flags.values()) for first, flags in found.items() if flags}


def values(flag: Flag) -> str:
    """What compgen offers for the value of a flag, "" for nothing."""
    if flag.is_file:
        return "-f"
    return f'-W "{" ".join(flag.words)}"' if flag.words else ""


def bash(program: Program) -> str:
    """The completion of a program for bash."""
    offer = 'COMPREPLY=($(compgen {} -- "$word")); return'
    lines = [
        f"{function(program)}() {{",
        "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}",
        "    COMPREPLY=()",
    ]
    if program.commands:
        choice = f'-W "{" ".join(first_words(program))}"'
        lines.append(f'    if [ "$COMP_CWORD" = 1 ]; then {offer.format(choice)}; fi')
        for first, second in second_words(program).items():
            choice = f'-W "{second}"'
            lines.append(f'    if [ "$COMP_CWORD:$before" = 2:{first} ]; then {offer.format(choice)}; fi')
        lines.append(f'    if [ "$before" = check ]; then {offer.format("-f")}; fi')
    lines.append("    case ${COMP_WORDS[1]} in")
    for first, flags in tables(program).items():
        lines += [f"    {first})", "        case $before in"]
        for flag in flags:
            if choice := values(flag):
                either = f"-{flag.name}" if flag.name[0] == "-" else f"-{flag.name}|--{flag.name}"
                lines.append(f"        {either}) {offer.format(choice)} ;;")
        names = " ".join(f"-{flag.name}" for flag in flags)
        lines += ["        esac", f'        COMPREPLY=($(compgen -W "{names}" -- "$word")) ;;']
    lines += ["    esac", "}"]
    return "\n".join([*lines, f"complete -F {function(program)} {program.name}"]) + "\n"


def fish(program: Program) -> str:
    """The completion of a program for fish."""
    lines = [f"complete -c {program.name} -f"]
    start = f"complete -c {program.name}"
    lines += [f"{start} -n __fish_use_subcommand -a {first}" for first in first_words(program)]
    for first, second in second_words(program).items():
        lines.append(f"{start} -n '__fish_seen_subcommand_from {first}' -a '{second}'")
    for first, flags in tables(program).items():
        where = "" if first == "*" else f" -n '__fish_seen_subcommand_from {first}'"
        for flag in flags:
            more = " -r" if flag.kind != "bool" else ""
            more += " -F" if flag.is_file else f" -a '{' '.join(flag.words)}'" if flag.words else ""
            text = flag.help.replace("\\", "\\\\").replace("'", "\\'")
            name = f"-l {flag.name[1:]}" if flag.name[0] == "-" else f"-o {flag.name}"
            lines.append(f"{start}{where} {name}{more} -d '{text}'")
    return "\n".join(lines) + "\n"


def zsh(program: Program) -> str:
    """The completion of a program for zsh."""
    lines = [f"#compdef {program.name}", "", "local -a flags"]
    if program.commands:
        lines.append(f"if (( CURRENT == 2 )); then compadd {' '.join(first_words(program))}; return; fi")
        for first, second in second_words(program).items():
            asked = f"[[ $CURRENT:${{words[2]}} == 3:{first} ]]"
            lines.append(f"if {asked}; then compadd {second}; return; fi")
        lines.append("if [[ ${words[3]} == check ]]; then _files; return; fi")
    lines.append("case ${words[2]} in")
    for first, flags in tables(program).items():
        lines += [f"{first})", "flags=("]
        for flag in flags:
            text = re.sub(r"([\[\]:'\\])", r"\\\1", flag.help).replace("\\'", "'\\''")
            choice = "_files" if flag.is_file else f"({' '.join(flag.words)})" if flag.words else " "
            value = f":{flag.kind}:{choice}"
            star = "'*'" if flag.repeats else ""
            lines.append(f"    {star}'-{flag.name}[{text}]{'' if flag.kind == 'bool' else value}'")
        lines.append(") ;;")
    return "\n".join([*lines, "esac", "_arguments $flags"]) + "\n"


def files() -> dict[str, str]:
    """Path below contrib and text of everything that is generated."""
    found = {}
    for program in PROGRAMS:
        found[f"man/{program.name}.1"] = page(program)
        found[f"completions/bash/{program.name}"] = bash(program)
        found[f"completions/fish/{program.name}.fish"] = fish(program)
        found[f"completions/zsh/_{program.name}"] = zsh(program)
    return found


def main(directory: Path) -> None:
    """Write all files."""
    for name, text in files().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "contrib")
