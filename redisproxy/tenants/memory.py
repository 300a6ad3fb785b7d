"""The memory that the proxy uses for clients: one account for each tenant, and one for all clients
without a password.

Owns the sums, and the decision who pays when they reach the bound. A `Usage` is charged only where
bytes really pile up, so a plain command costs nothing here. While the sum of all accounts is below
`FREE` of the limit, every tenant may use as much as it needs. At that bound the largest account
pays first. If its largest session is the one that grows, and can stop growing, the session stops.
Otherwise the session is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .. import bounds, probes

#: The part of the limit that clients may use together. The rest is for the proxy itself, for one
#: more read of each socket, and for what the allocator does not give back.
FREE = 0.6
#: The part of that at which clients that stopped go on.
GO_ON = 0.9
#: The account of clients that are not logged in.
NOBODY = ""


class User(Protocol):
    """The session that a Usage belongs to."""

    def memory_full(self) -> bool:
        """Stops whatever makes the usage grow. Returns False if that is impossible now.

        It is impossible if other sessions wait for replies behind those of this session.
        """

    def memory_free(self) -> None:
        """Goes on, after `memory_full`."""

    def memory_drained(self) -> None:
        """Runs commands again, after `memory_full`: only these use memory still."""

    @property
    def bytes_unread(self) -> int:
        """A number that changes while the client reads, even if that frees no memory yet."""

    def close_for_memory(self) -> None:
        """Closes the client, because there is no memory for its session."""


class Usage:
    """The memory that one session uses. user: the session.

    Each kind is set as a whole, in bytes. What costs a session little is not charged: the callers
    leave small sizes out, see HELD_BYTES in `bounds`.
    """

    __slots__ = (
        "_backlog",
        "_commands",
        "_half",
        "_kernel",
        "_memory",
        "_queue",
        "_state",
        "_unsent",
        "_waiting",
        "account",
        "closing",
        "freed",
        "size",
        "stopped",
        "user",
    )

    def __init__(self, user: User) -> None:
        self.user: User | None = user
        self._memory: Memory | None = None
        #: the tenant's namespace
        self.account = NOBODY
        self._backlog = self._queue = self._commands = 0
        self._half = self._waiting = self._state = self._unsent = self._kernel = 0
        #: all of it, in bytes
        self.size = 0
        #: bytes that were given back so far, which shows progress
        self.freed = 0
        #: whether the session waits for memory
        self.stopped = False
        #: whether the session is closed soon, because it has to pay
        self.closing = False

    def __repr__(self) -> str:
        kinds = ("backlog", "queue", "commands", "half", "waiting", "state", "unsent", "kernel")
        return f"<Usage {' '.join(f'{kind}={size}' for kind in kinds if (size := getattr(self, f'_{kind}')))}>"

    def belongs_to(self, memory: Memory, account: str) -> None:
        """Charges this account from now on. account: a namespace, or NOBODY."""
        size = self.size
        if size and self._memory is not None:
            self.size = 0
            self._memory.add(self, -size)
        self._memory, self.account, self.size = memory, account, size
        if size:
            memory.add(self, size)

    @property
    def outgoing(self) -> int:
        """The bytes of what the client will get: all but its commands."""
        return self._backlog + self._queue

    def backlog(self, size: int) -> None:
        """Sets the bytes of replies that the client has not read."""
        before, self._backlog = self._backlog, size
        self._add(size - before)

    def queue(self, size: int) -> None:
        """Sets what the queue of pending replies and own answers costs, in bytes."""
        before, self._queue = self._queue, size
        self._add(size - before)

    def commands(self, size: int) -> None:
        """Sets the bytes of commands that wait to be read."""
        before, self._commands = self._commands, size
        self._add(size - before)

    def half(self, size: int) -> None:
        """Sets what a command costs that is not whole yet."""
        before, self._half = self._half, size
        self._add(size - before, stops=False)

    def waiting(self, size: int) -> None:
        """Sets what the words of a command cost that was read, and waits."""
        before, self._waiting = self._waiting, size
        self._add(size - before, stops=False)

    def state(self, size: int) -> None:
        """Sets what the session's subscriptions and names cost."""
        before, self._state = self._state, size
        self._add(size - before, stops=False)

    def unsent(self, size: int) -> None:
        """Sets the bytes of commands that Redis has not read from the dedicated connection."""
        before, self._unsent = self._unsent, size
        self._add(size - before)

    def kernel(self, size: int) -> None:
        """Sets what the kernel keeps for the session's sockets."""
        before, self._kernel = self._kernel, size
        self._add(size - before)

    def _add(self, size: int, stops: bool = True) -> None:
        self.size += size
        if size < 0:
            self.freed -= size
        if self._memory is not None and size:
            self._memory.add(self, size, stops)

    def end(self) -> None:
        """The client is gone: gives everything back."""
        self.user = None
        if self.size:
            self._backlog = self._queue = self._commands = 0
            self._half = self._waiting = self._state = self._unsent = self._kernel = 0
            self._add(-self.size)
        if self._memory is not None and (self.stopped or self.closing):
            self._memory.forget(self)
        self._memory = None


