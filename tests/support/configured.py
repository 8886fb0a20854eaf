"""A configuration with a few settings changed."""

from pipeline.config.model import Config


def changed(config: Config, **settings: object) -> Config:
    """The configuration with these settings, whichever group has them."""
    known = config.settings()
    if unknown := settings.keys() - known.keys():
        raise TypeError(f"Config has no setting {', '.join(unknown)}")
    return Config.of(known | settings)
