"""The error of everything that is wrong with a configuration."""


class ConfigError(Exception):
    """The configuration cannot be used; the text says where and what is allowed."""
