"""The lines that workers write to the log, and no subscriber gets."""

from typing import Final

from pipeline.events.kind import DEBUG, ERROR, INFO, WARNING, Kind, logged

_ERROR: Final = "what went wrong"
_LINK: Final = "number of the guest's link"
_MAC: Final = "MAC address"
_PATH: Final = "path of the file"
_SERVERS: Final = "addresses of the name servers"

LIFE: Final = (
    logged("worker-started", DEBUG, "worker started", "A worker takes its first breath."),
    logged(
        *("sandbox-failed", ERROR, "this process is not in its sandbox"),
        "A part of the sandbox failed, although the system has it. With a strict sandbox the process ends.",
        failed="the parts, and why",
    ),
    logged("worker-stopped", DEBUG, "worker stopped", "A worker has given back what it held."),
    logged(
        *("worker-failed", ERROR, "worker failed"),
        "A worker met an error of this program, and ends.",
        process="the workers of the process",
        error=_ERROR,
        exception="the traceback",
    ),
    logged(
        *("control-socket-closed", INFO, "supervisor closed the control socket"),
        "The worker ends, because the supervisor has.",
    ),
    logged("supervisor-gone", INFO, "supervisor is gone", "The worker ends, because the supervisor has."),
    logged(
        *("pool-inconsistent", ERROR, "pool is inconsistent"),
        "At the end, the counts of a worker's slots do not agree.",
        error=_ERROR,
    ),
    logged(
        *("references-wrong", ERROR, "more references are held than were given"),
        "After the death of a worker, the counts of slots do not agree. These slots are never used again.",
        slots="numbers of the slots",
    ),
    logged(
        *("control-request-failed", ERROR, "control request failed"),
        "A request of the supervisor met an error of this program.",
        op="name of the request",
        error=_ERROR,
        exception="the traceback",
    ),
    logged(
        *("answer-not-sent", WARNING, "answer cannot be sent"),
        "An answer to the supervisor is too long, or needs a descriptor that is not left.",
        op="name of the request",
        error=_ERROR,
    ),
    logged(
        *("handed-over-lost", WARNING, "no descriptor left for what was handed over"),
        "Sockets from another worker or the supervisor are lost.",
        count="messages lost since the last line",
    ),
)

GUESTS: Final = (
    logged(
        *("guest-refused", WARNING, "guest refused"),
        "A guest may have no link now.",
        protocol="protocol of the link",
        reason="why, in words",
        peer="address of the socket at the other end",
        opened_by="process or machine that opened the link",
    ),
    logged(
        *("listener-failed", ERROR, "no more guests"),
        "A listener for guests has failed for good.",
        protocol="protocol of its links",
        error=_ERROR,
    ),
    logged(
        *("guest-offloads", INFO, "guest offloads"),
        "The agent of a guest and the gateway have agreed on offload.",
        link=_LINK,
        features="what was agreed on, as a bit mask",
    ),
    logged(
        *("tunnel-mtu", INFO, "tunnel mtu"),
        "The path to other hosts can carry packets of another length than before.",
        link="number of the link to other hosts",
        mtu="bytes of the longest packet of a guest",
    ),
    logged(
        *("gateway-mac-claimed", WARNING, "gateway mac claimed"),
        "A guest sends frames with the MAC address of the gateway, or of a fleet's host. They are dropped.",
        mac=_MAC,
        link=_LINK,
    ),
    logged(
        *("address-contested", WARNING, "address contested"),
        "A guest claims an address that another guest or the gateway has.",
        address="the address",
        owner="MAC address of the owner",
        claimant="MAC address of the other one",
        link="number of the claimant's link",
    ),
    logged(
        *("guest-frame-refused", WARNING, "guest frame refused"),
        "A guest sends frames to other guests that break a rule (docs/security.md).",
        cause="the rule",
        mac="source of the frame",
        link=_LINK,
    ),
    logged(
        *("flow-refused-by-policy", WARNING, "flow refused by the egress policy"),
        "The egress policy forbids a connection, flow or ping of a guest.",
        guest_address="address of the guest",
        to="where to",
        protocol="tcp, udp or icmp",
        rule="egress-policy.rules[N] (the first rule is 0), or .default, .preset, .quic or .ech",
        stated_name="name that the flow stated (SNI, Host); missing if none was read",
        reason="why a rule that leads through a proxy refuses it; missing for other rules",
        unlogged="how many further ones were refused since the last line about this guest",
    ),
    logged(
        *(
            "quic-not-read",
            WARNING,
            "QUIC is refused: what reads names in it can only be loaded at the start",
        ),
        "A reload has brought names into the egress policy, and this worker can read no files any more.",
    ),
    logged(
        *("flows-ended-by-policy", WARNING, "flows ended by the new egress policy"),
        "A reload or a client of the API has changed the egress policy.",
        count="flows that it forbids",
    ),
    logged(
        "pings-not-forwarded",
        WARNING,
        "pings of guests are not forwarded: this system allows no unprivileged ICMP sockets",
        "The system allows this program no socket for pings.",
        error=_ERROR,
        setting="the setting of the kernel that allows it",
    ),
)

