"""Inspects what the proxy would find: the Kubernetes API, each namespace, Redis. Writes nothing.

Owns the order of the checks, and what counts as a problem. Must not have rules of its own: the
checks and the rules are the proxy's.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from twisted.internet import threads

from .. import messages
from ..local.embedded import DATABASES
from ..messages import Text
from ..net.reactor import IProxyReactor
from ..policy.probing import Server, needed
from ..printable import listed, sentence
from ..settings import Settings
from ..sources.kubernetes import ClusterSource
from ..sources.kubernetes_watch import ClusterWatches
from ..sources.manifests import ManifestsSource
from ..sources.watch_events import Watched, WatchFailure
from ..tenants.allocation import Room, must_be_read
from ..tenants.documents import TEMPORARY_PREFIX, FullRead, Problem, ReadFailure, SecretDocument
from ..tenants.model import BackendAddress, Credential, Snapshot
from ..upstream.inquiry import Inquiry, InquiryError, SentinelView, ask_sentinels, inquire
from ..upstream.nets import connections_needed, missing

_P = ParamSpec("_P")
_Answer = TypeVar("_Answer")
#: What stands in place of a namespace in a problem of Redis.
REDIS = "Redis"
#: Seconds after which the API server ends a watch that was opened as a test, if the command has not
#: closed it.
_WATCH = 5


@dataclass
class Operator:
    """The command's settings, source and reactor."""

    reactor: IProxyReactor
    settings: Settings
    source: ClusterSource | ManifestsSource

    @property
    def in_cluster(self) -> bool:
        """Whether tenants are read from a cluster, not from manifests."""
        return isinstance(self.source, ClusterSource)

    async def in_thread(self, call: Callable[_P, _Answer], *arguments: _P.args, **options: _P.kwargs) -> _Answer:
        """Makes a blocking call in a thread. Returns or raises what the call does."""
        return await threads.deferToThreadPool(self.reactor, self.reactor.getThreadPool(), call, *arguments, **options)

    async def read(self) -> FullRead:
        """Reads the source."""
        return await self.in_thread(self.source.read)

    async def find_redis(self, backend: BackendAddress) -> RedisView:
        """Asks the sentinels, if there are any, and Redis. Errors are in the result."""
        settings = self.settings
        view = RedisView(backend)
        address = backend
        if backend.sentinels:
            view.sentinels, master = await ask_sentinels(self.reactor, backend, settings.connect_timeout, settings.redis_ca)
            if master is None:
                view.problems.append(messages.SENTINELS_SILENT(name=backend.master_name))
                return view
            address = master
        try:
            view.inquiry = await inquire(
                self.reactor,
                address,
                settings.connect_timeout,
                settings.redis_ca,
                settings.acl != "off",
                lambda server: needed(settings.policy(server)),
            )
        except InquiryError as error:
            view.problems.append(error.reason)
        return view


@dataclass
class RedisView:
    """What was found about Redis.

    backend: as the master secret names it.
    scripts: whether tenants may run scripts there; None if Redis could not be asked.
    """

    backend: BackendAddress
    scripts: bool | None = None
    sentinels: list[SentinelView] = field(default_factory=list)
    inquiry: Inquiry | None = None
    #: why Redis could not be asked
    problems: list[Text] = field(default_factory=list)

    @property
    def room(self) -> Room | None:
        """The databases that can be given to tenants; None if Redis could not be asked."""
        return None if self.inquiry is None else Room(self.inquiry.server.databases, self.inquiry.keys)


class State(enum.Enum):
    """Whether a namespace is served, and why not. The output shows the value."""

    SERVED = "ok"
    #: served, and paused by an operator: its commands wait, or its clients are closed
    PAUSED = "paused"
    #: served, but something should be fixed
    PROBLEMS = "problems"
    #: has a secret, which a problem makes useless
    KEPT_OUT = "kept out"
    #: has no secret
    NOT_ENROLLED = "not enrolled"
    #: its secrets could not be read, so its state is unknown
    NOT_READ = "not read"


