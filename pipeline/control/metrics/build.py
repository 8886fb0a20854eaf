"""What is running: the program's version, the Python that runs it, and whether its data path is compiled."""

from typing import NamedTuple

from pipeline import release


class Build(NamedTuple):
    """version: "unknown" if the package is not installed. data_path: as pipeline.release has it."""

    version: str
    python: str
    data_path: str

    @classmethod
    def of(cls, version: str) -> "Build":
        """The build of this process."""
        return cls(version, release.python(), release.data_path())
