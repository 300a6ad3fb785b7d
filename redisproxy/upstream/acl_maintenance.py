"""Looks after the proxy's ACL users in Redis: that each has the present password alone, and that
none is left over.

Owns when Redis is asked, and how much at once. What has to go is decided in `policy.acl_users`; the
users themselves are made by `acl_users`. Everything is asked over the control connection, for which
log-ins wait as well, so it is asked piece by piece.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Set

from twisted.application import service
from twisted.internet import defer, task
from twisted.internet.interfaces import IReactorTime

from .. import messages
from ..ops.bugs import bug
from ..ops.log_once import LogOnce
from ..ops.logs import Log
from ..policy import acl
from ..policy.acl_users import Inventory
from ..resp.value import Answer, strings_of
from ..tenants.documents import ReadSummary
from ..tenants.model import Tenant
from .client import Commands, ControlError

#: Of several processes of one proxy, the one that does this.
PROCESS = 1
#: Seconds between two questions, at least.
PAUSE = 0.005
#: The pause after a question is this many times as long as the answer took: Redis does nothing else
#: meanwhile. ACL GETUSER of one user takes 1 ms of Redis's time, and 40 ms where the tenant has
#: subscribed to 10,000 patterns.
PAUSES = 20
#: Seconds, at most, of such a pause.
LONGEST_PAUSE = 5.0
#: Seconds until Redis is asked again after it gave no answer, or an error that passes.
RETRY = 5.0
#: Users that are removed at once: Redis looks at all its connections for each of them.
REMOVED_AT_ONCE = 50
#: Names in one line of the log.
NAMED = 10
#: The user in a line of CLIENT LIST. What a client can write into one, such as its name, has no
#: spaces.
_USER = re.compile(rb" user=(\S+)")


class AclMaintenanceService(service.Service):
    """Looks after the ACL users of the namespaces with one prefix, in one Redis.

    prefix: what the namespaces begin with; interval: seconds between two lists of all users, and
    for which another password goes on, see `Inventory`; removed: called with the tenant of each
    user that was removed.
    """

    name = "acl-users"
    _log = Log()

    def __init__(
        self,
        clock: IReactorTime,
        control: Commands,
        prefix: str,
        interval: float,
        removed: Callable[[Tenant], object],
    ) -> None:
        self._clock = clock
        self._control = control
        self._interval = interval
        self._removed = removed
        self._inventory = Inventory(prefix, interval)
        #: None: there is nothing to look after
        self._master_password: bytes | None = None
        #: names whose passwords are to be checked
        self._to_check: deque[str] = deque()
        self._list_at = 0.0
        #: whether there may be users to remove
        self._to_remove = False
        #: how many users were changed since the last line about it
        self._added = self._ended = 0
        #: what was asked last, and of what could not be asked what was logged
        self._question = ""
        self._denied = LogOnce(clock, quiet=math.inf)
        self._work: defer.Deferred[None] | None = None
        self._idle: defer.Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()
        self._work = defer.Deferred.fromCoroutine(self._run())
        self._work.addErrback(bug(self._log, "looking after the ACL users", defer.CancelledError))

    def stopService(self) -> None:
        super().stopService()
        if self._work is not None:
            self._work.cancel()

    def use(self, master_password: bytes | None) -> None:
        """Redis is connected, perhaps another one, or with another password. None: it has no users
        of ours.
        """
        self._master_password = master_password
        self._to_check.clear()
        self._list_at = self._clock.seconds()
        self._wake()

    def claim(self, tenants: Set[Tenant]) -> None:
        """These are all tenants from now on."""
        self._inventory.claim(tenants, self._clock.seconds())

    def take_read(self, summary: ReadSummary, began: float) -> None:
        """The source was read, and `claim` has had the tenants that follow. began: when that read
        began.
        """
        self._inventory.take_read(summary, began, self._clock.seconds())
        self._to_remove = True
        self._wake()

    # When.

    async def _run(self) -> None:
        while True:
            try:
                delay = await self._step()
            except ControlError as error:
                delay = RETRY
                if _is_denied(error):
                    self._report_denied(error)
                    # until the next read: the passwords may be looked after
                    self._to_remove = False
                    delay = PAUSE if self._question == "CLIENT LIST" else self._interval
            if delay is None or delay > 0:
                await self._rest(delay)

    async def _step(self) -> float | None:
        """Does one piece of what there is to do. Returns the seconds until there is more, None:
        until `_wake`.
        """
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
        """Redis's answer. Raises ControlError."""
        self._question = f"{command} {subcommand}"
        return await self._control.ask(command, subcommand, *arguments)

    async def _pause(self, began: float) -> None:
        """Redis was asked at `began` and has answered: leaves it to others for a while."""
        took = self._clock.seconds() - began
        await task.deferLater(self._clock, min(max(PAUSE, took * PAUSES), LONGEST_PAUSE))

    async def _rest(self, seconds: float | None) -> None:
        self._idle = defer.Deferred()
        timer = None if seconds is None else self._clock.callLater(seconds, self._wake)
        try:
            await self._idle
        finally:
            self._idle = None
            if timer is not None and timer.active():
                timer.cancel()

    def _wake(self) -> None:
        if self._idle is not None and not self._idle.called:
            self._idle.callback(None)

    # What.

    async def _list(self) -> None:
        """Lists all users, to be checked one by one."""
        began = self._clock.seconds()
        names = _strings(await self._ask("ACL", "USERS"))
        self._list_at = began + self._interval
        ours = self._inventory.listed([name.decode("utf-8", "replace") for name in names], self._clock.seconds())
        self._to_check = deque(ours)
        await self._pause(began)

    async def _check(self, name: str) -> None:
        """Has a user get the present password, or lose all others."""
        began = self._clock.seconds()
        try:
            hashes = _passwords(await self._ask("ACL", "GETUSER", name))
            if self._master_password is None:
                return
            own = acl.hashed(acl.password(self._master_password, name))
            rules = self._inventory.password_rules(name, hashes, own, self._clock.seconds())
            if rules:
                await self._set_rules(name, rules)
        except ControlError:
            self._to_check.append(name)  # behind the others: it may be this one's fault
            raise
        await self._pause(began)

    async def _set_rules(self, name: str, rules: list[bytes]) -> None:
        try:
            await self._ask("ACL", "SETUSER", name, *rules)
        except ControlError as error:
            if _is_denied(error) or not str(error).startswith("ERR "):
                raise
            # Somebody else has changed it meanwhile: it is checked again after the next list.
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
                # Without a pause, and none that a tenant has claimed meanwhile.
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
            if tenant is not None:  # the names are of ours alone
                self._removed(tenant)
        shown = ", ".join(names[:NAMED]) + (" …" if len(names) > NAMED else "")
        self._log.write(messages.USERS_REMOVED, count=len(names), names=shown)
        await self._pause(began)

    async def _used(self) -> set[str]:
        """The users of all connections to Redis. Raises ControlError."""
        [listed] = _strings([await self._ask("CLIENT", "LIST")])
        return {name.decode("utf-8", "replace") for name in _USER.findall(listed)}

    # What is logged of it.

    def _report_changes(self) -> None:
        if self._added:
            self._log.write(messages.USERS_REKEYED, count=self._added, seconds=self._interval)
        if self._ended:
            self._log.write(messages.USERS_REKEYED_ALONE, count=self._ended)
        self._added = self._ended = 0

    def _report_denied(self, error: ControlError) -> None:
        """Logs once what cannot be asked. Of the error its first word: the rest may name a
        password's hash.
        """
        code = str(error).partition(" ")[0]
        if self._denied.due(f"{self._question} {code}"):
            self._log.write(messages.USERS_UNKEPT, question=self._question, error=code)


def _strings(answer: Answer) -> list[bytes]:
    """A list of strings. Raises ControlError for any other answer."""
    try:
        return strings_of(answer)
    except ValueError:
        raise ControlError(messages.REDIS_ODD_ANSWER()) from None


def _passwords(user: Answer) -> list[bytes]:
    """The hashes of a user's passwords, from an answer to ACL GETUSER. Raises ControlError for
    another answer.
    """
    if not isinstance(user, list):
        return []  # there is no such user
    found = [value for name, value in zip(user[::2], user[1::2], strict=False) if name == b"passwords"]
    return _strings(found[0]) if found else []


def _is_denied(error: ControlError) -> bool:
    """Whether Redis has no such command, or the master's user no right to it. Other errors pass."""
    return str(error).lower().startswith(("noperm", "err unknown"))