@dataclass
class NamespaceView:
    """A namespace with the prefix.

    failure: why its secrets could not be read; empty if they were read.
    secrets: names of the secrets that may have credentials.
    index: its database; None if the namespace is not served.
    paused: whether an operator has paused it.
    """

    namespace: str
    failure: str = ""
    secrets: tuple[str, ...] = ()
    index: int | None = None
    credentials: list[Credential] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    paused: bool = False

    @property
    def state(self) -> State:
        """The state of the namespace. One without any secret is not enrolled, and never kept
        out.
        """
        if self.index is not None:
            if self.paused:
                return State.PAUSED
            return State.PROBLEMS if self.problems else State.SERVED
        if self.failure:
            return State.NOT_READ
        named = self.secrets or any(problem.secret for problem in self.problems)
        return State.KEPT_OUT if named else State.NOT_ENROLLED


@dataclass
class Findings:
    """Everything that was found.

    listed: whether the namespaces could be read.
    warnings: texts about what keeps no tenant out, but should be known.
    """

    source: str
    namespaces: list[NamespaceView]
    problems: list[Problem]
    snapshot: Snapshot
    #: whether all namespaces and all their secrets could be read
    complete: bool
    listed: bool = True
    warnings: list[str] = field(default_factory=list)
    redis: RedisView | None = None


def resolve(operator: Operator, reading: FullRead, databases: int | None, backend: BackendAddress | None = None) -> Findings:
    """Applies the rules of enrolment to what was read.

    databases: how many Redis has; None if unknown. backend: replaces the one in the master secret.
    """
    enrolment = operator.settings.enrolment(backend)
    enrolment.use_full_read(reading)
    snapshot, problems = enrolment.resolve(databases)
    views: dict[str, NamespaceView] = {}
    if not isinstance(reading.namespaces, ReadFailure):
        views = {
            found.name: _view(found.name, reading.secrets.get(found.name, ()), operator.settings.redis_secret)
            for found in reading.namespaces
        }
    for credential in snapshot.credentials:
        view = views[credential.tenant.namespace]
        view.index = credential.tenant.index
        view.credentials.append(credential)
        view.paused = view.namespace in snapshot.paused
    for problem in problems:
        if problem.namespace in views:
            views[problem.namespace].problems.append(problem)
    return Findings(
        str(operator.source),
        [views[name] for name in sorted(views)],
        problems,
        snapshot,
        complete=not reading.failures(),
        listed=not isinstance(reading.namespaces, ReadFailure),
    )


def _view(namespace: str, held: tuple[SecretDocument, ...] | ReadFailure, secret_name: str) -> NamespaceView:
    if isinstance(held, ReadFailure):
        return NamespaceView(namespace, failure=held.reason)
    names = [secret.name for secret in held if secret.name == secret_name or secret.name.startswith(TEMPORARY_PREFIX)]
    return NamespaceView(namespace, secrets=tuple(names))


async def tenants(operator: Operator) -> Findings:
    """Returns what the source says, without asking Redis.

    Raises Refused if the namespaces could not be read.
    """
    reading = await operator.read()
    must_be_read(reading.namespaces)
    found = resolve(operator, reading, None)
    # Problems of no listed namespace: an unreadable file, or a document without a name.
    own = {view.namespace for view in found.namespaces}
    found.warnings += [
        str(problem)
        for problem in found.problems
        if problem.namespace not in own and (problem.namespace, problem.secret) != operator.settings.master
    ]
    return found


