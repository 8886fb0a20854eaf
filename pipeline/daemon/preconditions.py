"""What must be true before the daemon starts anything: what the configuration asks for can be had here."""

import structlog

from pipeline.config.model import Config
from pipeline.control.quotas import quota_file
from pipeline.control.ssh.destination import SshError
from pipeline.control.ssh.forwards import check_library
from pipeline.daemon import confinement, fleet
from pipeline.system import outbound, output_file


class StartError(Exception):
    """The daemon cannot start. The text says why."""


def check(config: Config, log: structlog.typing.FilteringBoundLogger) -> None:
    """Raise StartError if something is missing, and log what the daemon can do without."""
    _check_file("state file", config.network.state_file)
    _check_file("quota file", config.access.quota_file)
    try:
        if config.access.socket_forwards:
            check_library()
        fleet.check(config)
        confinement.check(config, log)
        outbound.check(config.network.outbound_address, config.network.outbound_interface)
        if config.access.quota_file:
            quota_file.load(config.access.quota_file)
    except (
        *(SshError, fleet.FleetError, confinement.SandboxError, outbound.OutboundError),
        quota_file.QuotaFileError,
    ) as error:
        raise StartError(str(error)) from error


def _check_file(what: str, path: str) -> None:
    """Raise StartError if a file cannot be replaced: at its first change it would be too late."""
    try:
        if path:
            output_file.check_replace(path)
    except OSError as error:
        raise StartError(f"cannot write {what} {path}: {error.strerror}") from error
