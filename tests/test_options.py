"""The table of flags."""

from pipeline import flags, options


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
    assert parsed.rest == ()
    assert parsed.text("listen-qemu") == "unix:///run/vm-gvproxy.sock"
    assert parsed.lists["forward-user"] == ("core",)
