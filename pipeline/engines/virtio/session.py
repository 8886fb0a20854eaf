"""One connection of a vhost-user frontend: what it has set so far, and what follows from each message.

The session checks messages, remembers settings and makes answers. Its owner (pipeline.links.vhost_user) has
the descriptors, the memory and the rings. An Answer says what the owner must do before it sends the reply.

::

    SET_OWNER, SET_FEATURES, SET_MEM_TABLE ...   settings
    SET_VRING_NUM, _ADDR, _BASE, _KICK           the ring is started
    SET_VRING_ENABLE 1                           and enabled: it runs
    SET_VRING_ENABLE 0, GET_VRING_BASE, reset    it does not run any more

Without protocol features there is no SET_VRING_ENABLE, and rings are enabled from the start. Pair p of queues
has the rings 2p (to the guest) and 2p + 1 (from the guest). A guest has a link while pair 0 runs. Frames from
the guest may come on any pair. Frames to the guest go to pair 0.

Not offered: VHOST_F_LOG_ALL (migration), packed rings, an IOMMU, requests of the backend.
"""

from collections.abc import Callable, Mapping
from struct import Struct
from typing import Final, NamedTuple

from pipeline.engines.virtio.split_ring import RingPlace
from pipeline.wire import vhost_user as vu
from pipeline.wire import virtio
from pipeline.wire.errors import WireError

MAX_PAIRS: Final = 8
MAX_MEM_SLOTS: Final = 32
"""Regions of memory that a frontend may add one by one."""
MAX_INFLIGHT: Final = 1024
"""Entries of a ring in the file for descriptors in flight."""
CONFIG_BYTES: Final = 256
"""Bytes of a configuration space, of which a network device uses the first few."""
REFUSED: Final = "vhost_user_link_closed_bad_message"

FEATURES: Final = (
    virtio.F_CSUM
    | virtio.F_GUEST_CSUM
    | virtio.F_MTU
    | virtio.F_GUEST_TSO4
    | virtio.F_GUEST_TSO6
    | virtio.F_HOST_TSO4
    | virtio.F_HOST_TSO6
    | virtio.F_MRG_RXBUF
    | virtio.F_MQ
    | virtio.F_ANY_LAYOUT
    | virtio.F_INDIRECT_DESC
    | virtio.F_EVENT_IDX
    | virtio.F_PROTOCOL_FEATURES
    | virtio.F_VERSION_1
    | virtio.F_GUEST_USO4
    | virtio.F_GUEST_USO6
    | virtio.F_HOST_USO
)
PROTOCOL_FEATURES: Final = (
    vu.F_MQ
    | vu.F_REPLY_ACK
    | vu.F_NET_MTU
    | vu.F_CONFIG
    | vu.F_INFLIGHT_SHMFD
    | vu.F_RESET_DEVICE
    | vu.F_CONFIGURE_MEM_SLOTS
)

_INFLIGHT_HEADER: Final = Struct("<QHHHH")
_INFLIGHT_ENTRY_LEN: Final = 16
_INFLIGHT_ALIGN: Final = 64
_INFLIGHT_VERSION: Final = 1
_MIN_MTU: Final = 68


class SessionError(Exception):
    """The frontend broke the protocol, and its connection must end. reason: the name of a counter."""

    def __init__(self, text: str, reason: str = REFUSED) -> None:
        super().__init__(text)
        self.reason = reason


NOTHING: Final = 0
SET_MEMORY: Final = 1
ADD_MEMORY: Final = 2
REMOVE_MEMORY: Final = 3
SET_KICK: Final = 4
SET_CALL: Final = 5
STOP_RING: Final = 6
"""GET_VRING_BASE: the owner stops the ring, and then answers with Session.vring_base()."""
MAKE_INFLIGHT: Final = 7
MOVED: Final = 8
"""A ring that may run has other addresses."""


