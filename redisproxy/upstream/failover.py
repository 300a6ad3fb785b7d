"""Decides which server is the master that tenants' commands go to.

`backend` acts on that decision. If the master secret names sentinels, the proxy follows them. With
or without sentinels, the proxy finds out when a former master has become a replica.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from twisted.application import service
from twisted.internet import defer, task
from twisted.internet.interfaces import IDelayedCall

from .. import messages
from ..net.reactor import IConnectingReactor
from ..ops.bugs import bug
from ..ops.log_once import Condition
from ..ops.logs import Log
from ..ops.retry import Backoff
from ..policy.probing import Refusal, Server, refusal
from ..printable import shown_error
from ..resp.value import ErrorReply
from ..tenants.model import BackendAddress
from .client import ControlError, ReplyError
from .control import ControlService
from .endpoint import endpoint_for, why
from .probe import calls_itself_replica
from .sentinel import LASTING, Answer, NotYet, Sentinel, ask_all, latest

#: Seconds between two rounds of questions to the sentinels. A failover is noticed within that time.
EVERY = 1.0
#: The shortest time between two role checks, in seconds.
DOUBT = 1.0
#: The delay between two role checks while Redis stays a replica.
BACKOFF = Backoff(DOUBT, 10.0)


class MasterService(service.Service):
    """Decides which server is used. For connect_timeout and ca_file see `endpoint.endpoint_for`.

    control: says whether Redis is a replica; moved: called with Redis's address, and whether that
    is a failover; reconnect: called when the address leads to another server than before;
    is_master: called when Redis says that it is a master.
    """

    name = "master"
    _log = Log()

    def __init__(
        self,
        reactor: IConnectingReactor,
        connect_timeout: float,
        ca_file: Path | None,
        control: ControlService,
        moved: Callable[[BackendAddress | None, bool], object],
        reconnect: Callable[[], object],
        is_master: Callable[[], object],
    ) -> None:
        self._reactor = reactor
        self._connect_timeout = connect_timeout
        self._ca_file = ca_file
        self._control = control
        self._moved = moved
        self._reconnect = reconnect
        self._on_master = is_master
        #: the address in the master secret
        self._configured: BackendAddress | None = None
        #: where Redis is; None if not known yet
        self.address: BackendAddress | None = None
        #: the address in the master secret, after its sentinels have said where the master is
        self._found_for: BackendAddress | None = None
        self._sentinels: list[Sentinel] = []
        #: when the sentinels were first asked, in the reactor's seconds
        self._began = 0.0
        self._looking: defer.Deferred[None] | None = None
        self._again = False
        self._timer: IDelayedCall | None = None
        # What is logged: rounds that found no master, and a master that is a replica.
        self._helpless = Condition(LASTING)
        self._replica = Condition()
        self._doubting: defer.Deferred[None] | None = None
        self._doubted = float("-inf")
        self._doubt_again: IDelayedCall | None = None
        control.lost = self.look

    @property
    def follows(self) -> bool:
        """Whether there is a master secret to follow."""
        return self._configured is not None

    @property
    def fault(self) -> messages.Text | None:
        """Why the sentinels give no usable master; None: there is no such fault."""
        return self._helpless.reason

    def startService(self) -> None:
        super().startService()
        if self._sentinels:
            self._look_in(0)

    def stopService(self) -> defer.Deferred[list[None]]:
        """Fires when the sentinels are disconnected."""
        super().stopService()
        for under_way in (self._looking, self._doubting):
            if under_way is not None:
                under_way.cancel()
        if self._doubt_again is not None and self._doubt_again.active():
            self._doubt_again.cancel()
        return self._leave_sentinels()

    def use(self, address: BackendAddress | None) -> None:
        """Follows this address, which the master secret has, from now on."""
        if address == self._configured:
            return
        before, self._configured = self._configured, address
        self._found_for = None
        self._leave_sentinels()
        self._helpless.over()
        if address is None or not address.sentinels:
            self._move(address, failover=False)
            return
        if self.address is not None and before is not None and before.master_name == address.master_name:
            # Only a password or the list of sentinels changed: Redis stays where it was, until the
            # sentinels say otherwise.
            self._found_for = address
            self._move(address.at(self.address.host, self.address.port), failover=False)
        for host, port in address.sentinels:
            at = address.asked_at(host, port)
            endpoint = partial(endpoint_for, self._reactor, at, self._connect_timeout, self._ca_file)
            self._sentinels.append(Sentinel(self._reactor, at, endpoint, address.master_name, self.look))
        self._began = self._reactor.seconds()
        self._look_in(0)

    def on_server(self, server: Server) -> None:
        """The control connection has probed a server, perhaps another one than before."""
        if server.replica:
            self.doubt()
        else:
            self._is_master()

    def _is_master(self) -> None:
        if self._replica.over():
            self._log.write(messages.MASTER_BACK, address=self._asked.shown)
        self._on_master()

    @property
    def _asked(self) -> BackendAddress:
        """The address of the Redis that the control connection has probed."""
        assert self.address is not None, "the control connection leads there"  # noqa: S101
        return self.address

    def _move(self, address: BackendAddress | None, failover: bool) -> None:
        """Moves to another address. failover: the former server is not expected to answer."""
        if address == self.address:
            return
        self.address = address
        self._replica.over()
        if self._doubting is not None:
            self._doubting.cancel()  # that role check was about the former server
        self._moved(address, failover)

    # Following the sentinels.

    def _leave_sentinels(self) -> defer.Deferred[list[None]]:
        self._stop_timer()
        sentinels, self._sentinels = self._sentinels, []
        return defer.gatherResults([sentinel.stop() for sentinel in sentinels], consumeErrors=True)

    def look(self) -> None:
        """Asks the sentinels now. If a round is under way, asks once more after it.

        Does nothing if there are no sentinels.
        """
        configured = self._configured
        if configured is None or not self._sentinels or not self.running:
            return
        if self._looking is not None:
            self._again = True
            return
        self._stop_timer()
        looking = self._looking = defer.Deferred.fromCoroutine(self._look(configured))
        looking.addErrback(bug(self._log, "looking for the master", defer.CancelledError))
        looking.addBoth(self._looked)

    def _looked(self, _: object) -> None:
        self._looking = None
        if not self.running or not self._sentinels:
            return
        if self._again:
            self._again = False
            # After a delay: whatever goes wrong, the sentinels must not be stormed.
            self._look_in(0.05)
            return
        self._look_in(EVERY)

    def _look_in(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self._reactor.callLater(seconds, self.look)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    async def _look(self, configured: BackendAddress) -> None:
        answers, complete = await self._ask_all()
        if configured is not self._configured:
            return
        if not complete and self._found_for is not configured and self._reactor.seconds() - self._began < LASTING:
            # The first sentinel that connects may have been cut off from the others. Each one that
            # connects later starts another round.
            return
        if not answers:
            return self._log_helpless(messages.SENTINELS_SILENT(name=configured.master_name))
        best = latest(answers)
        found = configured.at(best.host, best.port)
        if found != self.address:
            try:
                replica = await calls_itself_replica(self._reactor, found, self._connect_timeout, self._ca_file)
            except ReplyError as error:
                reply = error.reply
                if refusal(reply) is Refusal.PASSING and not _refuses_login(reply):
                    return self._log_helpless(
                        messages.SENTINELS_ROLE_UNKNOWN(
                            name=configured.master_name,
                            address=found.shown,
                            reason=messages.redis_error(shown_error(reply.text)),
                        )
                    )
                # The server is there. If it refuses more than this question, the pool reports why.
                replica = False
            except defer.CancelledError:
                raise
            except Exception as error:
                return self._log_helpless(
                    messages.SENTINELS_UNREACHABLE(name=configured.master_name, address=found.shown, reason=why(error))
                )
            if configured is not self._configured:
                return
            if replica:
                return self._log_helpless(messages.SENTINELS_REPLICA(name=configured.master_name, address=found.shown))
        if self._helpless.over():
            self._log.write(messages.SENTINELS_TELL, name=configured.master_name)
        before = self.address
        if found != before:
            failover = before is not None and self._found_for is configured
            if before is not None and failover:
                self._log.write(
                    messages.FAILOVER,
                    name=configured.master_name,
                    found=found.shown,
                    before=before.shown,
                )
            self._found_for = configured
            self._move(found, failover)

    async def _ask_all(self) -> tuple[list[Answer], bool]:
        """Returns the sentinels' answers, and False if some sentinels may still turn out to be
        reachable.
        """
        sentinels = list(self._sentinels)
        replies = await ask_all(sentinels)
        if sentinels != self._sentinels:
            return [], False  # these sentinels are not followed any more
        answers = []
        complete = True
        for sentinel, one in zip(sentinels, replies, strict=True):
            if isinstance(one, Answer):
                answers.append(one)
                self._log_sentinel(sentinel, None)
            else:
                complete = complete and not isinstance(one, NotYet)
                self._log_sentinel(sentinel, one.reason)
        return answers, complete

    def _log_sentinel(self, sentinel: Sentinel, reason: messages.Text | None) -> None:
        """Logs what is wrong with a sentinel, once. Another fault that replaces the first is logged
        after QUIET seconds.
        """
        if reason is None:
            if sentinel.condition.over():
                self._log.write(messages.SENTINEL_TELLS, sentinel=_shown(sentinel.address))
        elif sentinel.condition.fault(reason, self._reactor.seconds()):
            self._log.write(messages.SENTINEL_FAULT, sentinel=_shown(sentinel.address), reason=reason)

    def _log_helpless(self, reason: messages.Text) -> None:
        if not self._helpless.fault(reason, self._reactor.seconds()):
            return
        if self.address is None:
            self._log.write(messages.REDIS_NO_CONNECTION, reason=reason)
        else:
            self._log.write(messages.SENTINELS_HELPLESS, reason=reason, address=self.address.shown)

    # Finding out that Redis has become a replica.

    def doubt(self) -> None:
        """Starts a role check, because a reply, or Redis itself, says that Redis is a replica.

        A tenant can cause such replies, so there is at most one check in DOUBT seconds.
        """
        if not self.running or self._doubting is not None:
            return
        waiting = self._doubt_again is not None and self._doubt_again.active()
        wait = self._doubted + DOUBT - self._reactor.seconds()
        if wait > 0:
            if not waiting:
                self._doubt_again = self._reactor.callLater(wait, self.doubt)
            return
        self._doubted = self._reactor.seconds()
        self._doubting = defer.Deferred.fromCoroutine(self._resolve_doubt())
        self._doubting.addErrback(bug(self._log, "looking for the master", defer.CancelledError))
        self._doubting.addBoth(self._resolved)

    def _resolved(self, _: object) -> None:
        self._doubting = None

    async def _resolve_doubt(self) -> None:
        looks = 0
        while True:
            try:
                replica = await self._control.is_replica()
            except ControlError:
                if not self._control.connected:
                    return  # the next control connection finds out what Redis is
                await task.deferLater(self._reactor, DOUBT)  # for example, Redis is busy with a script
                continue
            if not replica:
                self._is_master()
                return
            master = self._asked
            if self._replica.fault(messages.MASTER_LOST(address=master.shown)):
                self._log.write(messages.MASTER_LOST, address=master.shown)
            self.look()
            if not await self._is_replica_anew(master) and master == self.address:
                self._log.write(messages.MASTER_MOVED, address=master.shown)
                self._reconnect()
                looks = 0
            looks += 1
            await task.deferLater(self._reactor, BACKOFF.delay(looks))

    async def _is_replica_anew(self, master: BackendAddress) -> bool:
        """Resolves the address and connects once more. Returns whether it leads to a replica, or to
        nobody.
        """
        try:
            return await calls_itself_replica(self._reactor, master, self._connect_timeout, self._ca_file)
        except defer.CancelledError:
            raise
        except Exception:
            return True


def _refuses_login(error: ErrorReply) -> bool:
    """Whether Redis refuses the password, or its absence. Redis before version 6 has no codes for
    that.
    """
    return error.code in ("WRONGPASS", "NOAUTH") or error.text.lower().startswith(
        ("err invalid password", "err auth", "err client sent auth")
    )


def _shown(address: BackendAddress) -> str:
    return f"sentinel {address.shown.partition('//')[2]}"
