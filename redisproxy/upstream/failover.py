"""Where the master is that tenants' commands go to.

Owns that decision; who acts on it is the business of `backend`. It follows Redis's sentinels, where
the master secret names some; and it finds out, with sentinels or without, when what was the master
has become a replica.
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

#: Seconds between two looks at the sentinels: a failover is noticed within that time.
EVERY = 1.0
#: Seconds between two looks at whether Redis is a replica, at least.
DOUBT = 1.0
#: The same while it stays one.
BACKOFF = Backoff(DOUBT, 10.0)


class MasterService(service.Service):
    """Which server is used. For connect_timeout and ca_file see `endpoint.endpoint_for`.

    control: says whether Redis is a replica; moved: called with where Redis is, and whether that is
    a failover; reconnect: called when the address leads to another server than before; is_master:
    called when Redis says that it is a master.
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
        #: what the master secret says
        self._configured: BackendAddress | None = None
        #: where Redis is; None: not known yet
        self.address: BackendAddress | None = None
        #: what the master secret says, once its sentinels have told where that is
        self._found_for: BackendAddress | None = None
        self._sentinels: list[Sentinel] = []
        #: since when these are asked
        self._began = 0.0
        self._looking: defer.Deferred[None] | None = None
        self._again = False
        self._timer: IDelayedCall | None = None
        # What is logged of looks that lead to nothing, and of a master that is a replica.
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
        """Why it is not known where Redis is; None: it is, or there are no sentinels."""
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
        """What the master secret says from now on."""
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
            # Another password, or another list: until the sentinels say otherwise it is where it
            # was.
            self._found_for = address
            self._move(address.at(self.address.host, self.address.port), failover=False)
        for host, port in address.sentinels:
            at = address.asked_at(host, port)
            endpoint = partial(endpoint_for, self._reactor, at, self._connect_timeout, self._ca_file)
            self._sentinels.append(Sentinel(self._reactor, at, endpoint, address.master_name, self.look))
        self._began = self._reactor.seconds()
        self._look_in(0)

    def on_server(self, server: Server) -> None:
        """The control connection is there, perhaps with another server."""
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
        """Where the Redis is that the control connection has asked what it is."""
        assert self.address is not None, "the control connection leads there"  # noqa: S101
        return self.address

    def _move(self, address: BackendAddress | None, failover: bool) -> None:
        """Redis is elsewhere. failover: and where it was, nothing is to be waited for."""
        if address == self.address:
            return
        self.address = address
        self._replica.over()
        if self._doubting is not None:
            self._doubting.cancel()  # it was about the old one
        self._moved(address, failover)

    # Following the sentinels.

    def _leave_sentinels(self) -> defer.Deferred[list[None]]:
        self._stop_timer()
        sentinels, self._sentinels = self._sentinels, []
        return defer.gatherResults([sentinel.stop() for sentinel in sentinels], consumeErrors=True)

    def look(self) -> None:
        """Asks the sentinels, now, or once more when they have answered. Without sentinels nothing
        happens.
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
            # Not at once: whatever goes wrong, this is no storm.
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
            # the first to be connected may be the one that was cut off; each calls for another look
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
                        messages.SENTINELS_UNTOLD(
                            name=configured.master_name,
                            address=found.shown,
                            reason=messages.redis_error(shown_error(reply.text)),
                        )
                    )
                # it is there, and it is for the upstream connections to say what it does not like
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
        """What they answer, and whether all had their chance to."""
        sentinels = list(self._sentinels)
        replies = await ask_all(sentinels)
        if sentinels != self._sentinels:
            return [], False  # they were left meanwhile
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
        """Logs what is wrong with it, once; another fault that takes its place, after QUIET."""
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

    # Finding out that Redis became a replica.

    def doubt(self) -> None:
        """A reply, or Redis itself, says that it is a replica. A tenant can bring this about: it
        costs next to nothing.
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
                    return  # when the control connection is back, it says what Redis is
                await task.deferLater(self._reactor, DOUBT)  # busy with somebody's script, say
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
        """Whether the address leads to a replica, or to nobody, when it is resolved and connected
        to once more.
        """
        try:
            return await calls_itself_replica(self._reactor, master, self._connect_timeout, self._ca_file)
        except defer.CancelledError:
            raise
        except Exception:
            return True


def _refuses_login(error: ErrorReply) -> bool:
    """Whether it is the password that is refused, or that there is none. Redis before 6 has no
    codes for that.
    """
    return error.code in ("WRONGPASS", "NOAUTH") or error.text.lower().startswith(
        ("err invalid password", "err auth", "err client sent auth")
    )


def _shown(address: BackendAddress) -> str:
    return f"sentinel {address.shown.partition('//')[2]}"
