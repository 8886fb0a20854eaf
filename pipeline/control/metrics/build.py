"""What is running: the program's version, the Python that runs it, and whether its data path is compiled."""

import platform
from typing import Final, NamedTuple

from pipeline.ipc import ring

COMPILED: Final = "compiled"
PLAIN: Final = "plain"


class Build(NamedTuple):
    """version: "unknown" if the package is not installed. data_path: COMPILED or PLAIN."""

    version: str
    python: str
    data_path: str

    @classmethod
    def of(cls, version: str) -> "Build":
        """The build of this process."""
        return cls(version, platform.python_version(), PLAIN if ring.__file__.endswith(".py") else COMPILED)
