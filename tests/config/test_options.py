"""The table of flags."""

import re
from collections.abc import Sequence

import pytest

from pipeline.config import merge, options
from pipeline.config.file import ConfigError
from pipeline.config.model import LINK_SCHEMES, METRICS_SCHEMES, STREAM_SCHEMES
from pipeline.go import flags

SCHEMES = ("unix", "unixpacket", "unixgram", "tcp", "vsock", "fd")
PLACES = [("listen", "", STREAM_SCHEMES), ("services", "", STREAM_SCHEMES)]
PLACES += [("metrics", "", METRICS_SCHEMES)]
PLACES += [(f"listen-{name}", "", LINK_SCHEMES[name]) for name in ("qemu", "vpnkit", "bess", "vfkit")]
PLACES += [("link", f"{name}+", schemes) for name, schemes in LINK_SCHEMES.items()]


def urls_in_help(flag: str, before: str) -> list[str]:
    """The addresses that a flag's text names, of -link those of one protocol, with numbers for words."""
    text = next(row.help for row in options.START if row.name == flag)
    part = next(part for part in text.split("; ") if before in part)
    return [
        url.replace("[cid]", "3").replace(":port", ":1024") for url in re.findall(r"\w+://[^,;\s]+", part)
    ]


def takes(flag: str, value: str) -> bool:
    try:
        merge.build(flags.parse(options.START, [f"-{flag}", value]))
    except ConfigError as error:
        if "unexpected scheme" not in str(error) and "listen address must be" not in str(error):
            raise
        return False
    return True


def test_names_are_unique_and_defaults_have_their_kind() -> None:
    names = [flag.name for flag in options.START]
    assert len(set(names)) == len(names)
    kinds = {"bool": bool, "int": int, "string": str}
    assert all(type(flag.value_if_absent) is kinds[flag.kind] for flag in options.START)


def test_a_command_line_of_podman_is_understood() -> None:
    line = (
        "-mtu 1500 -ssh-port 40123 -listen-qemu unix:///run/vm-gvproxy.sock -forward-sock /run/vm-api.sock "
        "-forward-dest /run/user/1000/podman/podman.sock -forward-user core -forward-identity /key "
        "-pid-file /run/gvproxy.pid -log-file /run/gvproxy.log"
    )
    parsed = flags.parse(options.START, line.split())
    assert parsed.arguments == ()
    assert parsed.text("listen-qemu") == "unix:///run/vm-gvproxy.sock"
    assert parsed.lists["forward-user"] == ("core",)


@pytest.mark.parametrize(("flag", "before", "schemes"), PLACES)
def test_the_text_of_a_flag_names_the_addresses_that_it_takes_and_no_others(
    flag: str, before: str, schemes: Sequence[str]
) -> None:
    urls = urls_in_help(flag, before)
    named = {url.partition("://")[0] for url in urls}
    assert named == set(schemes)
    assert [url for url in urls if not takes(flag, before + url)] == []
    assert [
        other for other in SCHEMES if other not in named and takes(flag, f"{before}{other}://a:1/x")
    ] == []
