"""The messages between worker processes: all kinds of record, each with its writers and readers.

A *record* is 96 bytes on a ring. Its first byte is its kind. The kind decides the layout of the other 95.
Each layout is a class of this package, with an ``unpack`` for the reader and a ``pack`` for the writer. A
record does not carry payload: it describes bytes in a *slot* of shared memory.

A *reference* keeps the worker that allocated a slot from using it again. A reference has one owner. In the
last column, *moves* means that the reader of the record owns it from then on. *Stays* means that the writer
keeps it. *Last* means that it moves with the last of several records about the slot. A dash stands for a
record without a slot.

================ =============== =========================================== =========
kind             class           from -> to                                  reference
================ =============== =========================================== =========
FRAME            Frame           ingress -> demux                            moves
TCP_RANGE        TcpRange        ingress -> demux, ingress -> tcp,           moves
                                 demux -> tcp
UDP_RANGE        UdpRange        ingress -> demux                            moves
LINK_UP          LinkNotice      ingress -> demux, ingress -> tcp,           -
                                 demux -> tcp, demux -> egress,
                                 demux -> resolver
LINK_DOWN        LinkNotice      ingress -> demux, ingress -> tcp,           -
                                 demux -> tcp, demux -> egress,
                                 demux -> resolver
HEARD            Neighbor        ingress -> demux                            -
UDP_USED         UdpNotice       ingress -> demux                            -
UDP_FRAGMENTED   UdpNotice       ingress -> demux                            -
SHARED           Shared          ingress -> demux, ingress -> tcp,           -
                                 ingress -> egress
TUNNEL           Tunnel          ingress -> demux                            -
RENAMED          Renamed         ingress -> demux, demux -> egress,          -
                                 demux -> resolver
WATCH_DROPS      WatchDrops      ingress -> demux                            -
FRAME_OUT        FrameOut        demux -> ingress                            last
TCP_OUT          TcpOut          tcp -> ingress                              stays
UDP_OUT          UdpOut          demux -> ingress                            moves
UDP_TO_GUEST     UdpToGuest      egress -> ingress                           moves
NEIGHBOR         Neighbor        demux -> ingress, demux -> egress,          -
                                 demux -> resolver
NEIGHBOR_GONE    NeighborGone    demux -> ingress, demux -> egress,          -
                                 demux -> resolver
MISBEHAVED       Misbehaved      demux -> ingress, tcp -> ingress            -
DROPPED          Dropped         demux -> ingress                            moves
WORK             Work            demux -> ingress, tcp -> ingress,           -
                                 egress -> ingress
STEER_UDP        SteerUdp        demux -> ingress                            -
UNSTEER_UDP      UnsteerUdp      demux -> ingress                            -
GUEST_ERROR      GuestError      demux -> tcp                                -
DIAL             Dial            egress -> demux                             -
DIAL_ROUTED      DialRouted      demux -> tcp                                -
DIAL_FAILED      DialFailed      demux -> egress, tcp -> egress              -
GUEST_ANSWERED   GuestAnswered   tcp -> egress                               -
GUEST_MOVED      GuestMoved      tcp -> egress                               -
ORPHANED         FlowNotice      tcp -> egress                               -
CONNECT          Connect         tcp -> egress                               -
CONNECTED        FlowNotice      egress -> tcp                               -
CONNECT_FAILED   ConnectFailed   egress -> tcp                               -
DECIDED          Decided         egress -> tcp                               -
SOCKETS_USED_UP  SocketsUsedUp   egress -> tcp                               -
TO_HOST          ToHost          tcp -> egress                               moves
TAKEN            Taken           egress -> tcp                               -
TO_GUEST         ToGuest         egress -> tcp                               moves
WINDOW           Window          tcp -> egress                               -
SHUTDOWN         Shutdown        tcp -> egress, egress -> tcp                -
ABORT            FlowNotice      tcp -> egress, egress -> tcp                -
EVICTED          FlowNotice      egress -> tcp                               -
FORBIDDEN        FlowNotice      egress -> tcp                               -
PROXY_FAILED     FlowNotice      egress -> tcp                               -
STRAY            Stray           egress -> tcp                               -
CLOSED           FlowNotice      tcp -> egress                               -
UDP_DATA         UdpData         ingress -> egress, demux -> egress,         moves
                                 egress -> demux
UDP_ANSWERED     FlowNotice      egress -> demux                             -
UDP_CLOSE        FlowNotice      demux -> egress, egress -> demux            -
UNREACHABLE      Unreachable     egress -> demux                             -
ICMP_ECHO        EchoRequest     demux -> egress                             moves
ICMP_REPLY       EchoReply       egress -> demux                             moves
ICMP_ERROR       EchoError       egress -> demux                             -
SERVICE_DATAGRAM ServiceDatagram demux -> resolver, resolver -> demux        moves
NAMED            Named           resolver -> demux, demux -> egress          -
TOLD             Told            resolver -> demux, demux -> egress          -
LEASED           Leased          resolver -> demux                           -
================ =============== =========================================== =========

The reference of a TCP_OUT stays: tcp keeps the slot until the guest has acknowledged the bytes. Ingress
releases the ring entry when it will not read the bytes again. Tcp sees that in the ring's consumer index.

A writer calls ``ring.push(ToHost.pack(flow, run, skip, length))``. Constructors have many parameters: pass
them by name. (``unpack`` alone passes them by position, which is faster in plain Python.) A reader looks at
the kind before it unpacks, and unpacks only what it uses::

    for at in range(0, len(burst), RECORD_BYTES):
        kind = burst[at]
        if kind == TO_HOST:
            run = ToHost.unpack(burst, at)

Lengths, offsets and windows are in bytes. An offset counts from the start of its slot. Bytes that a layout
does not use are zero.
"""

