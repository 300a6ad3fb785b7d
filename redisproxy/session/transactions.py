"""The bytes in open transactions: what clients have sent since MULTI, and Redis keeps until EXEC.

Owns the sum for each tenant, in one process, and the refusal past the limit. A transaction that is
sent in one piece has no state here: it is bounded by what is read at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import messages, probes
from ..resp.framing import HEADED, OVERSIZE, REFUSED, STREAM

if TYPE_CHECKING:
    from .session import Session

#: They end a transaction, or the session.
_ENDS = frozenset((b"EXEC", b"DISCARD", b"RESET", b"QUIT"))


class Transactions:
    """The open transactions of one tenant. size: their bytes."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0

    def begin(self) -> Transaction:
        """A MULTI is sent."""
        return Transaction(self)


class Transaction:
    """One open transaction."""

    __slots__ = ("_all", "_announced", "_size", "failed")

    def __init__(self, all_of_tenant: Transactions) -> None:
        self._all = all_of_tenant
        self._size = 0
        # Bytes that count already, and were not sent yet.
        self._announced = 0
        #: whether the limit was reached, so that EXEC will fail
        self.failed = False

    def fits(self, size: int, limit: int) -> bool:
        """Whether so many bytes more are within the limit of all transactions. 0: no limit."""
        return not limit or self._all.size + size <= limit

    def add(self, size: int, announced: int = 0) -> None:
        """So many bytes are sent.

        announced: how many follow. They count at once, because others begin large commands, too.
        """
        known = min(size, self._announced)
        self._announced += announced - known
        self._size += size + announced - known
        self._all.size += size + announced - known

    def end(self) -> None:
        """Redis keeps nothing of it any more."""
        self._all.size -= self._size
        self._size = self._announced = 0


def takes(session: Session, kind: int, what: bytes | list[bytes], count: int) -> bool:
    """Counts commands that the session has read inside MULTI, and is about to run.

    Returns False if they would exceed the limit, or others did before: then they are answered with
    the error, and EXEC fails. The rest of a command that is sent in part always passes: Redis must
    get its end.

    kind, what, count: see `resp.framing`.
    """
    transaction = session.transaction
    if transaction is None or kind in (REFUSED, OVERSIZE):
        return True
    if isinstance(what, list):
        if what[0].upper() in _ENDS:
            return True
        size = sum(map(len, what))
    else:
        size = len(what)
    if kind == STREAM and not count:
        transaction.add(size)
        return True
    announced = session.scanner.argument_left if kind in (STREAM, HEADED) else 0
    if not transaction.failed and transaction.fits(size + announced, session.policy.limits.transaction):
        transaction.add(size, announced)
        return True
    probes.reached("open transactions of a tenant reach their limit")
    if kind in (STREAM, HEADED):
        session.streaming = False
        session.scanner.skip()
    _refuse(session, transaction, count)
    return False


def _refuse(session: Session, transaction: Transaction, count: int) -> None:
    error = messages.TRANSACTION_TOO_LARGE.reply(most=session.policy.limits.transaction)
    session.commands += count
    if not transaction.failed:
        transaction.failed = True
        session.refuse(error)
        count -= 1
    session.refused += count
    for _ in range(count):
        session.answer(error)
    session.work.use(count)
