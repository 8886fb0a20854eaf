"""The fleet of hosts, if there is one: its agent (pipeline.fleet) is loaded, started and stopped here."""

import importlib.util
from typing import TYPE_CHECKING, Final

import structlog

from pipeline.config.model import Config
from pipeline.control.plane import ControlPlane

if TYPE_CHECKING:
    from pipeline.fleet.agent import Agent

LIBRARY: Final = "nats"
_KEYS_LIBRARY: Final = "nkeys"


class FleetError(Exception):
    """There can be no fleet. The text says why."""


def check(config: Config) -> None:
    """Raise FleetError if a library is not installed that the fleet needs."""
    fleet = config.fleet
    if not fleet.fleet_servers:
        return
    wanted = [LIBRARY]
    if fleet.fleet_nkey or fleet.fleet_credentials:
        wanted.append(_KEYS_LIBRARY)
    for name in wanted:
        if importlib.util.find_spec(name) is None:
            raise FleetError(
                f"fleet needs {name}, which is not installed: pip install 'gvtap-pipeline[fleet]'"
            )


class FleetAgent:
    """The agent, or nothing."""

    def __init__(self) -> None:
        self._agent: Agent | None = None

    def start(self, config: Config, plane: ControlPlane, log: structlog.typing.FilteringBoundLogger) -> None:
        """Join the fleet, if the configuration has one. Raises OSError for a file that cannot be used."""
        if not config.fleet.fleet_servers:
            return
        from pipeline.fleet.door import make  # noqa: PLC0415  not without -fleet

        self._agent = make(config, plane, log)
        plane.join_fleet(self._agent)
        self._agent.start()

    async def stop(self) -> None:
        """Leave the fleet."""
        if self._agent is not None:
            await self._agent.stop()
