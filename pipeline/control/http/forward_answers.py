"""An open forward as the API answers it. Only who opened it, and the host, see its secrets."""

from typing import Final

from pipeline.control.forward_texts import without_secrets
from pipeline.control.forwarder import HOST, Forward
from pipeline.control.http import models

NOBODY: Final = "nobody"
"""A reader who has opened no forward."""


def shown(forward: Forward, reader: str) -> models.Forward:
    """The forward for a reader: a guest's address, HOST or NOBODY.

    Dump it without defaults: gvproxy has no proxy_protocol, so the key is left out where it is empty.
    """
    remote = forward.remote
    if reader not in (HOST, forward.opened_by):
        remote = without_secrets(remote)
    return models.Forward(
        local=forward.local,
        remote=remote,
        protocol=forward.protocol,
        proxy_protocol=forward.proxy_protocol,
    )
