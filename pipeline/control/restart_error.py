"""Why the program cannot be replaced by a new version of itself."""


class RestartError(Exception):
    """The program goes on as before. The text says why."""
