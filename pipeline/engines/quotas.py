"""Quotas: how much guests may use in all, of bytes, connections and DNS questions.

An *account* has what one subject has used in a period. A quota that names guests by their addresses, MAC
addresses or links has an account for each of these words. A quota without guests, or about networks, has one
for each guest (pipeline.stages.ingress.guests), whatever addresses the guest uses. A flow or a question
counts in the accounts of all quotas that fit its guest.

Each worker counts for itself. The supervisor adds the sums up once a second, and tells each worker what
others have counted (``elsewhere``). It also begins the periods: ``elsewhere`` is then less than nothing.

Bytes are those of the payload. A flow has a *meter*, or none while no quota fits. So without quotas a flow
costs one comparison for each read and write of its socket.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from pipeline.engines import guest_set, quota_limits
from pipeline.engines.networks import Networks
from pipeline.engines.quota_limits import (
    BOTH_WAYS,
    CONNECTIONS,
    FROM_GUEST,
    GUEST_MARK,
    NUMBERS,
    QUESTIONS,
    TO_GUEST,
    QuotaConfig,
)
from pipeline.engines.stations import Station, StationOf
from pipeline.wire import ip

_ENDLESS: Final = 1 << 62
_CUT: Final = "cut"

Sums = list[int]
"""Bytes from and to the guest, connections, questions."""
Row = tuple[str, str, Sums, list[int]]
"""Period and subject of an account, what it has counted here, and the numbers of its quotas."""


class Quota:
    """One quota, with what finds its guests."""

    def __init__(self, config: QuotaConfig, index: int) -> None:
        self.index = index
        self.rule = quota_limits.rule(index)
        self.per = config.per
        self.cuts = config.open_flows == _CUT
        """Whether open flows end when the bytes are used up."""
        self.most = quota_limits.limits(config)
        """By kind: the most of it."""
        self._everybody = not config.guests
        self._links: dict[int, str] = {}
        self._macs: dict[bytes, str] = {}
        self._addrs: dict[int, str] = {}
        networks: list[str] = []
        for word in config.guests:
            self._enter(word, networks)
        self._networks = Networks(networks) if networks else None

    def _enter(self, word: str, networks: list[str]) -> None:
        link, mac = guest_set.link_number(word), guest_set.mac(word)
        if link is not None:
            self._links[link] = word
        elif mac is not None:
            self._macs[mac] = word
        else:
            first, last = ip.network(word)
            if first == last:
                self._addrs[first] = ip.text(first)
            else:
                networks.append(word)

    def subject(self, guest: int, addrs: Collection[int], station: Station | None) -> str:
        """Whose account counts for a guest with this number and these addresses; "" if none does."""
        if self._everybody:
            return f"{GUEST_MARK}{guest}"
        if station is not None:
            word = self._links.get(station[1], "") or self._macs.get(station[0], "")
            if word:
                return word
        for addr in addrs:
            if addr in self._addrs:
                return self._addrs[addr]
        if self._networks is not None and any(addr in self._networks for addr in addrs):
            return f"{GUEST_MARK}{guest}"
        return ""


class Account:
    """What one subject has used in a period."""

    def __init__(self, per: str, subject: str, guest: int, addr: int) -> None:
        """guest, addr: of the subject, as it was seen first."""
        self.per = per
        self.subject = subject
        self.guest = guest
        self.addr = addr
        self.here: Sums = [0] * NUMBERS
        """What this worker has counted."""
        self.elsewhere: Sums = [0] * NUMBERS
        self.quotas: dict[int, Quota] = {}
        """Those that bound it, by their numbers."""
        self.room = _ENDLESS
        """Bytes until a quota may be used up."""
        self.cut_by = ""
        """The quota whose bytes are used up, so that open flows must end."""

    def used(self, kind: int) -> int:
        """What was used of this kind, here and elsewhere."""
        return quota_limits.used(self.here, kind) + quota_limits.used(self.elsewhere, kind)

    def refusal(self, kinds: Collection[int]) -> str:
        """The quota that refuses one more of something, if one of these kinds is used up; "" if none does."""
        for quota in self.quotas.values():
            for kind, most in quota.most.items():
                if kind in kinds and self.used(kind) >= most:
                    return quota.rule
        return ""

    def look(self) -> None:
        """Find out how many bytes are left, after a quota or a number has changed."""
        self.room = _ENDLESS
        self.cut_by = ""
        for quota in self.quotas.values():
            for kind, most in quota.most.items():
                if kind in OF_BYTES:
                    left = most - self.used(kind)
                    if left > 0:
                        self.room = min(self.room, left)
                    elif quota.cuts:
                        self.cut_by = self.cut_by or quota.rule


OF_BYTES: Final = frozenset((FROM_GUEST, TO_GUEST, BOTH_WAYS))
OF_FLOWS: Final = frozenset((FROM_GUEST, TO_GUEST, BOTH_WAYS, CONNECTIONS))
"""What refuses a new flow."""
OF_QUESTIONS: Final = frozenset((QUESTIONS,))


class Meter:
    """The accounts of one flow: whether they allow it, and what counts it and its bytes in them."""

    def __init__(self, quotas: "Quotas", accounts: Sequence[Account]) -> None:
        self._quotas = quotas
        self._accounts = accounts

    def refusal(self) -> str:
        """The quota that refuses the flow, which is new; "" if none does."""
        return _refusal(self._accounts, OF_FLOWS)

    def opened(self) -> None:
        """The flow, which is new, is open."""
        for account in self._accounts:
            account.here[CONNECTIONS] += 1

    def carried(self, from_guest: int, to_guest: int) -> None:
        """The flow has carried this many bytes of payload."""
        for account in self._accounts:
            here = account.here
            here[FROM_GUEST] += from_guest
            here[TO_GUEST] += to_guest
            account.room -= from_guest + to_guest
            if account.room <= 0:
                self._quotas.look(account)

    @property
    def cut_by(self) -> str:
        """The quota that ends the flow, "" if it may go on."""
        for account in self._accounts:
            if account.cut_by:
                return account.cut_by
        return ""


class Quotas:
    """All quotas and accounts of one worker. Call ask() only while it is ``on``."""

    def __init__(self, addresses_of: Callable[[int], Collection[int]], station_of: StationOf) -> None:
        """addresses_of, station_of: see pipeline.engines.stations."""
        self.on = False
        self.cuts = False
        """Whether bytes of an account are used up since take_cuts(), so that open flows may have to end."""
        self._addresses_of = addresses_of
        self._station_of = station_of
        self._quotas: list[Quota] = []
        self._accounts: dict[tuple[str, str], Account] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    def replace(self, configs: Sequence[QuotaConfig]) -> None:
        """Follow these quotas from now on. What was counted stays. The caller renews the meters of flows."""
        self._quotas = [Quota(config, index) for index, config in enumerate(configs)]
        self.on = bool(self._quotas)
        for account in self._accounts.values():
            account.quotas.clear()
        for account in list(self._accounts.values()):
            if account.guest:
                self._find(account.guest, account.addr)
        for account in self._accounts.values():
            self.look(account)

    # --- flows and questions --------------------------------------------------------------

    def meter(self, guest: int, addr: int) -> Meter | None:
        """What counts a flow of the guest with this number and address; None if no quota fits the guest.

        For a new flow, ask Meter.refusal() before it opens, and call Meter.opened() when it is open.
        """
        accounts = self._find(guest, addr) if self.on else ()
        return Meter(self, accounts) if accounts else None

    def ask(self, guest: int, addr: int) -> str:
        """Count a question of the guest. Returns the quota that refuses it; it does not count then."""
        accounts = self._find(guest, addr)
        refused = _refusal(accounts, OF_QUESTIONS)
        if not refused:
            for account in accounts:
                account.here[QUESTIONS] += 1
        return refused

    def _find(self, guest: int, addr: int) -> list[Account]:
        addrs = self._addresses_of(addr)
        station = self._station_of(addr)
        found: list[Account] = []
        for quota in self._quotas:
            subject = quota.subject(guest, addrs, station)
            if not subject:
                continue
            account = self._account(quota.per, subject)
            if not account.guest:
                account.guest, account.addr = guest, addr
            if quota.index not in account.quotas:
                account.quotas[quota.index] = quota
                self.look(account)
            if account not in found:
                found.append(account)
        return found

    def _account(self, per: str, subject: str) -> Account:
        key = (per, subject)
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account(per, subject, 0, 0)
        return account

    # --- bytes that are used up ---------------------------------------------------------------

    def look(self, account: Account) -> None:
        """See how many bytes an account has left."""
        account.look()
        if account.cut_by:
            self.cuts = True

    def take_cuts(self) -> bool:
        """Whether open flows may have to end. The caller asks each flow's meter."""
        found, self.cuts = self.cuts, False
        return found

    # --- the supervisor -------------------------------------------------------------------

    def rows(self) -> list[Row]:
        """What was counted here, of each account."""
        return [
            (account.per, account.subject, list(account.here), list(account.quotas))
            for account in self._accounts.values()
        ]

    def learn(self, per: str, subject: str, elsewhere: Sums) -> None:
        """Others have counted this for an account."""
        account = self._account(per, subject)
        account.elsewhere = list(elsewhere)
        self.look(account)

    def forget(self, gone: Iterable[tuple[str, str]]) -> None:
        """These accounts are over. Their guests are gone."""
        for key in gone:
            self._accounts.pop(key, None)


def _refusal(accounts: Sequence[Account], kinds: Collection[int]) -> str:
    for account in accounts:
        refused = account.refusal(kinds)
        if refused:
            return refused
    return ""