class Account:
    """The memory of one tenant's sessions. size: in bytes; usages: those that are not empty."""

    __slots__ = ("size", "usages")

    def __init__(self) -> None:
        self.size = 0
        # A dict keeps the order, so the same session is found each time.
        self.usages: dict[Usage, None] = {}


class Memory:
    """The memory of one process.

    limit: in bytes, of which clients may use FREE; None: no limit. call_soon: calls a function in a
    later turn, because a session must not be closed in the middle of its own work.
    """

    def __init__(
        self, limit: int | None = None, call_soon: Callable[[Callable[[], None]], object] = lambda call: call()
    ) -> None:
        #: what clients may use together, in bytes
        self.bound = float("inf") if limit is None else int(limit * FREE)
        #: what they use, in bytes
        self.size = 0
        #: by namespace; only accounts that are not empty
        self.accounts: dict[str, Account] = {}
        #: usages of sessions that wait for memory
        self.stopped: dict[Usage, None] = {}
        # Usages of sessions that are closed soon.
        self._closing: dict[Usage, None] = {}
        #: called when a session has to wait for memory
        self.on_stopped: Callable[[], object] = lambda: None
        # At which size the growth of a session that has stopped is inspected again.
        self._look_again_at = 0
        self._call_soon = call_soon
        self._waking = False

    def of(self, namespace: str) -> int:
        """The bytes of a tenant's account."""
        account = self.accounts.get(namespace)
        return 0 if account is None else account.size

    def add(self, usage: Usage, size: int, stops: bool = True) -> None:
        """Adds bytes to a usage's account. size: negative: gives bytes back.

        stops: whether they come no more, or are given back, if the session stops.
        """
        if not size:
            return
        account = self.accounts.get(usage.account)
        if account is None:
            account = self.accounts[usage.account] = Account()
        account.size += size
        self.size += size
        if usage.size:
            account.usages[usage] = None
        else:
            account.usages.pop(usage, None)
        if not account.usages:
            del self.accounts[usage.account]
        if size > 0:
            # One that has stopped gets what was read already, in many small pieces perhaps. To look
            # at all sessions for each of these would take seconds.
            if self.size > self.bound and not (usage.stopped and self.size < self._look_again_at):
                self._look_again_at = self.size + bounds.READ_BYTES
                self._make_room(usage, stops)
            return
        self._look_again_at = min(self._look_again_at, self.size + bounds.READ_BYTES)
        if self.stopped and not self._waking and (not usage.outgoing or self.size <= self.bound * GO_ON):
            self._waking = True
            self._call_soon(self._go_on)

    def forget(self, usage: Usage) -> None:
        """The usage's client is gone."""
        usage.stopped = False
        self.stopped.pop(usage, None)
        self._closing.pop(usage, None)

    def _make_room(self, growing: Usage, stops: bool) -> None:
        """Stops or closes the largest session of the largest account.

        stops: whether the growing session can stop.
        """
        if self.size - sum(usage.size for usage in self._closing) <= self.bound:
            return  # there will be room soon
        account = max(self.accounts.values(), key=_stays)
        usages = [usage for usage in account.usages if not usage.closing]
        if not usages:
            return
        largest = max(usages, key=lambda usage: usage.size)
        if largest is growing and stops and largest.user is not None and largest.user.memory_full():
            probes.reached("session waits for memory")
            if not largest.stopped:
                largest.stopped = True
                self.stopped[largest] = None
                self.on_stopped()
            return
        self.close(largest)

    def close(self, usage: Usage) -> None:
        """Closes the session of this usage soon."""
        probes.reached("client is closed because the proxy has no memory for it")
        usage.closing = True
        self._closing[usage] = None
        self._call_soon(lambda: None if usage.user is None else usage.user.close_for_memory())

    def _go_on(self) -> None:
        """Lets sessions go on that wait for memory, while there is some."""
        self._waking = False
        for usage in list(self.stopped):
            if usage.user is None or not usage.stopped:
                continue  # it ended meanwhile
            if not usage.size or self.size <= self.bound * GO_ON:
                self.stopped.pop(usage, None)
                usage.stopped = False
                usage.user.memory_free()
            elif not usage.outgoing:
                usage.user.memory_drained()


def _stays(account: Account) -> int:
    """The bytes of an account without those of sessions that are closed soon."""
    return account.size - sum(usage.size for usage in account.usages if usage.closing)