from typing import Final

RECORD_BYTES: Final = 96
SLOT_ENTRY_BYTES: Final = 8
"""Bytes of an entry on a free ring: one slot number."""
NO_SLOT: Final = 0xFFFFFFFF
"""The slot number of a record that has no bytes in a slot."""
REPORT_EVERY_S: Final = 1.0
"""Seconds between two HEARD of one guest, or between two UDP_USED or UDP_ANSWERED of one flow."""

# --- ingress -> demux (runs also ingress -> tcp) ------------------------------------------

FRAME: Final = 1
"""One Ethernet frame of a guest."""
TCP_RANGE: Final = 2
"""TCP segments of one flow of a guest, merged by GRO, with verified checksums. Demux passes it on to tcp."""
UDP_RANGE: Final = 5
"""Datagrams of one flow of a guest, merged by GRO, with verified checksums."""
LINK_UP: Final = 3
"""A guest has connected a link. Tcp gets it from ingress and from demux, before their records of the link."""
LINK_DOWN: Final = 4
"""A link is gone. Ingress and demux each send it after their last record about that link."""
HEARD: Final = 7
"""Ingress steered packets of this guest past demux."""
UDP_USED: Final = 8
"""Ingress steered datagrams of this flow past demux."""
UDP_FRAGMENTED: Final = 19
"""This flow has fragments, so ingress sends all of it to demux from now on."""
SHARED: Final = 44
"""There are several guests, so the reader measures what the records of each cost; or there is one only."""
TUNNEL: Final = 52
"""This link leads to guests of other hosts, and packets may have this length there."""
RENAMED: Final = 57
"""An address or a MAC of a guest has an inner one in all records, since another guest has it."""
WATCH_DROPS: Final = 46
"""Demux is to hand over the frames that it drops, for a capture of drops; or not any more."""

# --- demux, tcp, egress -> ingress --------------------------------------------------------

