"""A worker: one of several processes that serve clients, started by `supervisor.Workers`.

``python -m redisproxy.processes.worker NUMBER``. Owns all that serves its clients. It inherits a
channel to its parent and the ports' sockets. It reads no credentials: the parent sends each
snapshot. If the parent is gone, the worker ends too, after its clients have got all their pending
replies.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

from .. import bounds, messages
from ..net import reactor as _reactor
from ..ops.logs import Log

_reactor.install()  # before anything imports Twisted's default reactor

from twisted.internet import defer, threads
from twisted.internet.interfaces import IPushProducer
from twisted.logger import ILogObserver, LogEvent, globalLogBeginner
from twisted.python.failure import Failure
from zope.interface import implementer

from ..listen.balance import Balance
from ..listen.endpoints import EndpointError, ListenError, Listening
from ..listen.shared_port import adopt
from ..listen.tls import Material, make
from ..ops import logs
from ..ops.bugs import log_bug
from ..session.client_visit import ClientVisit
from ..settings import Settings, SettingsError
from ..sources.throttle import Throttle
from ..tenants import wire_form
from ..tenants.documents import ReadSummary
from ..tenants.model import Snapshot, Tenant, use_digest_key
from .channel import BALANCE, CHANNEL, FIRST_PORT, Answer, Channel, ChannelError, Handler, Message, factory_of, handled
from .os_process import prepare
from .single import Serving


@implementer(ILogObserver, IPushProducer)
class Teller:
    """Sends log events to the parent. Events that the parent does not accept in time are left out
    and counted: see IPushProducer.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._full = False
        self._left_out = 0
        channel.transport.registerProducer(self, True)

    def __call__(self, event: LogEvent) -> None:
        if self._full:
            self._left_out += 1
        else:
            self._channel.send("log", record=logs.record(event))

    def pauseProducing(self) -> None:
        """The parent does not read fast enough: events are left out."""
        self._full = True

    def resumeProducing(self) -> None:
        """The parent reads again. Logs how many events were left out."""
        self._full = False
        if self._left_out:
            left_out, self._left_out = self._left_out, 0
            _log.write(messages.LINES_LOST, left_out=left_out)

    def stopProducing(self) -> None:
        """The parent is gone."""
        self._full = True


_log = Log(namespace="redisproxy.processes.worker")


class _Parts(NamedTuple):
    """The parts of a worker that was started. has: sets how many clients it has, for the other
    processes.
    """

    serving: Serving
    listening: Listening
    has: Callable[[int | None], None]


