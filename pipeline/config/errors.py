"""The error of everything that is wrong with a configuration."""

from collections.abc import Sequence


class ConfigError(Exception):
    """The configuration cannot be used; the text says where and what is allowed."""

    def __init__(self, text: str, problems: Sequence[str] = ()) -> None:
        """problems: the mistakes one by one, if the text has several."""
        super().__init__(text)
        self.problems = tuple(problems) or (text,)
