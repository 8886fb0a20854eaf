"""The state of our own SYN or SYN-ACK: is it due, when was it first sent, how often was it sent again."""


class Opening:
    """Used until the connection is established."""

    __slots__ = ("syn_due", "syn_retransmits", "syn_sent_at")

    def __init__(self) -> None:
        self.syn_due = False
        self.syn_retransmits = 0
        self.syn_sent_at = 0.0

    def send_syn(self) -> None:
        """The next transmit() sends the SYN, for the first time or again."""
        self.syn_due = True

    def syn_timed_out(self) -> None:
        """The peer has not answered: send the SYN again."""
        self.syn_retransmits += 1
        self.syn_due = True

    def syn_sent(self, first: bool, now: float) -> None:
        """transmit() sends the SYN. first: it was not sent before."""
        self.syn_due = False
        if first:
            self.syn_sent_at = now

    def stop(self) -> None:
        """The connection is over: send nothing."""
        self.syn_due = False