class Answer(NamedTuple):
    """What the owner must do.

    action: one of the numbers above. ring: its number. regions: one for each descriptor of the message.
    reply: the payload to send, None for none. content: of the file for descriptors in flight.
    """

    action: int = NOTHING
    ring: int = 0
    regions: tuple[vu.Region, ...] = ()
    reply: bytes | None = None
    content: bytes = b""


_DONE: Final = Answer()


class RingSettings:
    """What the frontend has set for one ring."""

    __slots__ = ("enabled", "place", "position", "size", "started")

    def __init__(self) -> None:
        self.size = 0
        self.place: RingPlace | None = None
        self.position = 0
        """The index where a device would continue. The owner sets it when the ring stops."""
        self.started = False
        self.enabled = False


class Session:
    """The settings of one connection."""

    def __init__(self, mtu: int) -> None:
        self._mtu = mtu
        self.features = 0
        self.protocol_features = 0
        self.rings = [RingSettings() for _ in range(2 * MAX_PAIRS)]

    def runs(self, pair: int) -> bool:
        """Whether both rings of a pair run."""
        rings = self.rings[2 * pair : 2 * pair + 2]
        return all(ring.started and ring.enabled and ring.place is not None for ring in rings)

    def on_message(self, header: vu.Header, payload: bytes, fds: int) -> Answer:
        """Judge a message that came with this number of descriptors. Raises SessionError."""
        handler = _HANDLERS.get(header.request)
        if handler is None:
            raise SessionError(f"request {header.request} was not agreed on")
        try:
            answer = handler(self, payload, fds)
        except WireError:
            raise SessionError(f"request {header.request} has an impossible payload") from None
        if answer.reply is None and self._wants_ack(header) and answer.action != STOP_RING:
            return answer._replace(reply=vu.U64.pack(0))
        return answer

    def vring_base(self, index: int) -> bytes:
        """The payload that answers GET_VRING_BASE."""
        return vu.VRING_STATE.pack(index, self.rings[index].position)

    def _wants_ack(self, header: vu.Header) -> bool:
        return bool(header.flags & vu.NEED_REPLY and self.protocol_features & vu.F_REPLY_ACK)

    # --- features -----------------------------------------------------------------------

    def _get_features(self, _payload: bytes, _fds: int) -> Answer:
        return Answer(reply=vu.U64.pack(FEATURES))

    def _set_features(self, payload: bytes, _fds: int) -> Answer:
        features = vu.parse_u64(payload)
        if features & ~FEATURES:
            raise SessionError(f"features that were not offered: {features & ~FEATURES:#x}")
        if features != self.features and any(ring.started for ring in self.rings):
            raise SessionError("features cannot change while a ring is started")
        self.features = features
        if not features & virtio.F_PROTOCOL_FEATURES:
            for ring in self.rings:
                ring.enabled = True
        return _DONE

    def _get_protocol_features(self, _payload: bytes, _fds: int) -> Answer:
        return Answer(reply=vu.U64.pack(PROTOCOL_FEATURES))

    def _set_protocol_features(self, payload: bytes, _fds: int) -> Answer:
        features = vu.parse_u64(payload)
        if features & ~PROTOCOL_FEATURES:
            raise SessionError(f"protocol features that were not offered: {features & ~PROTOCOL_FEATURES:#x}")
        self.protocol_features = features
        return _DONE

    def _get_queue_num(self, _payload: bytes, _fds: int) -> Answer:
        return Answer(reply=vu.U64.pack(MAX_PAIRS))

    # --- memory -------------------------------------------------------------------------

    def _set_mem_table(self, payload: bytes, fds: int) -> Answer:
        regions = vu.parse_memory_table(payload)
        if len(regions) != fds:
            raise SessionError(f"{len(regions)} regions of memory came with {fds} descriptors")
        return Answer(SET_MEMORY, regions=regions)

    def _add_mem_reg(self, payload: bytes, fds: int) -> Answer:
        region = vu.parse_region(payload)
        if fds != 1:
            raise SessionError(f"a region of memory came with {fds} descriptors")
        return Answer(ADD_MEMORY, regions=(region,))

    def _rem_mem_reg(self, payload: bytes, fds: int) -> Answer:
        # The specification allows one descriptor, which old frontends send. It means nothing.
        if fds > 1:
            raise SessionError(f"a removed region came with {fds} descriptors")
        return Answer(REMOVE_MEMORY, regions=(vu.parse_region(payload),))

    def _get_max_mem_slots(self, _payload: bytes, _fds: int) -> Answer:
        return Answer(reply=vu.U64.pack(MAX_MEM_SLOTS))

    # --- rings --------------------------------------------------------------------------

    def _ring(self, index: int) -> RingSettings:
        if index >= len(self.rings):
            raise SessionError(f"ring {index} does not exist (allowed: 0 to {len(self.rings) - 1})")
        return self.rings[index]

    def _stopped_ring(self, index: int, what: str) -> RingSettings:
        ring = self._ring(index)
        if ring.started:
            raise SessionError(f"{what} of ring {index} cannot change while it is started")
        return ring

    def _set_vring_num(self, payload: bytes, _fds: int) -> Answer:
        index, size = vu.parse_vring_state(payload)
        ring = self._stopped_ring(index, "the size")
        if not 0 < size <= virtio.MAX_SIZE or size & (size - 1):
            raise SessionError(f"ring {index} has {size} entries, which is not a power of two")
        ring.size = size
        if ring.place is not None:
            ring.place = ring.place._replace(size=size)
        return _DONE

    def _set_vring_base(self, payload: bytes, _fds: int) -> Answer:
        index, position = vu.parse_vring_state(payload)
        if position > 0xFFFF:
            raise SessionError(f"ring {index} cannot begin at {position}")
        self._stopped_ring(index, "the base").position = position
        return _DONE

    def _set_vring_addr(self, payload: bytes, _fds: int) -> Answer:
        addresses = vu.parse_vring_addr(payload)
        ring = self._ring(addresses.ring)
        if not ring.size:
            raise SessionError(f"ring {addresses.ring} has addresses but no size")
        ring.place = RingPlace(ring.size, addresses.table, addresses.avail, addresses.used)
        return Answer(MOVED, addresses.ring)

    def _get_vring_base(self, payload: bytes, _fds: int) -> Answer:
        index, _ = vu.parse_vring_state(payload)
        self._ring(index).started = False
        return Answer(STOP_RING, index)

    def _set_vring_kick(self, payload: bytes, fds: int) -> Answer:
        index = self._descriptor_index(payload, fds)
        if not fds:
            raise SessionError(f"ring {index} has no descriptor for kicks: polling is not supported")
        ring = self._ring(index)
        if not ring.size or ring.place is None:
            raise SessionError(f"ring {index} is started without size or addresses")
        ring.started = True
        return Answer(SET_KICK, index)

    def _set_vring_call(self, payload: bytes, fds: int) -> Answer:
        return Answer(SET_CALL, self._descriptor_index(payload, fds))

    def _set_vring_err(self, payload: bytes, fds: int) -> Answer:
        # An error ends the connection, so nothing is left to signal.
        self._descriptor_index(payload, fds)
        return _DONE

    def _descriptor_index(self, payload: bytes, fds: int) -> int:
        number = vu.parse_u64(payload)
        index = number & vu.INDEX_MASK
        self._ring(index)
        if fds != (0 if number & vu.NO_FD else 1):
            raise SessionError(f"a descriptor for ring {index} came as {fds}")
        return index

    def _set_vring_enable(self, payload: bytes, _fds: int) -> Answer:
        index, enabled = vu.parse_vring_state(payload)
        self._ring(index).enabled = bool(enabled)
        return _DONE

    def _reset(self, _payload: bytes, _fds: int) -> Answer:
        for ring in self.rings:
            ring.started = ring.enabled = False
        return _DONE

    # --- the device ---------------------------------------------------------------------

    def _nothing(self, _payload: bytes, _fds: int) -> Answer:
        return _DONE

    def _net_set_mtu(self, payload: bytes, _fds: int) -> Answer:
        """The frontend tells the guest's MTU. Frames may have any length, so it changes nothing."""
        mtu = vu.parse_u64(payload)
        if not _MIN_MTU <= mtu <= 0xFFFF:
            raise SessionError(f"an MTU of {mtu} is not possible")
        return _DONE

    def _get_config(self, payload: bytes, _fds: int) -> Answer:
        if len(payload) < vu.CONFIG.size:
            raise WireError("link_handshake_failed")
        offset, size, flags = vu.CONFIG.unpack_from(payload)
        if offset + size > CONFIG_BYTES:
            return Answer(reply=b"")
        space = virtio.NET_CONFIG.pack(bytes(6), virtio.STATUS_LINK_UP, MAX_PAIRS, self._mtu)
        space = space.ljust(CONFIG_BYTES, b"\0")
        return Answer(reply=vu.CONFIG.pack(offset, size, flags) + space[offset : offset + size])

    def _get_inflight(self, payload: bytes, _fds: int) -> Answer:
        asked = vu.parse_inflight(payload)
        if not 0 < asked.queues <= len(self.rings) or not 0 < asked.queue_size <= MAX_INFLIGHT:
            raise SessionError(f"{asked.queues} queues of {asked.queue_size} entries are not possible")
        content = inflight_content(asked.queues, asked.queue_size)
        reply = vu.INFLIGHT.pack(len(content), 0, asked.queues, asked.queue_size)
        return Answer(MAKE_INFLIGHT, reply=reply, content=content)

    def _set_inflight(self, payload: bytes, fds: int) -> Answer:
        # Chains are given back in order, so the used index says what was in flight.
        vu.parse_inflight(payload)
        if fds != 1:
            raise SessionError(f"the file for descriptors in flight came with {fds} descriptors")
        return _DONE


