"""Runs the network of one namespace for gvtap-slirp4netns: from its open tap to the end of the daemon."""

from pipeline.system import light_imports  # isort: skip  # noqa: F401  before anything loads asyncio

from typing import Final

from pipeline import logs, release
from pipeline.commands.namespace_tap import NamespaceTap
from pipeline.config.errors import ConfigError
from pipeline.config.slirp4netns import Options, config_of
from pipeline.daemon import lifetime
from pipeline.daemon.programs import SLIRP4NETNS
from pipeline.daemon.slirp4netns import Companion, StartError
from pipeline.system import requirements

FAILED: Final = 1


def run(own: Options, tap: NamespaceTap) -> int:
    """Run the network until its namespace or exit-fd ends. Returns the exit code."""
    logs.setup("", "warning")
    try:
        if shortage := requirements.shortage():
            raise StartError(shortage)
        companion = Companion(own)
        config = config_of(own, tap.mac, tap.link)
    except (StartError, ConfigError) as error:
        logs.fatal(str(error), SLIRP4NETNS.name)
        return FAILED
    try:
        return lifetime.run(config, SLIRP4NETNS, release.version(), taps=tap.fds, companion=companion)
    finally:
        logs.flush()