FRAME_OUT: Final = 10
"""One Ethernet frame for one guest or for all."""
TCP_OUT: Final = 13
"""TCP segments for a guest. Ingress makes the headers and cuts the bytes at the MSS."""
UDP_OUT: Final = 15
"""Datagrams for a guest whose link and MAC demux names. Ingress makes the headers."""
UDP_TO_GUEST: Final = 16
"""Datagrams for a guest that ingress finds by its address. Ingress makes the headers."""
NEIGHBOR: Final = 11
"""A guest's address is reached through this link and MAC."""
NEIGHBOR_GONE: Final = 12
"""No guest has this address any more."""
MISBEHAVED: Final = 14
"""Demux or tcp dropped frames of a guest. Ingress therefore reads its link more slowly."""
DROPPED: Final = 47
"""Frames of a guest that demux dropped. Ingress writes them into captures of drops."""
WORK: Final = 45
"""A worker spent time on records of a link. Ingress charges the link's guest for it."""
STEER_UDP: Final = 17
"""Ingress may send further datagrams of this flow straight to an egress worker."""
UNSTEER_UDP: Final = 18
"""This flow is over. Ingress forgets its egress worker."""

# --- demux -> tcp -------------------------------------------------------------------------

GUEST_ERROR: Final = 6
"""A guest sent an ICMP error about a segment that it received."""

# --- connections that the host opens: egress -> demux -> tcp -> egress ----------------------

DIAL: Final = 22
"""Egress asks for a connection to a guest."""
DIAL_ROUTED: Final = 41
"""The same request, with the guest's link and the gateway's address and port, which demux chose."""
DIAL_FAILED: Final = 23
"""The connection cannot be opened."""
GUEST_ANSWERED: Final = 42
"""The guest accepted the connection."""

# --- tcp <-> egress -----------------------------------------------------------------------

CONNECT: Final = 30
"""A guest asks for a connection to a host."""
CONNECTED: Final = 31
"""The host accepted the connection."""
CONNECT_FAILED: Final = 32
"""The host did not accept the connection."""
SOCKETS_USED_UP: Final = 43
"""No socket is left for a UDP flow of a guest. Tcp may end a half-open connection to free one."""
GUEST_MOVED: Final = 48
"""The guest of a connection is back, on another link."""
ORPHANED: Final = 49
"""The link of a connection's guest is gone."""
TO_HOST: Final = 33
"""Bytes of the guest for the host socket."""
TAKEN: Final = 34
"""The host socket took bytes."""
TO_GUEST: Final = 35
"""Bytes of the host for the guest."""
WINDOW: Final = 39
"""The guest's receive window changed much."""
SHUTDOWN: Final = 36
"""One direction of the stream ends after the bytes sent so far: a FIN of the guest, or EOF of the host."""
ABORT: Final = 37
"""The other side was reset, refused or is gone. The reader forgets the flow."""
EVICTED: Final = 50
"""As ABORT. The host socket made room for another flow."""
FORBIDDEN: Final = 51
"""As ABORT. A new egress policy forbids the connection."""
PROXY_FAILED: Final = 55
"""As ABORT. The proxy of the connection has not led to its destination."""
DECIDED: Final = 53
"""The egress policy has decided on the connection."""
STRAY: Final = 54
"""A predecessor of the reader has died with this connection. The reader lets the guest find that out."""
CLOSED: Final = 38
"""Both directions have ended, and tcp has forgotten the flow. Egress still writes what it has queued."""

# --- demux <-> egress (UDP_DATA also ingress -> egress) -------------------------------------

UDP_DATA: Final = 20
"""Datagrams of one flow, in either direction."""
UDP_ANSWERED: Final = 9
"""Egress sent datagrams of this flow past demux."""
UDP_CLOSE: Final = 21
"""This flow is over: it was idle for too long, evicted or refused."""
UNREACHABLE: Final = 24
"""Egress cannot serve a flow. Demux sends the guest an ICMP error."""
ICMP_ECHO: Final = 25
"""An echo request of a guest for an outside address."""
ICMP_REPLY: Final = 26
"""The echo reply of an outside host."""
ICMP_ERROR: Final = 27
"""An ICMP error that came back for an echo request."""

# --- demux <-> resolver, and on to egress ---------------------------------------------------

SERVICE_DATAGRAM: Final = 40
"""One datagram for the gateway's DHCP or DNS service, or the answer."""
NAMED: Final = 28
"""The resolver gave a guest the address of a name that the egress policy mentions."""
TOLD: Final = 56
"""A part of the name for which the resolver gave a guest an address, if the policy leads through a proxy."""
LEASED: Final = 29
"""The resolver read a lease from its state file."""
