"""Which sandbox each worker process gets: the lists of its stages, its files, and its user.

The lists stand beside the stages (system_calls.py). A process with several workers gets the union of theirs.
docs/security.md says what this means for users.
"""

import os
from collections.abc import Mapping
from typing import Final

import structlog

from pipeline.config.choices import AUTO, OFF, STRICT, VXLAN
from pipeline.config.model import Config
from pipeline.ipc import messages
from pipeline.stages import system_calls
from pipeline.stages.demux import system_calls as demux
from pipeline.stages.egress import system_calls as egress
from pipeline.stages.ingress import preload as link_modules
from pipeline.stages.ingress import system_calls as ingress
from pipeline.stages.listen import system_calls as listen
from pipeline.stages.resolver import files, preload
from pipeline.stages.resolver import system_calls as resolver
from pipeline.stages.tcp import system_calls as tcp
from pipeline.stages.worker import Worker
from pipeline.system.sandbox import enter, privileges
from pipeline.system.sandbox.calls import Calls
from pipeline.system.sandbox.privileges import User
from pipeline.topology import DEMUX, EGRESS, INGRESS, LISTEN, RESOLVER, TCP

DEFAULT_USER: Final = "nobody"
"""Whom the workers of root become."""
_OWN_FILES: Final = "/proc/self/fd"
_CALLS: Final[Mapping[str, Calls]] = {
    INGRESS: ingress.CALLS,
    DEMUX: demux.CALLS,
    TCP: tcp.CALLS,
    EGRESS: egress.CALLS,
    RESOLVER: resolver.CALLS,
    LISTEN: listen.CALLS,
}


class SandboxError(Exception):
    """The sandbox cannot be as the user wants it. The text names the key, and says why."""


def check(config: Config, log: structlog.typing.FilteringBoundLogger) -> None:
    """Log what this system lacks for the sandbox. Raises SandboxError if the user wants it all or not at all.

    Also if there is no such user, or if the daemon is not root and shall change its user.
    """
    mode = config.workers.sandbox
    try:
        user = user_of(config)
    except KeyError:
        words = "there is no such user (allowed: a user of this system, by name or number)"
        raise SandboxError(f"user {config.workers.user}: {words}") from None
    if config.workers.user and user is not None and (why := privileges.obstacle(user)):
        raise SandboxError(f"user {user.name}: the daemon cannot become this user: {why}")
    if config.workers.user and user is not None and not files.can_load(user):
        # The supervisor loads some libraries when they are needed first.
        raise SandboxError(f"user {user.name}: this user cannot read the program's libraries")
    if mode == OFF:
        return
    missing = enter.shortages(user)
    if missing and mode == STRICT:
        raise SandboxError(f"sandbox strict: {'; '.join(missing)} (allowed: on, off)")
    if not enter.LINUX:
        log.info("this system has no sandbox for workers")
    elif missing:
        log.warning("the sandbox of the workers is not whole", missing="; ".join(missing))


def user_of(config: Config) -> User | None:
    """Whom the workers become; None if they keep their user. Raises KeyError if there is no such user."""
    if not hasattr(os, "geteuid"):
        return None
    if config.workers.user:
        return privileges.find(config.workers.user)
    return privileges.find(DEFAULT_USER) if os.geteuid() == 0 else None


def become_user(config: Config) -> None:
    """Become the user that the configuration names, if it names one. Raises OSError."""
    if config.workers.user:
        privileges.become(privileges.find(config.workers.user))


def begin_nursery(config: Config) -> None:
    """The same in the nursery. Its children cannot give up what they do not have any more. Raises OSError."""
    if config.workers.user and config.workers.sandbox != OFF and enter.LINUX:
        privileges.drop_bounds()
    become_user(config)


def begin_successor(config: Config) -> None:
    """Let a child of the nursery look into its own files, until confine().

    After a change of the user they are root's: it could not go first when memory is short, and the supervisor
    could not count its descriptors.
    """
    if config.workers.user and enter.LINUX:
        privileges.show()


def show_files(worker: Worker) -> None:
    """Give the supervisor the folder of this process's descriptors, while anybody may look into it."""
    try:
        folder = os.open(_OWN_FILES, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # no /proc
        return
    try:
        worker.send_event(messages.FilesEvent().encode(), [folder])
    finally:
        os.close(folder)


def prepare(roles: frozenset[str], config: Config) -> None:
    """Make the filters of a process with these roles before it is forked."""
    if config.workers.sandbox != OFF:
        enter.prepare(_profile(roles, user_of(config), config), strict=config.workers.sandbox == STRICT)


def confine(roles: frozenset[str], config: Config, log: structlog.typing.FilteringBoundLogger) -> None:
    """Put this worker process into its sandbox. roles: of its workers.

    Raises SystemExit if that fails and the user wants a strict sandbox.
    """
    if config.workers.sandbox == OFF:
        become_user(config)
        return
    user = user_of(config)
    if INGRESS in roles:
        link_modules.load(config.links)
    if RESOLVER in roles and user is not None and not files.can_load(user):
        preload.load()
    failed = enter.enter(_profile(roles, user, config), strict=config.workers.sandbox == STRICT)
    if failed:
        log.error("this process is not in its sandbox", failed="; ".join(failed))
        if config.workers.sandbox == STRICT:
            raise SystemExit(1)


def _profile(roles: frozenset[str], user: User | None, config: Config) -> enter.Profile:
    listed = tuple(call for role in sorted(roles) for call in _CALLS[role])
    if INGRESS in roles and any(protocol == VXLAN for protocol, _ in config.links.further):
        listed += ingress.TUNNEL
    if DEMUX in roles and config.network.ipv6_enabled == AUTO:
        listed += demux.ROUTE
    return enter.Profile(
        calls=(*system_calls.COMMON, *system_calls.OWN_SIGNALS, *listed),
        own=tuple(call.name for call in system_calls.OWN_SIGNALS),
        absent=system_calls.ABSENT,
        fruitless=system_calls.FRUITLESS,
        readable=files.readable() if RESOLVER in roles else (),
        tcp=bool(roles & {EGRESS, RESOLVER}),
        abstract=INGRESS in roles,
        user=user,
    )
