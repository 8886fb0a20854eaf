"""What does not change while the daemon runs: its processes, its network and its sockets, for /status."""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.config.model import LINKS, Config
from pipeline.wire import ip


class Process(NamedTuple):
    """A process, and the workers in it."""

    name: str
    pid: int
    workers: tuple[str, ...]


class Facts(NamedTuple):
    """started: on the clock of time.monotonic(). endpoints: use and URL of each socket."""

    started: float
    processes: tuple[Process, ...]
    placement: str
    subnet: str
    mtu: int
    gateway: str
    guest: str
    host: str
    endpoints: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, config: Config, processes: Sequence[Process], started: float) -> "Facts":
        """The facts about a daemon with this configuration."""
        network, links = config.network, config.links
        endpoints = [("listen", url) for url in links.listen]
        endpoints += [("listen-connect", url) for url in links.listen_connect]
        endpoints += [("services", links.services), ("metrics", links.metrics), ("web", links.web)]
        endpoints += [(name.replace("_", "-"), getattr(links, name)) for name in LINKS]
        endpoints += links.further
        return cls(
            started,
            tuple(processes),
            config.workers.placement,
            str(network.subnet),
            network.mtu,
            ip.text(network.gateway_ip),
            ip.text(network.device_ip),
            ip.text(network.host_ip),
            tuple((use, url) for use, url in endpoints if url),
        )
