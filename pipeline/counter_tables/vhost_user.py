"""The counters of vhost-user links, which are a part of the table (pipeline.counters)."""

from typing import Final

from pipeline.counter_tables.row import Counter

VHOST_USER: Final[tuple[Counter, ...]] = (
    Counter("vhost_user_link_closed_bad_message", "links", "monitors disconnected because of a message"),
    Counter(
        "vhost_user_link_closed_bad_ring", "links", "links ended: a ring has an impossible size or place"
    ),
    Counter(
        "vhost_user_link_closed_bad_index",
        "links",
        "links ended: the guest's index or head is not in its ring",
    ),
    Counter(
        "vhost_user_link_closed_bad_chain",
        "links",
        "links ended: a chain of descriptors breaks a rule, or is a loop",
    ),
    Counter(
        "vhost_user_link_closed_bad_address",
        "links",
        "links ended: an address is outside of the guest's memory",
    ),
    Counter(
        "vhost_user_link_closed_memory_lost",
        "links",
        "links ended: the file of the guest's memory has shrunk",
    ),
    Counter("vhost_user_send_paused_no_buffer", "events", "times frames waited for buffers of the guest"),
)
