"""What the proxy would find: the Kubernetes API, each namespace, Redis. Nothing is written.

Owns the order of the questions, and what counts as a problem. The questions themselves, and the rules, are the proxy's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from twisted.internet import threads

from ..local.embedded import DATABASES
from ..net.reactor import IProxyReactor
from ..policy.probing import Server, needed
from ..settings import Settings
from ..sources.kubernetes import ClusterSource
from ..sources.kubernetes_watch import ClusterWatches
from ..sources.manifests import ManifestsSource
from ..sources.watch_events import Watched, WatchFailure
from ..tenants.allocation import Room, must_be_read
from ..tenants.documents import FullRead, Problem, ReadFailure
from ..tenants.model import BackendAddress, Credential, Snapshot
from ..upstream.inquiry import Inquiry, InquiryError, SentinelView, ask_sentinels, inquire

_P = ParamSpec("_P")
_Answer = TypeVar("_Answer")
#: Seconds after which a watch that was opened to see whether it can be is ended by the API server, if not by us.
_WATCH = 5


@dataclass
class Operator:
    """Who asks: settings, and what goes with them. Blocking calls are made in a thread."""

    reactor: IProxyReactor
    settings: Settings
    source: ClusterSource | ManifestsSource

    async def in_thread(self, call: Callable[_P, _Answer], *arguments: _P.args, **options: _P.kwargs) -> _Answer:
        """What a blocking call returns, or raises."""
        return await threads.deferToThreadPool(self.reactor, self.reactor.getThreadPool(), call, *arguments, **options)

    async def read(self) -> FullRead:
        """What the source says now."""
        return await self.in_thread(self.source.read)

    async def find_redis(self, backend: BackendAddress) -> RedisView:
        """What Redis is."""
        settings = self.settings
        view = RedisView(backend)
        address = backend
        if backend.sentinels:
            view.sentinels, master = await ask_sentinels(self.reactor, backend, settings.connect_timeout, settings.redis_ca)
            if master is None:
                view.problems.append(f"none of the sentinels tells where {backend.master_name} is")
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
            view.problems.append(str(error))
        return view


@dataclass
class RedisView:
    """What was found of Redis. backend: as the master secret names it."""

    backend: BackendAddress
    sentinels: list[SentinelView] = field(default_factory=list)
    inquiry: Inquiry | None = None
    #: why it cannot be asked
    problems: list[str] = field(default_factory=list)

    @property
    def room(self) -> Room | None:
        """How much there is to give away; None: it could not be asked."""
        return None if self.inquiry is None else Room(self.inquiry.server.databases, self.inquiry.keys)


@dataclass
class NamespaceView:
    """A namespace with the prefix. index: None where it is not enrolled, or kept out by a problem."""

    namespace: str
    index: int | None = None
    credentials: list[Credential] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


@dataclass
class Findings:
    """All that was found. warnings: what keeps nobody out, but should be known."""

    source: str
    namespaces: list[NamespaceView]
    problems: list[Problem]
    snapshot: Snapshot
    #: whether all namespaces, and their secrets, could be read
    complete: bool
    warnings: list[str] = field(default_factory=list)
    redis: RedisView | None = None


def resolve(operator: Operator, reading: FullRead, databases: int | None, backend: BackendAddress | None = None) -> Findings:
    """What each namespace resolves to."""
    enrolment = operator.settings.enrolment(backend)
    enrolment.use_full_read(reading)
    snapshot, problems = enrolment.resolve(databases)
    views: dict[str, NamespaceView] = {}
    if not isinstance(reading.namespaces, ReadFailure):
        views = {found.name: NamespaceView(found.name) for found in reading.namespaces}
    for credential in snapshot.credentials:
        view = views[credential.tenant.namespace]
        view.index = credential.tenant.index
        view.credentials.append(credential)
    for problem in problems:
        if problem.namespace in views:
            views[problem.namespace].problems.append(problem)
    return Findings(
        str(operator.source), [views[name] for name in sorted(views)], problems, snapshot, not reading.failures()
    )


async def tenants(operator: Operator) -> Findings:
    """What the source alone says. Redis is not asked. Raises Refused where there is nothing to be said."""
    reading = await operator.read()
    must_be_read(reading.namespaces)
    found = resolve(operator, reading, None)
    # What is in no namespace of the list: a file that cannot be read, a document without a name.
    own = {view.namespace for view in found.namespaces}
    found.warnings += [
        str(problem)
        for problem in found.problems
        if problem.namespace not in own and (problem.namespace, problem.secret) != operator.settings.master
    ]
    return found


async def check(operator: Operator, embedded: BackendAddress | None = None) -> Findings:
    """Everything. embedded: where the server of the proxy's own will be."""
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
    if not found.namespaces and not isinstance(reading.namespaces, ReadFailure):
        found.warnings.append(f"no namespace's name begins with {settings.ns_prefix!r}: nobody can log in")
    found.problems.sort()
    return found


def _judge(operator: Operator, found: Findings, view: RedisView) -> None:
    """What of Redis keeps tenants out, and what should be known."""
    settings = operator.settings

    def problem(text: str) -> None:
        found.problems.append(Problem("Redis", "", text))

    for sentinel in view.sentinels:
        if sentinel.error:
            found.warnings.append(f"sentinel {sentinel.address}: {sentinel.error}")
    for text in view.problems:
        problem(text)
    if view.inquiry is None:
        return
    server = view.inquiry.server
    if view.inquiry.state:
        problem(f"it {view.inquiry.state}")
    if view.inquiry.again:
        found.warnings.append(f"{view.inquiry.address} did not tell all that it was asked: {view.inquiry.again}")
    if server.replica:
        problem(f"{view.inquiry.address} says that it is a replica, and refuses to write: name the master, or its sentinels")
    layer = settings.acl != "off" and server.acl
    if settings.acl == "require" and not layer:
        problem("it has no ACL users for tenants, and --acl is require: nobody is served")
    elif not layer:
        found.warnings.append("there is one isolation layer, the proxy's own: scripts are refused")


def _judge_commands(operator: Operator, found: Findings, server: Server | None) -> None:
    """What should be known of --allow-commands and --deny-commands. server: None where Redis was not, or cannot be, asked:
    what the commands are that Redis usually has is known without.
    """
    policy = operator.settings.policy() if server is None else operator.settings.policy(server)
    if policy.unknown and server is not None:
        names = ", ".join(policy.unknown)
        found.warnings.append(f"--allow-commands or --deny-commands names what this Redis does not have: {names}")
    found.warnings += [f"--allow-commands opens {command}: {what}" for command, what in policy.exposed]


def _try_watches(watches: ClusterWatches) -> list[str]:
    """Why some cannot be had: what changes takes effect at the next refresh then."""
    failed = []
    for what in Watched:
        try:
            watches.watch(what, watches.version(what), _WATCH).close()
        except WatchFailure as failure:
            failed.append(f"{what.value} cannot be watched: {failure.reason}; changes take effect at the next refresh")
    return failed