def inflight_content(queues: int, queue_size: int) -> bytes:
    """The file for descriptors in flight, with none of them. The specification defines its layout."""
    header = _INFLIGHT_HEADER.pack(0, _INFLIGHT_VERSION, queue_size, 0, 0)
    length = len(header) + queue_size * _INFLIGHT_ENTRY_LEN
    length += -length % _INFLIGHT_ALIGN
    return header.ljust(length, b"\0") * queues


_Handler = Callable[[Session, bytes, int], Answer]
_HANDLERS: Final[Mapping[int, _Handler]] = {
    vu.GET_FEATURES: Session._get_features,
    vu.SET_FEATURES: Session._set_features,
    vu.SET_OWNER: Session._nothing,
    vu.RESET_OWNER: Session._reset,
    vu.SET_MEM_TABLE: Session._set_mem_table,
    vu.SET_VRING_NUM: Session._set_vring_num,
    vu.SET_VRING_ADDR: Session._set_vring_addr,
    vu.SET_VRING_BASE: Session._set_vring_base,
    vu.GET_VRING_BASE: Session._get_vring_base,
    vu.SET_VRING_KICK: Session._set_vring_kick,
    vu.SET_VRING_CALL: Session._set_vring_call,
    vu.SET_VRING_ERR: Session._set_vring_err,
    vu.GET_PROTOCOL_FEATURES: Session._get_protocol_features,
    vu.SET_PROTOCOL_FEATURES: Session._set_protocol_features,
    vu.GET_QUEUE_NUM: Session._get_queue_num,
    vu.SET_VRING_ENABLE: Session._set_vring_enable,
    vu.NET_SET_MTU: Session._net_set_mtu,
    vu.GET_CONFIG: Session._get_config,
    vu.GET_INFLIGHT_FD: Session._get_inflight,
    vu.SET_INFLIGHT_FD: Session._set_inflight,
    vu.RESET_DEVICE: Session._reset,
    vu.GET_MAX_MEM_SLOTS: Session._get_max_mem_slots,
    vu.ADD_MEM_REG: Session._add_mem_reg,
    vu.REM_MEM_REG: Session._rem_mem_reg,
}
