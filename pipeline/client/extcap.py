"""The command ``extcap``: Wireshark's extcap interface, through which it lists the guests and captures them.

Wireshark runs a program of its extcap folder with ``--extcap-interfaces``, then with ``--extcap-dlts`` and
``--extcap-config`` for each interface, and captures with ``--capture --fifo``. The answers are lines such as
``interface {value=gvtap}{display=all guests}``. An interface is all guests (``gvtap``) or one MAC address
(``gvtap-5a94efe40cee``), since the number of a link changes when its guest comes back.

If no daemon answers, there is only the interface of all guests, and the exit code is 0.
"""

import sys
from collections.abc import Sequence
from typing import Final

from pipeline.client import api, capture, files
from pipeline.go import flags
from pipeline.wire import ethernet, pcapng

ALL: Final = "gvtap"
PROGRAM: Final = "gvtap-pipeline extcap"
FAILED: Final = 1
HELP: Final = "https://www.wireshark.org/docs/man-pages/extcap.html"

_SETTINGS: Final = (
    ("api", "API", "string", "unix:///path or tcp://host:port of the daemon"),
    ("api-token-file", "Token file", "string", "file with the token of the API"),
    ("host", "Host", "string", "only frames from or to this address or network"),
    ("port", "Port", "string", "only this port or range"),
    ("protocol", "Protocol", "string", "arp, icmp, tcp or udp"),
    ("drops", "Only dropped frames", "boolflag", "with the cause as a comment"),
)
"""Flag, words, type and help of each setting that Wireshark shows."""


def run(parsed: flags.Parsed, _words: Sequence[str]) -> int:
    """The command with the flags of options.EXTCAP. Returns the exit code."""
    try:
        if parsed.true("extcap-interfaces"):
            _print(interfaces(parsed))
            return 0
        name = parsed.text("extcap-interface")
        guests = guests_of(name)
        if parsed.true("extcap-dlts"):
            _print([f"dlt {{number={pcapng.LINKTYPE_ETHERNET}}}{{name=EN10MB}}{{display=Ethernet}}"])
        elif parsed.true("extcap-config"):
            _print(settings(parsed))
        elif parsed.true("capture"):
            _capture(parsed, guests)
        elif parsed.text("extcap-capture-filter"):
            _print(["no capture filter is understood: use the settings of the interface"])
    except (api.ApiError, OSError, pcapng.BlockError) as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return FAILED
    return 0


def interfaces(parsed: flags.Parsed) -> list[str]:
    """The lines of --extcap-interfaces."""
    lines = [
        f"extcap {{version=1.0}}{{help={HELP}}}",
        f"interface {{value={ALL}}}{{display=gvtap: all guests}}",
    ]
    try:
        found = api.find(parsed)
        links, leases = found.table("/cam"), found.table("/leases")
    except api.ApiError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return lines
    # An IPv4 address is shorter to read, so it wins over one of IPv6.
    ordered = sorted(leases.items(), key=lambda each: ":" not in each[0])
    addresses = {str(mac): address for address, mac in ordered}
    for mac in links:
        if _is_mac(mac):
            where = f"{addresses[mac]}, {mac}" if mac in addresses else mac
            lines.append(f"interface {{value={ALL}-{mac.replace(':', '')}}}{{display=gvtap: guest {where}}}")
    return lines


def settings(parsed: flags.Parsed) -> list[str]:
    """The lines of --extcap-config."""
    lines = []
    for number, (flag, words, kind, text) in enumerate(_SETTINGS):
        default = ""
        if flag in ("api", "api-token-file") and parsed.text(flag):
            default = f"{{default={_escaped(parsed.text(flag))}}}"
        lines.append(
            f"arg {{number={number}}}{{call=--{flag}}}{{display={words}}}{{type={kind}}}"
            f"{{tooltip={text}}}{default}"
        )
    return lines


def guests_of(name: str) -> list[str]:
    """The guests of an interface, as entries of a filter. Raises ApiError."""
    if name == ALL:
        return []
    digits = name.removeprefix(f"{ALL}-")
    mac = ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))
    if name == digits or not _is_mac(mac):
        raise api.ApiError(f"unknown interface {name!r} (allowed: {ALL}, {ALL}-MAC)")
    return [mac]


def _capture(parsed: flags.Parsed, guests: list[str]) -> None:
    if parsed.text("extcap-capture-filter"):
        raise api.ApiError("a capture filter is not understood: use the interface's settings")
    path = parsed.text("fifo")
    if not path:
        raise api.ApiError("--capture needs --fifo FILE")
    # Wireshark passes settings that are empty.
    fields = [(name, value) for name, value in capture.query(parsed, guests) if value]
    capture.stream(api.find(parsed), fields, lambda: files.Stream(files.open_capture(path)))


def _is_mac(text: str) -> bool:
    try:
        ethernet.mac_parse(text)
    except ValueError:
        return False
    return True


def _escaped(text: str) -> str:
    return text.replace("{", "").replace("}", "")


def _print(lines: list[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
