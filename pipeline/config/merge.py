"""Makes the one Config from the flags and the YAML file: merges, checks and completes the settings.

Most settings come from the key of the same name in the file (keys.py). This module adds the settings that
need more: a flag, a default that depends on others, or a check.

Merging and the order of checks are gvproxy's. For the subnet and the three addresses the file wins over a
flag. For all other settings the flag wins. Without a file, the default mode adds zones, leases and the ssh
forward. Only IPv4 subnets are served. Nothing is bound here. The caller passes the function that tries the
log file.
"""

import difflib
import ipaddress
import os
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Final
from urllib.parse import urlsplit

from pipeline.config import (
    default_mode,
    derived,
    fleet,
    forward_words,
    ipv6,
    limits,
    name_lists,
    outside,
    proxy_hosts,
)
from pipeline.config.access import check_policy, check_token_file, with_proxy_protocol
from pipeline.config.address_words import split_network
from pipeline.config.choices import (
    GUESTS,
    HIDDEN,
    NAT64,
    OFF,
    PLACEMENTS,
    SANDBOXES,
    SEPARATE,
    STREAM_SCHEMES,
    UDP_NATS,
    VXLAN,
)
from pipeline.config.endpoints import check, further_links, links_of, metrics_url, tunnel_mtu, web_url
from pipeline.config.errors import ConfigError
from pipeline.config.keys import NO_GUEST_API, FileKeys, StackKeys
from pipeline.config.model import (
    BUSY_POLL,
    SLOTS,
    WORKERS,
    Config,
    GuestApi,
    PortForward,
    Settings,
    SocketForward,
    forward_key,
)
from pipeline.config.subnet import DEFAULT_MTU, Addresses, addresses, checked_mtu
from pipeline.go import flags
from pipeline.links.addresses import unix_path
from pipeline.system import memory, output_file, small_file, socket_file
from pipeline.wire import ethernet, ip

GATEWAY_MAC: Final = ethernet.mac_parse("5a:94:ef:e4:0c:dd")
HOST_LOOPBACK: Final = ip.parse_ipv4("127.0.0.1")

LEVELS: Final[Mapping[str, str]] = {
    "critical": "critical",
    "panic": "critical",
    "fatal": "critical",
    "error": "error",
    "warn": "warning",
    "warning": "warning",
    "info": "info",
    "debug": "debug",
    "trace": "debug",
}
"""Log levels that a user may name, and ours for them."""


def build(
    parsed: flags.Parsed,
    words: Sequence[str] = (),
    *,
    try_log_file: Callable[[str], None] | None = None,
    resolv_conf: str = default_mode.RESOLV_CONF,
    guests: GuestApi | None = None,
    ipv6_default: str = OFF,
    again: bool = False,
) -> tuple[Config, tuple[str, ...]]:
    """Config and warnings from the parsed flags. words: the command line as typed.

    Checks run in gvproxy's order. The first that fails raises ConfigError. try_log_file is called with the
    path of the log before all checks but those of the file. guests: what guests may do if the file has no
    guest-api. ipv6_default: whether guests have IPv6 if neither a flag nor the file says it. again: the
    program runs with these flags already, and has bound its sockets.
    """
    warnings: list[str] = []
    path = parsed.text("config")
    keys, notes = read_file(path, pipes=not again) if path else (FileKeys(), ())
    warnings += (f"{path}: {note}" for note in notes)
    settings = keys.settings()
    settings |= _logging(parsed, keys, warnings)
    if try_log_file is not None:
        _try(try_log_file, parsed.text("log-file") or keys.log_file)
    network = _addresses(parsed, keys.stack)
    settings |= network._asdict()
    settings["notification"] = _notification(parsed.text("notification"), keys.notification)
    settings |= links_of(parsed, keys, bound=again)
    if keys.stack.stack_debug:
        warnings.append("stack.debug has no effect: packets are not written to the log")
    if path and any(word in ("-ssh-port", "--ssh-port") for word in words):
        warnings.append("-ssh-port is ignored when -config is given: use stack.forwards")
    if not path:
        settings |= default_mode.settings(parsed, network, resolv_conf)
    settings["forwards"] = _forwards(parsed, keys, network)
    settings |= _listeners(parsed, keys, bound=again)
    given = _limits(parsed)
    set_limits: Set[str] = keys.limits.named  # type: ignore[attr-defined]  # made at run time
    settings |= derived.limits({*given, *set_limits}, memory.available_bytes()) | given
    settings |= _network(parsed, keys, network, warnings, ipv6_default)
    settings |= _workers(parsed, keys)
    settings |= _access(parsed, keys)
    settings |= fleet.settings(parsed, keys)
    settings |= outside.settings(parsed, keys, network.gateway_ip)
    if guests is not None and keys.guest_api is NO_GUEST_API:
        settings["guest_api"] = guests
    config = Config.of(settings)
    outside.check_together(config)
    _check_guests6(parsed, config)
    _check_tunnel(config)
    fleet.check_link(config)
    return config, tuple(warnings)


