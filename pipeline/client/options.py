"""The flags of the commands that ask a running daemon."""

from typing import Final

from pipeline.go.flags import Flag

SORTS: Final = ("bytes", "age", "idle")
"""Orders of the list of flows."""
PROTOCOLS: Final = ("tcp", "udp", "icmp")
"""Protocols of flows."""
API: Final[tuple[Flag, ...]] = (
    Flag(
        "api",
        "string",
        "the daemon's API: unix:///path, tcp://host:port; else $GVTAP_API, else of -config, else the usual "
        "socket",
    ),
    Flag(
        "config",
        "string",
        "configuration file of the daemon, which names its API and its token",
        is_file=True,
    ),
    Flag(
        "api-token-file", "string", "file with the token that the API asks for; none if empty", is_file=True
    ),
    Flag("version", "bool", "print the version and exit"),
)
SHOW: Final[tuple[Flag, ...]] = (*API, Flag("json", "bool", "print JSON, for scripts"))
FLOWS: Final[tuple[Flag, ...]] = (
    *SHOW,
    Flag("guest", "string", "only flows of this guest: its number, MAC or IP address"),
    Flag("protocol", "string", f"only flows of this protocol: {', '.join(PROTOCOLS)}", words=PROTOCOLS),
    Flag("host", "string", "only flows with this address or name outside"),
    Flag("port", "int", "only flows with this port; 0 for all"),
    Flag("limit", "int", "list at most this number of flows", default=1000),
    Flag(
        "sort", "string", f"what puts a flow first: the most {', '.join(SORTS)}", default="bytes", words=SORTS
    ),
)
POLICY_SET: Final[tuple[Flag, ...]] = (
    *SHOW,
    Flag("keep", "bool", "keep open connections that are no longer allowed; else they are cut"),
)
PERIODS: Final = ("life", "hour", "day", "month")
"""Periods of quotas."""
QUOTAS_RESET: Final[tuple[Flag, ...]] = (
    *SHOW,
    Flag("per", "string", f"only quotas of this period: {', '.join(PERIODS)}", words=PERIODS),
)
POLICY_EXPLAIN: Final[tuple[Flag, ...]] = (
    *SHOW,
    Flag("name", "string", "as if the gateway had told the guest that the address has this name"),
)
TOP: Final[tuple[Flag, ...]] = (
    *API,
    Flag("interval", "string", "seconds from one poll to the next, 0.2 to 3600", default="2"),
)
ATTACH: Final[tuple[Flag, ...]] = (
    Flag("iface", "string", "name of the tap in the namespace", default="tap0"),
    Flag("socket", "string", "socket of the daemon on which taps are passed (start -link fd+unix:///path)"),
    Flag("mtu", "int", "MTU of the tap: that of the daemon", default=1500),
    Flag("mac", "string", "MAC address of the tap; a random one if empty"),
    Flag("address", "string", "static address with prefix length instead of DHCP, as 192.168.127.9/24"),
    Flag("gateway", "string", "default route of a static address, the first address of its network if empty"),
    Flag("userns", "string", "path of the user namespace to enter; else the owner of the other one"),
    Flag("resolv-conf", "string", "file in which to name the DNS servers until the end", default="none"),
)
FILTER: Final[tuple[Flag, ...]] = (
    Flag("guest", "string", "only this guest, repeats: link number, MAC address, IP address", repeats=True),
    Flag("host", "string", "only frames from or to this address or network, repeats", repeats=True),
    Flag("port", "string", "only this port or range low-high, at either end, repeats", repeats=True),
    Flag("protocol", "string", "only this protocol, repeats: arp, icmp, tcp, udp", repeats=True),
    Flag("drops", "bool", "only frames that ingress or demux dropped, each with the cause as a comment"),
    Flag("snaplen", "int", "bytes that are kept of a frame; 0 for whole frames"),
)
CAPTURE: Final[tuple[Flag, ...]] = (
    *API,
    *FILTER,
    Flag("w", "string", "file that gets the capture; - means standard output", default="-"),
    Flag("ring-size", "string", "begin another file after this size, such as 500k, 64M, 2G; needs -w FILE"),
    Flag("ring-files", "int", "keep this number of files and remove the oldest; 0 keeps all"),
)
EXTCAP: Final[tuple[Flag, ...]] = (
    *API,
    *FILTER,
    Flag("extcap-interfaces", "bool", "list the interfaces: all guests, and each guest"),
    Flag("extcap-version", "string", "version of Wireshark; ignored"),
    Flag("extcap-interface", "string", "the interface that the other flags are about"),
    Flag("extcap-dlts", "bool", "name the link type of the interface"),
    Flag("extcap-config", "bool", "list the settings of the interface"),
    Flag("extcap-capture-filter", "string", "Wireshark's capture filter; it must be empty"),
    Flag("capture", "bool", "capture"),
    Flag("fifo", "string", "file that gets the capture"),
)
