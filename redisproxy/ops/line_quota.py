"""Limits the log lines about each tenant, and about each address that is not logged in.

Owns the counts, in bounded memory, and reports how many lines were left out. A common limit for all
would let one noisy client hide lines about the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ..tenants.login_backoff import source

#: Seconds in one period.
PERIOD = 10.0
#: Lines about one tenant in a period.
TENANT_LINES = 50
#: Lines in a period about one address of clients that are not logged in, as
#: `tenants.login_backoff.source` groups addresses, and about all these addresses together. The
#: first line about an address is written even beyond the second limit, so that no address goes
#: unnoticed.
ADDRESS_LINES = 20
UNAUTHENTICATED_LINES = 200
#: Addresses that are counted separately in a period. No line about further ones is written, because
#: a client can have any number of IPv6 addresses.
ADDRESSES = 1000


@dataclass(slots=True)
class _Count:
    """Lines about one tenant or address in this period."""

    written: int = 0
    left_out: int = 0

    def admit(self, lines: int) -> bool:
        """Counts one more line. Returns whether it is within the limit, which is `lines`."""
        if self.written < lines:
            self.written += 1
            return True
        self.left_out += 1
        return False


@dataclass(frozen=True, slots=True)
class LeftOut:
    """How many lines were left out in a period that has ended.

    namespace: None for lines about clients that are not logged in.
    most: the address that most of those lines were about; empty if there were too many addresses.
    """

    lines: int
    namespace: str | None = None
    most: str = ""


class LineQuota:
    """Counts lines and decides which are written.

    report: called at the end of a period, once for each tenant whose lines were left out, and once
        for all clients that are not logged in.
    processes: how many share the quota. Each has its part, rounded up.
    """

    def __init__(self, clock: IReactorTime, report: Callable[[LeftOut], None], processes: int = 1) -> None:
        self._clock = clock
        self._report = report
        self._processes = processes
        self._began = 0.0
        self._tenants: dict[str, _Count] = {}
        self._addresses: dict[str, _Count] = {}
        self._unauthenticated = _Count()
        # Lines about addresses beyond ADDRESSES.
        self._nameless = 0
        # The timer for the end of the period. It runs only once a line was left out.
        self._timer: IDelayedCall | None = None

    def allows(self, namespace: str | None, peer: str) -> bool:
        """Whether one more line may be written.

        namespace: None if the client is not logged in; peer: address and port, as
        `net.addresses.shown_address` shows them.
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
        """Reports now what was left out. Called when no more lines follow."""
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
