"""Maintains the proxy's ACL users in Redis.

Each user gets the present password, and loses all others. A user without a tenant is removed.

Owns when Redis is asked, and how much at once. `policy.acl_users` decides what has to go;
`acl_users` creates the users. Log-ins wait for the same control connection, so the service asks in
small pieces.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Set

from twisted.internet import task
from twisted.internet.interfaces import IReactorTime

from .. import messages
from ..ops.log_once import LogOnce
from ..policy import acl
from ..policy.acl_users import Inventory
from ..resp.value import Answer, strings_of
from ..tenants.documents import ReadSummary
from ..tenants.model import Tenant
from .chore import Chore
from .client import Commands, ControlError

#: The number of the process that does this work, where a proxy has several processes.
PROCESS = 1
#: The shortest pause between two questions, in seconds.
PAUSE = 0.005
#: A pause is so many times as long as the answer took, because Redis does nothing else meanwhile.
#: ACL GETUSER of one user takes 1 ms of Redis's time, and more with many patterns.
PAUSES = 20
#: The longest pause, in seconds.
LONGEST_PAUSE = 5.0
#: Seconds until Redis is asked again after it gave no answer, or an error that may pass.
RETRY = 5.0
#: Users that one ACL DELUSER removes. Redis looks through all its connections for each of them.
REMOVED_AT_ONCE = 50
#: Names in one line of the log.
NAMED = 10
#: The user in a line of CLIENT LIST. A client cannot forge it: names and other values that a client
#: sets contain no spaces.
_USER = re.compile(rb" user=(\S+)")


class AclMaintenanceService(Chore):
    """Maintains the ACL users of all namespaces with one prefix, in one Redis.

    prefix: the beginning of the namespaces' names; interval: seconds between two lists of all
    users, and for which a former password stays valid (see `Inventory`); removed: called with the
    tenant of each user that was removed; seen: called with the tenant of each user that was looked
    at, and the answer to ACL GETUSER.
    """

    name = "acl-users"
    doing = "maintaining the ACL users"

    def __init__(
        self,
        clock: IReactorTime,
        control: Commands,
        prefix: str,
        interval: float,
        removed: Callable[[Tenant], object],
        seen: Callable[[Tenant, Answer], object] = lambda *_: None,
    ) -> None:
        super().__init__(clock)
        self._control = control
        self._interval = interval
        self._removed = removed
        self._seen = seen
        self._inventory = Inventory(prefix, interval)
        #: None if there are no users to maintain
        self._master_password: bytes | None = None
        #: names of users whose passwords have to be checked
        self._to_check: deque[str] = deque()
        self._list_at = 0.0
        #: whether there may be users to remove
        self._to_remove = False
        #: users that were changed since the last log line about changes
        self._added = self._ended = 0
        #: the latest question; and which questions were logged as denied
        self._question = ""
        self._denied = LogOnce(clock, quiet=math.inf)

    def use(self, master_password: bytes | None) -> None:
        """The control connection is there, perhaps to another Redis or with another master
        password.

        master_password: None if this Redis has no users of the proxy.
        """
        self._master_password = master_password
        self._to_check.clear()
        self._list_at = self._clock.seconds()
        self._wake()

    def claim(self, tenants: Set[Tenant]) -> None:
        """Takes the set of all tenants, as it is from now on."""
        self._inventory.claim(tenants, self._clock.seconds())

    def take_read(self, summary: ReadSummary, began: float) -> None:
        """Takes the result of a read of the source. `claim` has had the tenants that follow from
        it.

        began: when that read began, in the clock's seconds.
        """
        self._inventory.take_read(summary, began, self._clock.seconds())
        self._to_remove = True
        self._wake()

    # When Redis is asked.

    async def _run(self) -> None:
        while True:
            try:
                delay = await self._step()
            except ControlError as error:
                delay = RETRY
                if _is_denied(error):
                    self._report_denied(error)
                    # Removes no users until the next read. Passwords can still be maintained.
                    self._to_remove = False
                    delay = PAUSE if self._question == "CLIENT LIST" else self._interval
            if delay is None or delay > 0:
                await self._rest(delay)

    async def _step(self) -> float | None:
        """Does one piece of work. Returns the seconds until there is more; None: until `_wake`."""
        if self._master_password is None:
            return None
        if self._to_remove:
            self._to_remove = False
            await self._remove()
        elif self._to_check:
            await self._check(self._to_check.popleft())
        else:
            self._report_changes()
            now = self._clock.seconds()
            if now < self._list_at:
                self._to_check.extend(self._inventory.due(now))
                if not self._to_check:
                    due = self._inventory.next_due()
                    return (self._list_at if due is None else min(self._list_at, due)) - now
            else:
                await self._list()
        return 0.0

    async def _ask(self, command: str, subcommand: str, *arguments: bytes | str) -> Answer:
        """Returns Redis's answer. Raises ControlError."""
        self._question = f"{command} {subcommand}"
        return await self._control.ask(command, subcommand, *arguments)

    async def _pause(self, began: float) -> None:
        """Leaves Redis to others for a while, after it answered a question that was sent at
        `began`.
        """
        took = self._clock.seconds() - began
        await task.deferLater(self._clock, min(max(PAUSE, took * PAUSES), LONGEST_PAUSE))

    # What Redis is asked.

    async def _list(self) -> None:
        """Lists all users, to check them one by one."""
        began = self._clock.seconds()
        names = _strings(await self._ask("ACL", "USERS"))
        self._list_at = began + self._interval
        ours = self._inventory.listed([name.decode("utf-8", "replace") for name in names], self._clock.seconds())
        self._to_check = deque(ours)
        await self._pause(began)

    async def _check(self, name: str) -> None:
        """Adds the present password to a user, or removes all its other passwords."""
        began = self._clock.seconds()
        try:
            user = await self._ask("ACL", "GETUSER", name)
            hashes = _passwords(user)
            if self._master_password is None:
                return
            own = acl.hashed(acl.password(self._master_password, name))
            tenant = acl.owner(name)
            if tenant is not None:  # always true: the names are the proxy's own
                self._seen(tenant, user)
            rules = self._inventory.password_rules(name, hashes, own, self._clock.seconds())
            if rules:
                await self._set_rules(name, rules)
        except ControlError:
            self._to_check.append(name)  # to the end of the queue: this user may be the cause
            raise
        await self._pause(began)

    async def _set_rules(self, name: str, rules: list[bytes]) -> None:
        try:
            await self._ask("ACL", "SETUSER", name, *rules)
        except ControlError as error:
            if _is_denied(error) or not str(error).startswith("ERR "):
                raise
            # Somebody else changed the user meanwhile. It is checked again after the next list.
            self._inventory.settled(name)
            return
        if rules[0].startswith(b"#"):
            self._inventory.settled(name)
            self._ended += 1
        else:
            self._added += 1

    async def _remove(self) -> None:
        """Removes users that nobody needs."""
        began = self._clock.seconds()
        try:
            names, unless_used = self._inventory.removable()
            if not names and unless_used:
                used = await self._used()
                # Asked again: tenants may have claimed some users while Redis answered. No pause
                # before DELUSER: meanwhile somebody could log in as such a user.
                names = [name for name in self._inventory.removable()[1] if name not in used]
            if not names:
                return
            self._to_remove = True  # there may be more
            names = names[:REMOVED_AT_ONCE]
            await self._ask("ACL", "DELUSER", *names)
        except ControlError:
            self._to_remove = True
            raise
        self._inventory.removed(names)
        for tenant in map(acl.owner, names):
            if tenant is not None:  # always true: the names are the proxy's own
                self._removed(tenant)
        shown = ", ".join(names[:NAMED]) + (" …" if len(names) > NAMED else "")
        self._log.write(messages.USERS_REMOVED, count=len(names), names=shown)
        await self._pause(began)

    async def _used(self) -> set[str]:
        """Returns the users of all connections to Redis. Raises ControlError."""
        [listed] = _strings([await self._ask("CLIENT", "LIST")])
        return {name.decode("utf-8", "replace") for name in _USER.findall(listed)}

    # What is logged.

    def _report_changes(self) -> None:
        if self._added:
            self._log.write(messages.USERS_REKEYED, count=self._added, seconds=self._interval)
        if self._ended:
            self._log.write(messages.USERS_REKEYED_ALONE, count=self._ended)
        self._added = self._ended = 0

    def _report_denied(self, error: ControlError) -> None:
        """Logs once what Redis refuses to answer. Logs only the error's first word: the rest may
        contain the hash of a password.
        """
        code = str(error).partition(" ")[0]
        if self._denied.due(f"{self._question} {code}"):
            self._log.write(messages.USERS_UNKEPT, question=self._question, error=code)


def _strings(answer: Answer) -> list[bytes]:
    """Returns a list of strings. Raises ControlError for any other answer."""
    try:
        return strings_of(answer)
    except ValueError:
        raise ControlError(messages.REDIS_ODD_ANSWER()) from None


def _passwords(user: Answer) -> list[bytes]:
    """Returns the hashes of a user's passwords, from the answer to ACL GETUSER; empty if there is
    no such user. Raises ControlError for another answer.
    """
    if not isinstance(user, list):
        return []  # there is no such user
    found = [value for name, value in zip(user[::2], user[1::2], strict=False) if name == b"passwords"]
    return _strings(found[0]) if found else []


def _is_denied(error: ControlError) -> bool:
    """Whether Redis lacks the command, or the master's user has no right to it. All other errors
    may pass.
    """
    return str(error).lower().startswith(("noperm", "err unknown"))
