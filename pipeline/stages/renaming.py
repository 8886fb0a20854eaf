"""Tells the stations of a policy which inner address stands for which own one."""

from pipeline.engines.stations import Stations
from pipeline.records.guests import Renamed
from pipeline.wire import ethernet


def rename(stations: Stations, renamed: Renamed) -> None:
    """Ingress has given a guest an inner address or an inner MAC."""
    if renamed.is_mac:
        inner, own = (number.to_bytes(ethernet.MAC_LEN, "big") for number in (renamed.inner, renamed.own))
        stations.rename_mac(inner, own, renamed.link)
    else:
        stations.rename(renamed.inner, renamed.own, renamed.link)