def read_file(path: str, *, pipes: bool = True) -> tuple[FileKeys, tuple[str, ...]]:
    """The configuration file and notes about unknown keys. Raises ConfigError.

    pipes: also read a pipe, which can be read only once.
    """
    try:
        text = small_file.read(path, pipes=pipes).decode("utf-8")
    except OSError as error:
        words = os.strerror(error.errno or 0).lower()
        raise ConfigError(f"failed to read config file: open {path}: {words}") from error
    except small_file.FileError as error:
        raise ConfigError(f"failed to read config file: {path}: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"failed to parse configuration: yaml: {error}") from error
    # Without a file nothing needs YAML and its schema.
    from pipeline.config.file import read  # noqa: PLC0415

    try:
        return read(text)
    except ConfigError as error:
        raise ConfigError(f"failed to parse configuration: {error}", error.problems) from error


# --- the groups of settings, in the order of the checks -------------------------------------


def _logging(parsed: flags.Parsed, keys: FileKeys, warnings: list[str]) -> Settings:
    return {
        "log_level": _level("debug" if parsed.true("debug") else keys.log_level or "info", warnings),
        "log_file": parsed.text("log-file") or keys.log_file,
        "flow_log": parsed.text("flow-log") or keys.flow_log,
        "pid_file": parsed.text("pid-file") or keys.pid_file,
    }


def _level(text: str, warnings: list[str]) -> str:
    level = LEVELS.get(text.lower())
    if level is None:
        warnings.append(f"bad log level {flags.quote(text)}, falling back to {flags.quote('info')}")
        return "info"
    return level


def _try(try_log_file: Callable[[str], None], path: str) -> None:
    if not path:
        return
    try:
        try_log_file(path)
    except OSError as error:
        raise ConfigError(f"unable to open log file {path}: {error.strerror}") from error


def _addresses(parsed: flags.Parsed, stack: StackKeys) -> Addresses:
    return addresses(
        stack.subnet or parsed.text("subnet"),
        stack.gateway_ip or parsed.text("gatewayIP"),
        stack.device_ip or parsed.text("deviceIP"),
        stack.host_ip or parsed.text("hostIP"),
    )


def _notification(flag: str, key: str) -> str:
    # gvproxy takes the key as a path, but people write a URL there.
    if not flag and not key.startswith("unix://"):
        return key
    try:
        url = urlsplit(flag or key)
    except ValueError as error:
        raise ConfigError(f"invalid value for notification listen address: {error}") from None
    if url.scheme != "unix" or not url.path:
        raise ConfigError("notification listen address must be unix:// address")
    if fault := socket_file.fault(unix_path(flag or key), relative=True):
        raise ConfigError(f"invalid value for notification listen address: {fault}")
    return unix_path(flag or key)


def _forwards(parsed: flags.Parsed, keys: FileKeys, network: Addresses) -> tuple[PortForward, ...]:
    """The forwards of the file or of the default mode, and those of -forward, which win."""
    if parsed.text("config"):
        own = tuple(PortForward(*split_network(key), to) for key, to in keys.stack.forwards.items())
    else:
        own = default_mode.forwards(parsed, network)
    given: dict[str, PortForward] = {}
    for word in parsed.lists["forward"]:
        try:
            found = forward_words.forwards(word, ip.text(network.device_ip))
        except forward_words.WordError as error:
            raise ConfigError(f"forward: {error}") from None
        address = found[0].remote.rpartition(":")[0]
        if "[" not in address and ipaddress.IPv4Address(address) not in network.subnet:
            raise ConfigError(
                f"forward: {flags.quote(word)}: {address} is not in the subnet {network.subnet} of the guests"
            )
        for forward in found:
            key = forward_key(forward)
            if key in given:
                raise ConfigError(f"forward: {flags.quote(word)}: {key} stands twice (allowed: once)")
            given[key] = forward
    kept = [forward for forward in own if forward_key(forward) not in given]
    return with_proxy_protocol([*kept, *given.values()], keys.proxy_protocol)


def _check_guests6(parsed: flags.Parsed, config: Config) -> None:
    """Raise ConfigError for a -forward to an IPv6 address that no guest can have."""
    prefix = config.network.ipv6_prefix if config.network.ipv6_first else ""
    for word in parsed.lists["forward"]:
        host = forward_words.forwards(word, "")[0].remote.rpartition(":")[0]
        if host.startswith("[") and not (
            prefix and ipaddress.IPv6Address(host[1:-1]) in ipaddress.IPv6Network(prefix)
        ):
            allowed = f"an address of {prefix}" if prefix else "with IPv6 on"
            raise ConfigError(
                f"forward: {flags.quote(word)}: {host} is no address of a guest (allowed: {allowed})"
            )


def _listeners(parsed: flags.Parsed, keys: FileKeys, *, bound: bool) -> Settings:
    socket_forwards = _socket_forwards(parsed, keys.socket_forwards)
    listen = parsed.lists["listen"] or keys.listen
    services = parsed.text("services") or keys.services
    for_guests = parsed.lists["listen-connect"] or keys.listen_connect
    for url in (*listen, *for_guests, *filter(None, [services])):
        check(url, "cannot listen", STREAM_SCHEMES)
    further = _further(parsed, keys, bound=bound)
    return {
        "socket_forwards": socket_forwards,
        "listen": listen,
        "listen_connect": for_guests,
        "services": services,
        "metrics": metrics_url(parsed.text("metrics") or keys.metrics),
        "web": web_url(parsed.text("web") or keys.web),
        "further": further,
    }


def _further(parsed: flags.Parsed, keys: FileKeys, *, bound: bool) -> tuple[tuple[str, str], ...]:
    return further_links((*keys.further, *parsed.lists["link"]), bound=bound)


def _socket_forwards(parsed: flags.Parsed, keys: Sequence[SocketForward]) -> tuple[SocketForward, ...]:
    columns = [parsed.lists[f"forward-{part}"] for part in ("sock", "dest", "user", "identity")]
    if len({len(column) for column in columns}) > 1:
        raise ConfigError(
            "--forward-sock, --forward-dest, --forward-user, and --forward-identity must all be specified "
            "together, the same number of times, or not at all"
        )
    found = [*keys, *(SocketForward(*row) for row in zip(*columns, strict=True))]
    for forward in found:
        try:
            os.stat(forward.identity)
        except OSError as error:
            words = os.strerror(error.errno or 0).lower()
            path = forward.identity
            raise ConfigError(
                f"identity file {flags.quote(path)} can't be loaded: stat {path}: {words}"
            ) from None
    return tuple(found)


def _limits(parsed: flags.Parsed) -> Settings:
    values: Settings = {}
    for text in parsed.lists["limit"]:
        key, _, number = text.partition("=")
        limit = limits.BY_KEY.get(key)
        if limit is None:
            near = difflib.get_close_matches(key, limits.BY_KEY, n=1, cutoff=0.0)
            raise ConfigError(f"limit: unknown name {flags.quote(key)}, did you mean {near[0]}?")
        try:
            value = flags.integer(number)
        except flags.FlagError:
            value = -1
        if not limit.low <= value <= limit.high:
            allowed = f"a whole number from {limit.low} to {limit.high}"
            raise ConfigError(f"limit: {key} must be {allowed}, not {flags.quote(number)}")
        values[limit.name] = value
    return values


def _check_tunnel(config: Config) -> None:
    """Raises ConfigError for a link to other hosts that no frame could pass."""
    guests = config.access.guests
    if guests in HIDDEN and any(protocol == VXLAN for protocol, _ in config.links.further):
        allowed = ", ".join(kind for kind in GUESTS if kind not in HIDDEN)
        raise ConfigError(
            f"link: {VXLAN}: guests {guests} lets no frame pass (allowed for guests: {allowed})"
        )


def _network(
    parsed: flags.Parsed,
    keys: FileKeys,
    network: Addresses,
    warnings: list[str],
    ipv6_default: str,
) -> Settings:
    stack, host = keys.stack, network.host_ip
    fitting = tunnel_mtu(_further(parsed, keys, bound=True))
    usual = min(fitting, DEFAULT_MTU) if fitting else DEFAULT_MTU
    mtu = checked_mtu(parsed.number("mtu") or stack.mtu or usual, warnings)
    if fitting and mtu > fitting:
        warnings.append(
            f"an MTU of {mtu} does not fit the path to other hosts, which takes packets of {fitting} bytes"
        )
    mac = stack.gateway_mac or GATEWAY_MAC
    return {
        "mtu": mtu,
        "gateway_mac": mac,
        "nat": stack.nat or {host: HOST_LOOPBACK},
        "gateway_virtual_ips": stack.gateway_virtual_ips or (host,),
        "udp_nat": _one_of("udp-nat", parsed.text("udp-nat") or keys.udp_nat, UDP_NATS),
        "state_file": _replaced_file("state file", parsed.text("state-file") or keys.state_file),
        **ipv6.settings(parsed.text("ipv6"), keys.ipv6, ipv6_default, mac, network.subnet, mtu),
        "ipv6_nat64": _one_of("nat64", parsed.text("nat64") or keys.ipv6.ipv6_nat64, NAT64),
    }


def _replaced_file(what: str, path: str) -> str:
    """The path of such a file. Each write replaces the file, so a symbolic link would be lost."""
    for name in (path, output_file.new_path(path)) if path else ():
        if os.path.islink(name):
            words = "is a symbolic link, which is not followed (allowed: a regular file)"
            raise ConfigError(f"{what} {flags.quote(name)} {words}")
    return path


def _workers(parsed: flags.Parsed, keys: FileKeys) -> Settings:
    placement = parsed.text("placement") or keys.placement or SEPARATE
    numbers = {
        "tcp_workers": _number(parsed, "tcp-workers", WORKERS),
        "egress_workers": _number(parsed, "egress-workers", WORKERS),
        "slots": _number(parsed, "slots", SLOTS),
        "busy_poll": _number(parsed, "busy-poll", BUSY_POLL, unset=-1),
    }
    given = {name: number for name, number in numbers.items() if number is not None}
    return {
        "placement": _one_of("placement", placement, PLACEMENTS),
        "sandbox": _one_of("sandbox", parsed.text("sandbox") or keys.sandbox, SANDBOXES),
        "user": parsed.text("user") or keys.user,
        **given,
    }


def _number(parsed: flags.Parsed, name: str, allowed: tuple[int, int], unset: int = 0) -> int | None:
    """The number of a flag, None if the flag leaves it as configured."""
    number = parsed.number(name)
    if number == unset:
        return None
    low, high = allowed
    if not low <= number <= high:
        raise ConfigError(f"{name} must be a whole number from {low} to {high}, not {number}")
    return number


def _one_of(name: str, word: str, allowed: Sequence[str]) -> str:
    if word not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, not {word!r}")
    return word


def _access(parsed: flags.Parsed, keys: FileKeys) -> Settings:
    in_stack = keys.stack.stack_ec2_metadata_access
    policy = check_policy(keys.egress_policy)
    return {
        "ec2_metadata_access": parsed.true("ec2-metadata-access") or keys.ec2_metadata_access or in_stack,
        "api_token_file": check_token_file(parsed.text("api-token-file") or keys.api_token_file),
        "quota_file": _replaced_file("quota file", keys.quota_file),
        "egress_policy": policy,
        "name_lists": name_lists.read_all(policy),
        "proxy_hosts": proxy_hosts.look_up_all(policy),
        "guests": _one_of("guests", parsed.text("guests") or keys.guests, GUESTS),
    }
