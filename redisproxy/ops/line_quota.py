"""How many lines of the log each tenant may fill, and each address without a log-in.

Owns the counts, in bounded memory, and tells how many lines were left out. A bound for all together
would let one noisy client hide what the log has to tell of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ..tenants.login_backoff import source

#: Seconds of one period.
PERIOD = 10.0
#: Lines about one tenant in a period.
TENANT_LINES = 50
#: The same about one address, as `tenants.login_backoff.source` has it, of clients that are not
#: logged in; and about all of these addresses together. The first line about an address is written
#: past that: it must not go unnoticed.
ADDRESS_LINES = 20
UNAUTHENTICATED_LINES = 200
#: Addresses that are told apart in a period. Nothing is written about further ones: IPv6 has as
#: many as a client likes.
ADDRESSES = 1000


@dataclass(slots=True)
class _Count:
    """Of one tenant or address, in the period."""

    written: int = 0
    left_out: int = 0

    def admit(self, lines: int) -> bool:
        """Whether one line more is within so many."""
        if self.written < lines:
            self.written += 1
            return True
        self.left_out += 1
        return False


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What was left out in a period that is over. namespace: None for all that was about clients
    without a log-in; most: the address that most of that was about, as far as addresses were told
    apart.
    """

    lines: int
    namespace: str | None = None
    most: str = ""


class LineQuota:
    """Counts lines.

    report: called when a period is over, once for each tenant of which lines were left out;
    processes: how many share the quota.
    """

    def __init__(self, clock: IReactorTime, report: Callable[[LeftOut], None], processes: int = 1) -> None:
        self._clock = clock
        self._report = report
        self._processes = processes
        self._began = 0.0
        self._tenants: dict[str, _Count] = {}
        self._addresses: dict[str, _Count] = {}
        self._unauthenticated = _Count()
        # Lines about addresses past ADDRESSES.
        self._nameless = 0
        # The period's end, once a line was left out: else nobody waits for it.
        self._timer: IDelayedCall | None = None

    def allows(self, namespace: str | None, peer: str) -> bool:
        """Whether one line more may be written. namespace: None where the client is not logged in;
        peer: its address and port, as `net.addresses.shown_address` shows them.
        """
        now = self._clock.seconds()
        if not self._began <= now < self._began + PERIOD:
            self._end_period()
            self._began = now
        if self._allows(namespace, peer):
            return True
        if self._timer is None:
            self._timer = self._clock.callLater(self._began + PERIOD - now, self._end_period)
        return False

    def stop(self) -> None:
        """Nothing more will be asked: what was left out is reported now."""
        self._end_period()

    def _per_process(self, lines: int) -> int:
        return -(-lines // self._processes)

    def _allows(self, namespace: str | None, peer: str) -> bool:
        if namespace is not None:
            return self._tenants.setdefault(namespace, _Count()).admit(self._per_process(TENANT_LINES))
        address = source(peer.rpartition(":")[0].strip("[]") or peer)
        count = self._addresses.get(address)
        if count is None:
            if len(self._addresses) >= ADDRESSES:
                self._nameless += 1
                return False
            self._addresses[address] = _Count(written=1)
            self._unauthenticated.written += 1
            return True
        if self._unauthenticated.written >= self._per_process(UNAUTHENTICATED_LINES):
            count.left_out += 1
            return False
        if not count.admit(self._per_process(ADDRESS_LINES)):
            return False
        self._unauthenticated.written += 1
        return True

    def _end_period(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        tenants, self._tenants = self._tenants, {}
        addresses, self._addresses = self._addresses, {}
        nameless, self._nameless = self._nameless, 0
        self._unauthenticated = _Count()
        for namespace, count in tenants.items():
            if count.left_out:
                self._report(LeftOut(count.left_out, namespace))
        noisy = {address: count.left_out for address, count in addresses.items() if count.left_out}
        if noisy or nameless:
            most = max(noisy, key=lambda address: noisy[address], default="")
            self._report(LeftOut(sum(noisy.values()) + nameless, None, most))