async def check(operator: Operator, embedded: BackendAddress | None = None) -> Findings:
    """Checks everything. embedded: address of the proxy's embedded Redis; None without one."""
    reading = await operator.read()
    settings = operator.settings
    if embedded is not None:
        found = resolve(operator, reading, DATABASES, embedded)
        found.warnings.append("Redis was not asked: the proxy starts a server of its own (--embedded)")
    else:
        found = resolve(operator, reading, None)
        if found.snapshot.backend is not None:
            view = await operator.find_redis(found.snapshot.backend)
            databases = None if view.room is None else view.room.databases
            if databases is not None:
                found = resolve(operator, reading, databases)
            found.redis = view
            _judge(operator, found, view)
    inquiry = None if found.redis is None else found.redis.inquiry
    _judge_commands(operator, found, None if inquiry is None else inquiry.server)
    if settings.watch and isinstance(operator.source, ClusterSource) and not reading.failures():
        watches = ClusterWatches(operator.source.api, settings.ns_prefix, settings.redis_secret, settings.master)
        found.warnings += await operator.in_thread(_try_watches, watches)
    if not found.namespaces and found.listed:
        found.warnings.append(f"no namespace has a name that begins with {settings.ns_prefix!r}: nobody can log in")
    found.problems.sort()
    return found


def _judge(operator: Operator, found: Findings, view: RedisView) -> None:
    """Adds problems of Redis, which keep tenants out, and warnings about Redis."""
    settings = operator.settings

    def problem(text: Text) -> None:
        found.problems.append(Problem(REDIS, "", text))

    for sentinel in view.sentinels:
        if sentinel.error:
            found.warnings.append(f"sentinel {sentinel.address}: {sentinel.error}")
    for text in view.problems:
        problem(text)
    if view.inquiry is None:
        return
    server, address = view.inquiry.server, view.inquiry.address
    if view.inquiry.state is not None:
        problem(messages.REDIS_IS(address=address, state=view.inquiry.state))
    if (again := view.inquiry.again) is not None:
        summary = f"{address} did not answer all queries: {sentence(again)}"
        found.warnings.append(f"{summary} {again.remedy or messages.FIX_WHAT_IS_NAMED}")
    if server.replica:
        problem(messages.REDIS_IS_REPLICA(address=address))
    needed_connections = connections_needed(settings.per_process(), len(found.snapshot.tenants))
    for text in missing(view.inquiry.limits, address, settings.connections == "multiplexed", needed_connections):
        found.warnings.append(f"{text}. {text.remedy}")
    view.scripts = settings.policy(server).runs_scripts
    layer = settings.acl != "off" and server.acl
    if settings.acl == "require" and not layer:
        problem(messages.REDIS_IS_WITHOUT_ACL(address=address))
    elif not layer:
        found.warnings.append("there is one isolation layer, the proxy's own: scripts are refused")
    elif not view.scripts:
        found.warnings.append(f"scripts are refused: {_WHY_NO_SCRIPTS[server.sealed is None]}")


#: Keys: whether it is still unknown if Redis enforces the tenants' limits in scripts.
_WHY_NO_SCRIPTS = {
    False: (
        "on this Redis one tenant's script can change another tenant's script (CVE-2025-46818), or the master's user may "
        "not use EVAL. Upgrade Redis, or give the user that right"
    ),
    True: "Redis did not report whether one tenant's script can change another tenant's script. The proxy asks again",
}


def _judge_commands(operator: Operator, found: Findings, server: Server | None) -> None:
    """Adds warnings about --allow-commands and --deny-commands.

    server: None if Redis was not or could not be asked. Then the usual commands of Redis are
    assumed.
    """
    policy = operator.settings.policy() if server is None else operator.settings.policy(server)
    if policy.unknown and server is not None:
        found.warnings.append(messages.COMMANDS_UNKNOWN(names=", ".join(policy.unknown)))
    found.warnings += [messages.COMMANDS_OPENED(command=command, what=what) for command, what in policy.exposed]


def _try_watches(watches: ClusterWatches) -> list[str]:
    """Opens each watch as a test. Returns one warning for each reason why some cannot be opened.

    Without watches, changes take effect at the next refresh.
    """
    failed: dict[str, list[str]] = {}
    for what in Watched:
        try:
            watches.watch(what, watches.version(what), _WATCH).close()
        except WatchFailure as failure:
            failed.setdefault(failure.reason, []).append(what.value)
    return [
        f"{listed(names)} cannot be watched, so changes take effect at the next refresh: {reason}"
        for reason, names in failed.items()
    ]
