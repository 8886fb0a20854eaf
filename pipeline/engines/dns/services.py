"""Takes parts out of HTTPS and SVCB records (RFC 9460) in answers of upstream servers.

``ech``: the key for an encrypted hello, so that clients state the name in plain text. ``h3``: HTTP/3 among
the protocols, so that they use TCP. A validating guest sees that the signature of a changed record is wrong.
"""

from collections.abc import Set
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dns.message
    from dns.rdtypes.svcbbase import SVCBBase


def remove(message: "dns.message.Message", removed: Set[str]) -> None:
    """Remove these parts. A record that would serve nothing but HTTP/3 goes as a whole.

    message: each of its sets has one record.
    """
    from dns.rdtypes.svcbbase import SVCBBase  # noqa: PLC0415  see message.py

    for section in (message.answer, message.additional):
        for rrset in list(section):
            record = rrset[0]
            if not isinstance(record, SVCBBase):
                continue
            changed = _without(record, removed)
            rrset.clear()  # type: ignore[no-untyped-call]
            if changed is None:
                section.remove(rrset)
            else:
                rrset.add(changed)


def _without(record: "SVCBBase", removed: Set[str]) -> "SVCBBase | None":
    """The record without these parts; None if nothing of it is left to use."""
    from dns.rdtypes.svcbbase import ALPNParam, MandatoryParam, ParamKey  # noqa: PLC0415  see message.py

    params = dict(record.params)
    if "ech" in removed:
        params.pop(ParamKey.ECH, None)
    protocols = params.get(ParamKey.ALPN)
    if "h3" in removed and isinstance(protocols, ALPNParam):
        left = [each for each in protocols.ids if each != b"h3" and not each.startswith(b"h3-")]
        if left:
            params[ParamKey.ALPN] = ALPNParam(left)  # type: ignore[no-untyped-call]
        elif ParamKey.NO_DEFAULT_ALPN in params:
            return None
        else:
            del params[ParamKey.ALPN]
    mandatory = params.get(ParamKey.MANDATORY)
    if isinstance(mandatory, MandatoryParam):
        keys = [key for key in mandatory.keys if key in params]
        if keys:
            params[ParamKey.MANDATORY] = MandatoryParam(keys)  # type: ignore[no-untyped-call]
        else:
            del params[ParamKey.MANDATORY]
    changed: SVCBBase = record.replace(params=params)  # type: ignore[assignment]
    return changed
