"""The events about a fleet: several hosts whose guests share one network (docs/fleet.md)."""

from typing import Final

from pipeline.events.kind import DEBUG, ERROR, INFO, WARNING, Kind, logged, published

_HOST: Final = "name of the host"

KINDS: Final[tuple[Kind, ...]] = (
    published(
        *("fleet-reached", INFO, "fleet reached"),
        "A NATS server has answered, and has reported what the fleet knows.",
        members="number of hosts, this one among them",
        keys="number of keys in the store",
    ),
    published(
        *("fleet-away", WARNING, "fleet cannot be reached"),
        "No NATS server can be reached, or the connection has ended. Hosts go on as they know each other.",
        server="the last one that was tried",
        reason="what went wrong",
    ),
    published(
        *("fleet-host-joined", INFO, "fleet host joined"),
        "Another host is a member of the fleet.",
        host=_HOST,
        address="address of its link to other hosts",
    ),
    published(
        *("fleet-host-left", INFO, "fleet host left"),
        "Another host has left the fleet, or was silent for too long.",
        host=_HOST,
    ),
    published(
        *("fleet-guest-moved", INFO, "fleet guest moved"),
        "A guest of this host has appeared on another one. Its connections through this host were reset.",
        mac="MAC address of the guest",
        host="name of the host where it is now",
    ),
    published(
        *("fleet-network-differs", WARNING, "fleet host has another network"),
        "Subnet, gateway, pool of addresses, zone of guests or VNI of another host differ from this one's.",
        host=_HOST,
    ),
    published(
        *("fleet-name-taken", ERROR, "fleet has another host with this name"),
        "Two daemons have the same -fleet-host. None of them can give addresses for long.",
        host=_HOST,
    ),
    published(
        *("fleet-too-large", ERROR, "fleet is too large"),
        "There is more than a host can know. The first hosts by name stay, and of the rest what came first.",
        what="hosts, keys, places or names",
        most="how many a host knows",
    ),
    logged(
        *("fleet-setting-refused", ERROR, "fleet setting refused"),
        "A policy or a zone in the store is wrong. This host keeps what it has.",
        key="the key in the store",
        error="what is wrong",
    ),
    published(
        *("fleet-forward-refused", WARNING, "fleet forward refused"),
        "A forward of the fleet cannot be open on this host. It is tried again every 30 s.",
        protocol="protocol of the forward",
        local="address and port of the host",
        remote="address and port of the guest",
        error="why not",
    ),
    logged(
        *("fleet-write-failed", DEBUG, "fleet write failed"),
        "A write to the store had no answer, and is repeated.",
        key="the key in the store",
        error="what went wrong",
    ),
    logged(
        *("fleet-session-ended", DEBUG, "fleet session ended"),
        "A connection to a server has ended, or was not made. The next one is tried.",
        server="the server",
        reason="what went wrong",
    ),
    logged(
        *("fleet-error", ERROR, "fleet error"),
        "An error of this program. The fleet's agent goes on, if need be with a new connection.",
        error="what went wrong",
    ),
    logged(
        *("fleet-not-left", DEBUG, "fleet not left in order"),
        "The store could not be told at the end that this host has left. Others find it silent.",
        error="what went wrong",
    ),
)