CAPTURES: Final = (
    logged(
        *("capture-started", INFO, "capture started"),
        "A client of the API captures frames.",
        captures="how many captures run now",
        drops="whether it captures what is dropped",
    ),
    logged(
        *("capture-ended", INFO, "capture ended"),
        "A capture of a client of the API has ended.",
        reason="why",
        frames="frames in the capture",
        missing="frames that it lacks, because the client was too slow",
    ),
    logged(
        *("capture-file-ended", ERROR, "capture file ended"),
        "The file of -pcap can be written no more.",
        error=_ERROR,
    ),
    logged(
        *("capture-not-written", ERROR, "capture not written"),
        "The disk of the file of -pcap is full. Frames wait, and further ones are left out and counted.",
        error=_ERROR,
    ),
    logged(
        *("capture-written-again", INFO, "capture written again"),
        "The disk of the file of -pcap has room again.",
    ),
    logged(
        *("capture-file-lacks-frames", WARNING, "capture lacks frames, it is not written fast enough"),
        "The file of -pcap lacks frames. A counter has their number.",
    ),
)

SERVICES: Final = (
    logged(
        *("ipv6-route-there", INFO, "guests have a default route over IPv6"),
        "The host has an IPv6 route, so guests are told to use the gateway.",
    ),
    logged(
        *("ipv6-route-missing", INFO, "guests have no default route over IPv6"),
        "The host has no IPv6 route, so guests reach only the virtual network over IPv6.",
    ),
    logged(
        *("leases-taken-over", INFO, "leases taken over"),
        "The leases of an earlier run are valid again.",
        count="leases taken over",
        of="leases in the file",
        path=_PATH,
    ),
    logged(
        *("leases-not-taken-over", ERROR, "leases not taken over"),
        "The file with the leases of an earlier run cannot be read.",
        error=_ERROR,
    ),
    logged(
        *("name-servers", INFO, "upstream name servers"),
        "The host's name servers, at the start and when they have changed.",
        servers=_SERVERS,
    ),
    logged(
        *("name-server-left-out", ERROR, "a name server is left out"),
        "A name server of the settings cannot be used.",
        servers="all name servers of the settings",
    ),
    logged(
        *("name-servers-silent", WARNING, "no upstream name server answers"),
        "No server has answered a question.",
        servers=_SERVERS,
    ),
    logged(
        *("name-servers-answer", INFO, "upstream name servers answer again"),
        "A server has answered a question.",
        servers=_SERVERS,
    ),
    logged(
        *("zone-left-out", ERROR, "zone left out"),
        "A zone of the configuration is not valid.",
        zone="name of the zone",
        error=_ERROR,
    ),
    logged(
        *("accept-failed", WARNING, "accept failed"),
        "A connection cannot be accepted now. It waits.",
        local="the forward",
        error=_ERROR,
        times="how often since the last line",
    ),
)

KINDS: Final[tuple[Kind, ...]] = (*LIFE, *GUESTS, *CAPTURES, *SERVICES)
