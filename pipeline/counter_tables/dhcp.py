"""The counters of the resolver about DHCP and DHCPv6, which are a part of the table (pipeline.counters)."""

from typing import Final

from pipeline.counter_tables.row import Counter

DHCP: Final[tuple[Counter, ...]] = (
    Counter("dhcp_ack_sent", "messages", "DHCP acknowledgements"),
    Counter("dhcp_bootp_reply_sent", "messages", "BOOTP requests answered"),
    Counter("dhcp_decline_accepted", "messages", "addresses that a client found in use"),
    Counter(
        "dhcp_decline_dropped_not_holder", "messages", "DHCP declines of an address the client does not hold"
    ),
    Counter(
        "dhcp_host_name_refused_invalid",
        "names",
        "host names of clients that are not one label of letters and digits",
    ),
    Counter(
        "dhcp_host_name_refused_taken",
        "names",
        "host names of clients that the configuration or another client has, or that no client may have",
    ),
    Counter("dhcp_host_name_refused_too_many", "names", "host names of clients beyond what is kept"),
    Counter("dhcp_host_names", "names", "clients whose host name the name server answers for now", "gauge"),
    Counter("dhcp_leases", "leases", "addresses given out, static ones included", "gauge"),
    Counter("dhcp_message_dropped_bad_chaddr", "messages", "DHCP messages without a usable hardware address"),
    Counter("dhcp_message_dropped_bad_header", "messages", "DHCP messages of unknown op"),
    Counter("dhcp_message_dropped_bad_options", "messages", "DHCP messages whose options leave their bounds"),
    Counter("dhcp_message_dropped_gateway_mac", "messages", "DHCP messages that claim the gateway's MAC"),
    Counter(
        "dhcp_message_dropped_loan_over",
        "messages",
        "DHCP requests for a lease beyond the guest's share, while others need addresses",
    ),
    Counter("dhcp_message_dropped_no_address", "messages", "DHCP requests while no address is left"),
    Counter(
        "dhcp_message_dropped_too_many_of_guest",
        "messages",
        "DHCP requests of new clients on a link that has its share of the addresses",
    ),
    Counter("dhcp_message_dropped_truncated", "messages", "DHCP messages shorter than their fixed fields"),
    Counter(
        "dhcp_message_ignored_bootp_in_fleet",
        "messages",
        "BOOTP requests of unknown clients: a fleet has no leases without end",
    ),
    Counter("dhcp_message_ignored_not_request", "messages", "DHCP messages of another server"),
    Counter("dhcp_message_ignored_other_server", "messages", "DHCP messages that name another server"),
    Counter("dhcp_message_ignored_unknown_type", "messages", "DHCP messages of a type that gets no reply"),
    Counter(
        "dhcp_message_passed_to_fleet", "messages", "DHCP messages that wait for an address of the fleet"
    ),
    Counter(
        "dhcp_message_dropped_fleet_busy",
        "messages",
        "DHCP messages while too many wait for an address of the fleet",
    ),
    Counter("dhcp_offer_sent", "messages", "DHCP offers"),
    Counter("dhcp_release_accepted", "messages", "leases given back"),
    Counter(
        "dhcp_release_dropped_not_holder", "messages", "DHCP releases of an address the client does not hold"
    ),
    Counter("dhcpv6_advertise_sent", "messages", "DHCPv6 Advertise messages"),
    Counter("dhcpv6_decline_accepted", "messages", "addresses of DHCPv6 that a client found in use"),
    Counter(
        "dhcpv6_decline_dropped_not_holder",
        "messages",
        "DHCPv6 declines of an address the client does not hold",
    ),
    Counter(
        "dhcpv6_lease_refused_loan_over",
        "leases",
        "DHCPv6 leases beyond the guest's share that were not renewed, while others need addresses",
    ),
    Counter("dhcpv6_lease_refused_no_address", "leases", "DHCPv6 clients while no address is left"),
    Counter(
        "dhcpv6_lease_refused_too_many_of_guest",
        "leases",
        "new DHCPv6 clients on a link that has its share of the addresses",
    ),
    Counter("dhcpv6_leases", "leases", "addresses given out by DHCPv6, static ones included", "gauge"),
    Counter("dhcpv6_message_dropped_bad_duid", "messages", "DHCPv6 messages whose DUID is too short or long"),
    Counter(
        "dhcpv6_message_dropped_bad_options", "messages", "DHCPv6 messages whose options leave their bounds"
    ),
    Counter("dhcpv6_message_dropped_no_client_id", "messages", "DHCPv6 messages that name no client"),
    Counter(
        "dhcpv6_message_dropped_no_server_id", "messages", "DHCPv6 messages for a server without its name"
    ),
    Counter(
        "dhcpv6_message_dropped_nothing_to_confirm", "messages", "DHCPv6 Confirm messages without an address"
    ),
    Counter("dhcpv6_message_dropped_relay", "messages", "DHCPv6 messages of relay agents"),
    Counter("dhcpv6_message_dropped_too_many_ias", "messages", "DHCPv6 messages with over 16 associations"),
    Counter("dhcpv6_message_dropped_truncated", "messages", "DHCPv6 messages shorter than their header"),
    Counter(
        "dhcpv6_message_dropped_unicast", "messages", "DHCPv6 messages to the gateway that must be multicast"
    ),
    Counter(
        "dhcpv6_message_dropped_with_ia", "messages", "DHCPv6 Information-requests that ask for an address"
    ),
    Counter(
        "dhcpv6_message_dropped_with_server_id", "messages", "DHCPv6 messages for all that name a server"
    ),
    Counter("dhcpv6_message_ignored_not_request", "messages", "DHCPv6 messages of another server"),
    Counter("dhcpv6_message_ignored_other_server", "messages", "DHCPv6 messages that name another server"),
    Counter("dhcpv6_message_ignored_unknown_type", "messages", "DHCPv6 messages of an unknown type"),
    Counter("dhcpv6_release_accepted", "messages", "DHCPv6 leases given back"),
    Counter(
        "dhcpv6_release_dropped_not_holder",
        "messages",
        "DHCPv6 releases of an address the client does not hold",
    ),
    Counter("dhcpv6_reply_sent", "messages", "DHCPv6 Reply messages"),
)
