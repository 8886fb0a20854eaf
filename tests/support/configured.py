"""A configuration with a few settings changed."""

from dataclasses import fields, replace

from pipeline.config.model import Config


def changed(config: Config, **settings: object) -> Config:
    """The configuration with these fields of its groups set, whichever group has them."""
    for group in fields(Config):
        old = getattr(config, group.name)
        own = {field.name: settings.pop(field.name) for field in fields(old) if field.name in settings}
        config = replace(config, **{group.name: replace(old, **own)})
    if settings:
        raise TypeError(f"no group of Config has a field {', '.join(settings)}")
    return config