class Worker:
    """Handles the messages of the parent."""

    def __init__(self, reactor: _reactor.IProxyReactor) -> None:
        self._reactor = reactor
        #: None before the first message
        self._parts: _Parts | None = None
        self._throttle = Throttle()
        # Whether the parent has asked to accept clients.
        self._may_accept = False
        self._ending = False
        #: the exit status of the process
        self.status = 0
        #: by kind of message from the parent
        self.handlers: dict[str, Handler] = {
            "start": self._or_end(self._start),
            "certificates": self._or_end(self._take_certificates),
            # Also while the worker ends: a session whose credential is revoked must not run on
            # until the end.
            "snapshot": self._or_end(self._use_snapshot, to_the_end=True),
            "read": self._take_read,
            "listen": self._or_end(self._listen),
            "report": self._report,
            "visit": self._visit,
            "vacate": self._vacate,
            "vacated": self._vacated,
            "script-ended": self._refuse_scripts,
            "stop": lambda _: self.end(),
        }
        self.channel = Channel(self.handlers, self.end)

    def _or_end(self, handler: Handler, to_the_end: bool = False) -> Handler:
        """Wraps a handler that the worker cannot do without: if it fails, the worker ends, and the
        parent starts another.

        to_the_end: whether to handle the message also while the worker ends.
        """

        def failed(failure: Failure, kind: str) -> defer.Deferred[Answer]:
            if failure.check(SettingsError, EndpointError, ListenError, OSError):
                sys.stderr.write(f"{failure.value}\n")
            else:
                log_bug(_log, "handling a message of kind {kind} (the worker ends)", failure, kind=kind)
            self.status = 1
            self.end()
            return defer.Deferred()  # never fires: no answer

        def unless_ending(message: Message) -> defer.Deferred[Answer]:
            if self._ending and not to_the_end:
                return defer.Deferred()
            return defer.Deferred.fromCoroutine(handled(handler, message)).addErrback(failed, message.kind)

        return unless_ending

    def _start(self, message: Message) -> None:
        """Handles the first message. options: as twistd got them; payload: the key of digests."""
        use_digest_key(message.payload)
        settings = Settings.read(message.fields["options"], os.environ).per_process()
        globalLogBeginner.beginLoggingTo([logs.filtered(Teller(self.channel), settings.log_level)], redirectStandardIO=False)
        prepare()
        Serving.raise_descriptor_limit(settings)
        inherited = adopt(range(FIRST_PORT, FIRST_PORT + len(settings.listen)))
        number = message.fields["number"]
        balance = Balance(BALANCE)
        may_take = partial(balance.may_take, number, settings.max_workers)
        listening = Listening(
            self._reactor,
            settings.listen,
            inherited,
            may_take,
            client_ca=settings.client_ca,
            trusted=settings.trust_proxy,
        )
        serving = Serving(settings, self._reactor, self._report_databases, number)
        if settings.processes > 1:
            serving.clients.own_sessions.elsewhere = self._visit_elsewhere
            serving.backend.scripts.ended = self._script_ended
        self._parts = _Parts(serving, listening, partial(balance.has, number))
        serving.startService()

    @property
    def _started(self) -> _Parts:
        if self._parts is None:
            raise RuntimeError("the first message to a worker must tell it to start")
        return self._parts

    def _report(self, _: Message) -> Answer:
        return {**self._started.serving.report()}

    def _visit(self, message: Message) -> defer.Deferred[Answer]:
        """Visits a tenant's sessions in this process, for a session of another one."""
        fields = message.fields
        tenant, visit = Tenant(fields["namespace"], fields["index"]), ClientVisit.of(fields)
        visiting = self._started.serving.clients.own_sessions.visit_here(tenant, visit)
        return visiting.addCallback(ClientVisit.result)

    def _visit_elsewhere(self, tenant: Tenant, visit: ClientVisit) -> defer.Deferred[None]:
        """Has a visit see the sessions of all other processes. One that does not answer in time is
        left out.
        """
        asked = self.channel.ask("visit", namespace=tenant.namespace, index=tenant.index, **visit.request())
        asked.addTimeout(2 * bounds.WORKER_ANSWER_SECONDS, self._reactor)

        def answered(message: Message) -> None:
            for result in message.fields["results"]:
                visit.add_result(result)

        def unanswered(failure: Failure) -> None:
            failure.trap(ChannelError, defer.TimeoutError)

        return asked.addCallbacks(answered, unanswered)

    def _script_ended(self, tenant: Tenant) -> None:
        """A script of the tenant was ended: the other processes refuse its scripts, too."""
        self.channel.send("script-ended", namespace=tenant.namespace, index=tenant.index)

    def _refuse_scripts(self, message: Message) -> None:
        """Another process has ended a script of the tenant."""
        tenant = Tenant(message.fields["namespace"], message.fields["index"])
        self._started.serving.backend.scripts.rights.pause(tenant)

    def _report_databases(self, databases: int | None) -> None:
        self.channel.send("databases", databases=databases)

    def _take_certificates(self, message: Message) -> None:
        """Puts new certificates in force. material: checked by the parent."""
        for tls, dumped in zip(self._started.listening.tls, message.fields["material"], strict=True):
            tls.use(make(tls.files, Material.load(dumped)))

    def _use_snapshot(self, message: Message) -> defer.Deferred[Answer]:
        """Puts a snapshot in force, then answers. handed_over: see `elsewhere` of
        `ConnectionPool.use_tenants`.
        """
        if self._parts is None:
            return defer.Deferred()  # the worker ended before it was started
        serving, elsewhere = self._parts.serving, message.fields["handed_over"]
        if serving.snapshot.snapshot is None:
            serving.use_snapshot(wire_form.load(message.payload), elsewhere)  # no client waits yet
            self._accept()
            return defer.succeed(None)
        taking = threads.deferToThread(self._load, message.payload)
        return taking.addCallback(serving.use_snapshot, elsewhere)

    def _vacate(self, _: Message) -> defer.Deferred[Answer]:
        """Answers when no connection is left to a database that has another owner now."""
        return self._started.serving.backend.pool.handover.over_here().addCallback(lambda _: None)

    def _vacated(self, _: Message) -> None:
        """Called when no process has connections of former owners any more."""
        self._started.serving.backend.pool.handover.over_elsewhere()

    def _load(self, payload: bytes) -> Snapshot:
        self._throttle.start()
        return wire_form.load(payload, self._throttle.yield_cpu)

    def _take_read(self, message: Message) -> None:
        """Takes the summary of a read of the source. age: seconds since the read began."""
        fields = message.fields
        namespaces = fields["namespaces"]
        summary = ReadSummary(
            fields["whole"],
            fields["master"],
            None if namespaces is None else frozenset(namespaces),
            frozenset(fields["uncertain"]),
        )
        self._started.serving.take_read(summary, self._reactor.seconds() - fields["age"])

    def _listen(self, message: Message) -> None:
        """Accepts clients from the first snapshot on. The answer does not wait for that."""
        self._may_accept = True
        self._accept()

    def _accept(self) -> None:
        """Accepts clients if the parent has asked for it and there is a snapshot.

        The parent listens before it sends the first snapshot. Earlier, epoll would report the
        socket as closed again and again.
        """
        serving, listening, has = self._started
        if not self._may_accept or serving.snapshot.snapshot is None or self._ending:
            return
        has(0)
        serving.clients.counted = has
        listening.open(serving.clients)

    def end(self) -> None:
        """Ends the process: it stops accepting and waits for the clients' pending replies."""
        if not self._ending:
            self._ending = True
            self._reactor.stop()

    async def _stop(self) -> None:
        self._throttle.stop()
        if self._parts is not None:
            serving, listening, has = self._parts
            serving.clients.counted = None
            has(None)
            await listening.close()
            await serving.drain()
            await serving.stopService()
        # When the reactor stops, it drops what is not written yet, such as the last log lines.
        await self.channel.close()

    def stop(self) -> defer.Deferred[None]:
        """Fires when the worker is ready for the reactor to stop."""
        return defer.Deferred.fromCoroutine(self._stop())


def run(reactor: _reactor.IProxyReactor) -> int:
    """Runs the worker's process. Returns its exit status."""
    # These signals are for the parent: Ctrl-C in a terminal, a reload, and a closed terminal. The
    # parent ends its workers itself.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    worker = Worker(reactor)

    def on_term(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        reactor.callFromThread(worker.end)

    signal.signal(signal.SIGTERM, on_term)
    reactor.addSystemEventTrigger("before", "shutdown", worker.stop)
    with socket.socket(fileno=CHANNEL) as inherited:
        inherited.setblocking(False)
        reactor.adoptStreamConnection(inherited.fileno(), socket.AF_UNIX, factory_of(worker.channel))
    reactor.run(installSignalHandlers=False)
    return worker.status


if __name__ == "__main__":
    # The number is an argument for whoever reads a list of processes.
    from twisted.internet import reactor

    # Twisted declares only what every reactor has
    sys.exit(run(cast("_reactor.IProxyReactor", reactor)))
