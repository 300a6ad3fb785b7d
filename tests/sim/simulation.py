"""A whole proxy, its clients and its Redis in one thread, from one seed.

The proxy's sessions, factory, connection pool, admission and credentials are real, on Twisted's own
transports. The network, the clock, Redis and the clients are simulated. These must hold, whatever
the seed draws (the oracles):

1. No client sees an error or a closed connection while Redis is well.
2. Nothing is lost: no item of a list, no message, no count.
3. Everything ends once no fault is left: no client waits for ever, and nothing is left behind.
4. Each tenant sees only its own data.

With `straight` the clients talk to the simulated Redis directly. That control must hold as well;
otherwise the simulation is wrong.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import TypeVar
from unittest import mock

from twisted.internet import defer, error
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.protocol import Factory
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from redisproxy import bounds, probes
from redisproxy.clients import connection as client_module
from redisproxy.clients import kernel_watch
from redisproxy.clients.admission import Admission, Arrival
from redisproxy.clients.connection import ClientProtocol
from redisproxy.clients.factory import ClientFactory, Timeouts
from redisproxy.clients.snapshot import CurrentSnapshot
from redisproxy.net import allocator, socket_buffers
from redisproxy.ops.access_log import AccessLog
from redisproxy.policy.facts import builtin
from redisproxy.policy.policy import make_policy
from redisproxy.session.session import Session
from redisproxy.settings import Settings
from redisproxy.tenants.model import BackendAddress, Credential, Snapshot, Tenant, digest
from redisproxy.tenants.slow_log import Entry
from redisproxy.upstream import backend as backend_module
from redisproxy.upstream import control as control_module
from redisproxy.upstream import pool as multiplexed_module
from redisproxy.upstream.connection import RedisConnection
from redisproxy.upstream.multiplexed import MultiplexedConnection

from ..support.limits import EXTREMES
from . import faults
from .actors import Actor
from .kernel import Connection, Poll, Reactor, Socket, World, connect, unacknowledged, used
from .rare_actors import RareActor
from .redis import Redis, SimulatedConnection

#: Names of what a client may do: see `actors.Actor`.
EASY = (
    *("strings", "pipeline", "large", "push", "pop", "transaction", "watch", "increase", "subscribe", "publish"),
    *("inspected", "mixture", "info", "unheard", "wrong_password", "come_again", "leave_soon", "half_close"),
)
#: What a client may do besides. Not in EASY: the seed draws from EASY, so a change of EASY changes
#: what each kept seed does.
NEWER = ("hear_itself", "leave_blocked", "write_first", "read_slowly", "scripts")
#: The same for scripts.
SCRIPTS = ("slow_scripts", "large_scripts")
#: Faults of Redis and changes of credentials.
FAULTS = ("stall", "restart", "kill", "rotate", "hand_over", "move", "abandon")
#: More faults of Redis, drawn by a generator each, for the same reason; and pauses of a tenant.
NEWER_FAULTS = ("load", "fill", "cut")
PAUSES = ("pause", "pause_for_long")
#: What a client may do besides, and more faults, all for rare branches: see `rare_actors`,
#: `faults`. Not in NEWER and NEWER_FAULTS, for the same reason.
RARE = (
    *("much_behind_blocked", "read_very_slowly", "close_slowly", "come_early", "come_in_a_hurry", "change_tenant"),
    *("nested_messages", "leave_within", "large_news", "read_scripts_slowly", "large", "info", "scripts"),
    "list_clients",
)
#: What a client may do besides, and more faults, for the branches of the tenants' windows; and
#: commands that become slow ones of their tenant. Not in RARE and RARE_FAULTS, for the same reason.
WINDOWS = ("windows", "windows", "windows", "large_windows")
WINDOW_FAULTS = ("replace_within_window", "pause_within_rounds")
SLOW_LOG_FAULTS = ("log_slow",)
RARE_FAULTS = tuple(name for name in faults.FAULTS if name not in ("keep_busy", *SLOW_LOG_FAULTS, *WINDOW_FAULTS))
#: The same where scripts may be slow.
SLOW_RARE_FAULTS = ("keep_busy",)
#: Limits that the seed may make extreme, unless the options name others. The simulation's own
#: generator draws them in this order. So adding or removing one changes what each kept seed does.
KEPT_LIMITS = (
    *("ACQUIRING", "BACKLOG_BYTES", "QUEUED_BYTES", "PENDING_BATCHES", "MULTIPLEXED_CONNECTIONS", "PENDING_REPLIES"),
    *("OWN_REPLIES_BYTES", "BUFFERED_BYTES", "SESSIONS_COMPARED", "REVOKED_PER_TURN"),
)
#: All limits that have an extreme. Those that are not in KEPT_LIMITS are drawn by a generator each.
ALL_LIMITS = (*KEPT_LIMITS, *(name for name in EXTREMES if name not in KEPT_LIMITS))
#: Seconds, at most, from a fault of Redis until all is well; and from a change of a credential,
#: whose sessions have some time for their last replies.
RECOVERY, REVOCATION = 2.0, 2.0 + bounds.REVOKED_SECONDS
#: Seconds for which the proxy holds what was not sent, and awaits the answer to an attempt to
#: connect.
HOLD, CONNECTING = 15.0, 5.0
#: Seconds after which clients begin nothing more, and seconds without progress after which a client
#: counts as stuck.
LONGEST, STUCK = 600.0, 60.0
_MASTER = b"master"
#: Tenants may run scripts. (The simulated Redis has no ACL users.)
_POLICY = replace(make_policy(builtin(), scripts=True, databases=True), needs_acl_users=False)


Found = TypeVar("Found")


@dataclass(frozen=True)
class Options:
    """What a simulation may do.

    straight: without the proxy; limits: those that the seed may make extreme; newer, faults,
    newer_faults: some of the constants with these names, and of RARE and RARE_FAULTS; clients: how
    many, None if the seed decides; steps: of each client; measured: see `kernel.Reactor`; memory:
    bytes that the proxy may use. None: any number. Else clients may be closed. shares: whether each
    tenant has a share of the slots. Then clients may be closed while there are few slots.
    """

    straight: bool = False
    limits: tuple[str, ...] = KEPT_LIMITS
    newer: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    newer_faults: tuple[str, ...] = ()
    clients: int | None = None
    steps: int = 25
    measured: bool = False
    memory: int | None = None
    shares: bool = False


class OneQueue(Admission):
    """Slots without shares: all sessions are one tenant's, so none gives way to another."""

    def log_in_at_once(self, arrival: Arrival, tenant: Tenant) -> bool:
        return super().log_in_at_once(arrival, self._everybody)

    def log_in(self, arrival: Arrival, tenant: Tenant) -> None:
        super().log_in(arrival, self._everybody)

    def belongs_to(self, arrival: Arrival, tenant: Tenant) -> None:
        super().belongs_to(arrival, self._everybody)

    _everybody = Tenant("everybody", 0)


@dataclass(frozen=True)
class Wrong:
    """Something that must not happen. kind: one word; text: when it happened, and what."""

    kind: str
    text: str


class _Endpoint:
    """Connects the proxy to the simulated Redis. timeout: seconds to connect."""

    def __init__(self, simulation: Simulation, host: str, timeout: float) -> None:
        self._simulation = simulation
        self._host = host
        self._timeout = timeout

    def connect(self, factory: Factory) -> defer.Deferred:
        """See IStreamClientEndpoint."""
        simulation, world = self._simulation, self._simulation.world
        until = world.now + self._timeout
        connecting: defer.Deferred = defer.Deferred(lambda _: _.errback(error.ConnectingCancelledError(UNIXAddress(None))))

        def connected() -> None:
            if connecting.called:
                return
            if not simulation.redis.listens or simulation.host not in (None, self._host):
                if simulation.silent:
                    simulation.reactor.callLater(until - world.now, not_answered)
                else:
                    connecting.errback(error.ConnectionRefusedError())
                return
            end = Socket(simulation.world)
            far = SimulatedConnection(simulation.redis)
            connect(end, far.end)
            far.begin()
            protocol = factory.buildProtocol(UNIXAddress(None))
            Connection(end, protocol, simulation.reactor, UNIXAddress(None)).begin()
            connecting.callback(protocol)

        def not_answered() -> None:
            if not connecting.called:
                connecting.errback(error.TimeoutError())

        world.after(world.trip() + world.trip(), simulation.reactor.callLater, 0, connected)
        return connecting


class Simulation:
    """One simulation. seed: decides everything."""

    def __init__(self, seed: int, options: Options = Options()) -> None:
        self.seed = seed
        self.options = options
        self.straight = options.straight
        #: whether scripts may take so long that Redis answers BUSY
        self.slow_scripts = "slow_scripts" in options.newer
        self.world = World(seed)
        self.rng = self.world.rng
        #: what was wrong
        self.found: list[Wrong] = []
        #: the number of the last client
        self.serial = 0
        #: when each item was sent to Redis; the items that Redis took; the items that a client got
        self.sent: dict[bytes, float] = {}
        self.pushed: set[bytes] = set()
        self.got: set[bytes] = set()
        #: when clients left while they were blocked, and their tenants
        self.left: list[tuple[float, str]] = []
        #: the same, with a key that a command behind the blocked one would set
        self.behind: list[tuple[float, str, bytes]] = []
        # By counter: the least and the largest value that it may have.
        self._counted: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        # Until when errors of a tenant are allowed, and under None those of all tenants.
        self._forgiven: dict[str | None, float] = defaultdict(float)
        # Tenants that are paused; and until when closes because of a pause are allowed, by tenant.
        self._paused: set[str] = set()
        self._was_paused: dict[str | None, float] = defaultdict(float)
        self._tenants = {"blue": Tenant("blue", 3), "green": Tenant("green", 5)}
        self._backend = BackendAddress(host="redis", port=6379, password=_MASTER)
        #: whether sessions share connections to Redis
        self.multiplexed = False
        self._passwords = {"blue": b"blue-1", "green": b"green-1"}
        #: where Redis can be reached; None: at each address
        self.host: str | None = None
        #: whether nothing answers where no Redis is
        self.silent = False
        #: what tenants may do, and when that changed last, in the world's seconds
        self.policy = _POLICY
        self._policy_since = -inf
        # Owners of databases: (since when, index, tenant).
        self._owners: list[tuple[float, int, str]] = [(0.0, 3, "blue"), (0.0, 5, "green")]
        self.redis = Redis(self.world, _MASTER, {b"blue-1": 3, b"green-1": 5})
        #: names of rare branches that were reached: see `redisproxy.probes`
        self.reached: set[str] = set()
        #: limits that the seed made extreme
        self.extreme: list[str] = []
        #: whether there are few slots
        self.crowded = False
        # How many clients have to give way at a full Redis, and were not seen closed yet.
        self._giving_way = 0
        self._patches: list = []
        self.reactor = Reactor(self.world, self._crashed, options.measured)
        if not self.straight:
            self._set_up()
        kinds = list(EASY)
        self.rng.shuffle(kinds)
        kinds = kinds[: self.rng.randrange(2, len(kinds) + 1)] + list(options.newer)
        count = options.clients if options.clients is not None else self.rng.choice([3, 10, 25])
        self.actors = [RareActor(self, self.rng.choice(["blue", "green"]), kinds, options.steps) for _ in range(count)]
        for fault in options.faults:
            if self.rng.random() < 0.6:
                for _ in range(self.rng.choice([1, 1, 3])):
                    self.world.after(self.rng.uniform(0, 10), self.reactor.callLater, 0, getattr(self, f"_{fault}"))
        for fault in options.newer_faults:
            generator = random.Random(f"{seed} {fault}")
            rare = fault in faults.FAULTS
            call = partial(faults.FAULTS[fault], self) if rare else getattr(self, f"_{fault}")
            for _ in range(generator.choice([0, 0, 1] if rare else [0, 0, 1, 1, 3])):
                self.world.after(generator.uniform(0, 10), self.reactor.callLater, 0, call)

    # The proxy.

    def _set_up(self) -> None:
        rng, reactor = self.rng, self.reactor
        # Twisted's backoff takes its jitter from the module random.
        random.seed(self.seed)
        for name in self.options.limits:
            generator = rng if name in KEPT_LIMITS else random.Random(f"{self.seed} {name}")
            if generator.random() < 0.25:
                self.extreme.append(name)
                self._patches.append(mock.patch.object(bounds, name, EXTREMES[name]))
        self.crowded = bool(self.options.limits) and rng.random() < 0.3
        self._patches += [
            *(
                mock.patch.object(module, "endpoint_for", lambda _, at, timeout, __: _Endpoint(self, at.host, timeout))
                for module in (multiplexed_module, control_module, backend_module)
            ),
            mock.patch.object(client_module, "select", Poll(self.world)),
            mock.patch.object(probes, "reached", self._reach),
            mock.patch.object(Settings, "policy", lambda _, server: self.policy),
            mock.patch.object(client_module, "unacknowledged", unacknowledged),
            mock.patch.object(socket_buffers, "used", used),
            mock.patch.object(kernel_watch, "used_by_all", lambda: sum(each.used for each in self.world.sockets.values())),
            mock.patch.object(allocator, "release", lambda: None),
        ]
        # Sets of these objects are iterated, and their order must not depend on addresses.
        for kind in (ClientProtocol, RedisConnection, MultiplexedConnection):
            self._patches.append(mock.patch.object(kind, "__hash__", lambda thing: self._serial_of(thing)))
        for patch in self._patches:
            patch.start()
        settings = Settings(
            ns_prefix="",
            acl="off",
            base_workers=1,
            worker_idle_timeout=30.0,
            connect_timeout=CONNECTING,
            connections="multiplexed" if rng.random() < 0.8 else "dedicated",
            hold_seconds=HOLD,
        )
        self.multiplexed = settings.connections == "multiplexed"
        self._proxied = backend_module.Backend(settings, reactor)
        self._proxied.policy = self._proxied.sessions.policy = _POLICY
        self._holder = CurrentSnapshot(reactor)
        self._admission = (Admission if self.options.shares else OneQueue)(4 if self.crowded else 1000, 1000)
        self._factory = ClientFactory(
            *(reactor, self._holder, self._proxied.sessions, self._admission, AccessLog(reactor), Timeouts(60.0)),
            memory=self.options.memory,
        )
        self._proxied.policy_changed = self._factory.use
        self._proxied.sessions.slow_commands.changed = self._factory.tables_changed
        self._holder.startService()
        self._proxied.startService()
        self._use_directory()
        self._factory.startFactory()

    def _reach(self, name: str) -> None:
        self.reached.add(name)
        self._giving_way += name == "session gives its connection to another tenant"

    def _serial_of(self, thing: object) -> int:
        number = getattr(thing, "_simulated", None)
        if number is None:
            number = thing._simulated = self.world.number()  # type: ignore[attr-defined]
        return number

    def _use_directory(self) -> None:
        credentials = [Credential(self._tenants[name], "s", digest(password)) for name, password in self._passwords.items()]
        snapshot = Snapshot(self._backend, credentials, paused=self._paused)
        self._proxied.use_snapshot(snapshot)
        self._holder.use(snapshot)

    def _crashed(self, failure: Failure) -> None:
        self.wrong("crash", failure.getTraceback(), None)

    def _log(self, event: LogEvent) -> None:
        if "log_failure" in event:
            self.wrong("crash", f"{formatEvent(event)}\n{event['log_failure'].getTraceback()}", None)

    # Called by actors.

    def connect(self, _: Actor) -> Socket:
        """Returns a new connection for a client."""
        near = Socket(self.world)
        if self.straight:
            connect(near, SimulatedConnection(self.redis).end)
            return near
        far = Socket(self.world)
        connect(near, far)
        address = IPv4Address("TCP", f"10.0.0.{1 + self.serial % 200}", 1024 + self.world.number() % 60000)

        def accepted() -> None:
            protocol = self._factory.buildProtocol(address)
            Connection(far, protocol, self.reactor, address).begin()

        self.world.after(self.world.trip(), self.reactor.callLater, 0, accepted)
        return near

    def password(self, tenant: str) -> bytes:
        """Returns the tenant's present password."""
        return self._passwords[tenant]

    def other_index(self, _: str) -> int:
        """Returns the index of a database that is not the tenant's."""
        return 31

    def channel(self, tenant: str) -> bytes:
        """Returns the channel's name. With a proxy it is the same for all tenants, because the
        proxy separates them.
        """
        return b"news-" + tenant.encode() if self.straight else b"news"

    def got_item(self, actor: Actor, item: bytes) -> None:
        """Called when a client got an item of a list."""
        if item in self.got:
            self.wrong("twice", f"{actor} got {item!r}, as somebody did before", actor.tenant)
        self.got.add(item)
        pusher = "blue" if item.startswith(b"blue") else "green"
        if pusher != actor.tenant and not self._was_left_behind(item, actor.tenant):
            self.wrong("foreign", f"{actor} got {item!r}, sent at {self.sent[item]:.3f}", None)

    def _was_left_behind(self, item: bytes, tenant: str) -> bool:
        """Whether the tenant's database belonged to the other tenant when the item was pushed."""
        index = self._tenants[tenant].index
        since = [time for time, where, who in self._owners if where == index and who == tenant]
        return bool(since) and self.sent[item] < since[-1]

    def counted(self, counter: str, surely: int, perhaps: int) -> None:
        """Called when a counter was increased. surely: by how much for sure; perhaps: by how much
        at most.
        """
        self._counted[counter][0] += surely
        self._counted[counter][1] += perhaps

    def wrong(self, kind: str, text: str, tenant: str | None, since: float | None = None, opened: float = inf) -> None:
        """Reports something that must not happen, unless a fault of Redis or a change of the
        tenant's credential allows it now.

        since: or allowed it then, or later; opened: when the client connected. An error that says
        that Redis was replaced is allowed if that was so since then, however long ago.
        """
        since = self.world.now if since is None else since
        if kind == "replaced" and self._policy_since >= since:
            return
        of_redis = kind in ("closed", "half-reply", "message-lost", "stuck")
        of_credentials = of_redis or kind in ("refused", "closed-idle", "given-up", "closed-log-in")
        if self.options.memory is not None and kind in ("closed", "closed-idle", "given-up", "half-reply"):
            return
        forgiven = ("closed", "closed-idle", "given-up", "closed-log-in", "half-reply")
        if self.options.shares and self.crowded and kind in forgiven:
            return
        if kind == "held" or (kind == "closed-log-in" and self._was_away_for_long(opened)):
            return
        if kind in forgiven and self._giving_way:
            self._giving_way -= 1
            return
        if (of_redis or kind == "given-up") and since < self._was_paused[tenant]:
            return
        if (of_redis and since < self._forgiven[None]) or (of_credentials and since < self._forgiven[tenant]):
            return
        self.found.append(Wrong(kind, f"t={self.world.now:.3f} {text}"))
        if len(self.found) >= 50:
            self.world.over = True

    def _was_away_for_long(self, opened: float) -> bool:
        """Whether the time to hold what was not sent is over, or was a moment ago.

        opened: when the client connected. All that time may be over for its log-in alone: Redis was
        well for a moment meanwhile, but others that waited came first.
        """
        now = self.world.now
        since, until = self.redis.unwell_periods[-1] if self.redis.unwell_periods else (0.0, 0.0)
        if self.redis.unwell_since is not None:
            since, until = self.redis.unwell_since, now
        soon = 1 + self._still_connecting
        if until - since >= HOLD - 1 and now - until < soon:
            return True
        return now - opened >= HOLD and self.redis.seconds_well(opened) < soon

    @property
    def _still_connecting(self) -> float:
        """Seconds, at most, for which an attempt to connect goes on when Redis is back. Where
        nothing answered, the proxy does not learn of that before.
        """
        return CONNECTING if self.silent else 0.0

    # Faults.

    def when(self, find: Callable[[], Found | None], call: Callable[[Found], object]) -> None:
        """Calls something with what `find` returns, at the end of the first turn of the proxy in
        which that is not None, if it is soon.
        """
        until = self.world.now + 30.0

        def watch() -> None:
            found = find()
            if found is not None or self.world.now > until:
                self.reactor.watchers.remove(watch)
            if found is not None:
                call(found)

        self.reactor.watchers.append(watch)

    def sessions(self) -> list[Session]:
        """The proxy's sessions."""
        return [client.session for client in self._factory.clients]

    def multiplexed_connections(self) -> list[MultiplexedConnection]:
        """The proxy's multiplexed connections."""
        return self._proxied.pool.multiplexed

    def log_slow(self, tenant: str, names: list[bytes]) -> None:
        """Redis has logged commands of a tenant as slow, often enough to confirm it."""
        slow, table = self._proxied.sessions.slow_commands, self._proxied.policy.table
        for name in names * bounds.CONFIRM_ENTRIES:
            slow.add(Entry(0, int(self.world.now), 1_000_000, [name, b"key"], self._tenants[tenant], b""), table)

    def change_policy(self) -> None:
        """Redis is another one, where tenants may do something else."""
        self.policy = replace(self.policy, unknown=(*self.policy.unknown, "x"))
        self._policy_since = self.world.now
        self._proxied._use_policy(self.policy, everywhere=False)

    def forgives(self, tenant: str | None) -> bool:
        """Whether errors of a tenant are allowed now; None: those of all tenants."""
        return self.world.now < max(self._forgiven[None], self._forgiven[tenant])

    def forgive(self, tenant: str | None, seconds: float) -> None:
        """Allows errors of a tenant for so many seconds, and for some time after that; None: those
        of all tenants.
        """
        seconds += RECOVERY if tenant is None else REVOCATION
        self._forgiven[tenant] = max(self._forgiven[tenant], self.world.now + seconds)

    def _stall(self) -> None:
        seconds = self.rng.choice([0.1, 2, 20])
        self.forgive(None, seconds)
        self.redis.stall(seconds)

    def _restart(self) -> None:
        if not self.redis.listens:
            return
        seconds = self.rng.choice([0.01, 1, 10])
        self.forgive(None, seconds + self._still_connecting)
        self.redis.stop()
        self.world.after(seconds, self.redis.start)

    def _load(self) -> None:
        """Restarts Redis, which then loads its data."""
        if not self.redis.listens:
            return
        seconds, loading = self.rng.choice([0.01, 1]), self.rng.choice([0.5, 5])
        self.forgive(None, seconds + loading + self._still_connecting)
        self.redis.stop()
        self.world.after(seconds, self.redis.start, loading)

    def _fill(self) -> None:
        """Redis has too many clients for a while. No client should notice, but for the delay."""
        self.redis.fill(self.rng.choice([0.1, 2, 5]))

    def _cut(self) -> None:
        """Cuts a connection to Redis within what Redis sends, perhaps much later."""
        self.redis.cut = lambda: self.forgive(None, 0)
        self.redis.cut_one()

    def _kill(self) -> None:
        self.forgive(None, 0)
        self.redis.kill_one()

    def _move(self) -> None:
        """Moves Redis to another address. The old one still works, and no client should notice."""
        self.serve_at_another_address(abandon=False)

    def _abandon(self) -> None:
        """Moves Redis to another address, and has the proxy give up its old connections."""
        self.forgive(None, 0)
        self.serve_at_another_address(abandon=True)

    def serve_at_another_address(self, abandon: bool) -> None:
        """Redis is at another address. abandon: the proxy gives up connections to the old one."""
        if not self.straight:
            self._backend = replace(self._backend, host=f"redis-{self.world.number()}")
            if self.host is not None:
                self.host = self._backend.host
            self._proxied.master._move(self._backend, abandon)

    def _rotate(self) -> None:
        self.rotate(self.rng.choice(["blue", "green"]))

    def rotate(self, tenant: str, late: float = 0.0) -> None:
        """Gives a tenant another password. late: seconds until the proxy knows of it."""
        self.redis.tenants.pop(self._passwords[tenant])
        self._passwords[tenant] = b"%b-%d" % (tenant.encode(), self.world.number())
        self.redis.tenants[self._passwords[tenant]] = self._tenants[tenant].index
        self.forgive(tenant, late)
        if late:
            self.world.after(late, self.reactor.callLater, 0, self._rotated, tenant)
        else:
            self._rotated(tenant)

    def _rotated(self, tenant: str) -> None:
        self._end_sessions(tenant)
        if not self.straight:
            self._use_directory()

    def _pause(self) -> None:
        """Pauses a tenant. Its clients with state at Redis are closed, and no others."""
        self._pause_for(self.rng.choice([0.01, 1, 5]))

    def _pause_for_long(self) -> None:
        """Pauses a tenant for longer than its commands are held."""
        self._pause_for(HOLD + 5)

    def _pause_for(self, seconds: float) -> None:
        self.pause(self.rng.choice(["blue", "green"]), seconds)

    def pause(self, tenant: str, seconds: float) -> None:
        """Pauses a tenant for so many seconds."""
        if self.straight or tenant in self._paused:
            return
        if seconds < HOLD:
            self._was_paused[tenant] = self.world.now + REVOCATION
        else:
            self.forgive(tenant, seconds)
        for actor in self.actors:
            if actor.tenant == tenant:
                actor.tenant_paused()
        self._paused.add(tenant)
        self._use_directory()
        self.world.after(seconds, self._resume, tenant)

    def _resume(self, tenant: str) -> None:
        self._paused.discard(tenant)
        self._use_directory()

    def _hand_over(self) -> None:
        self.hand_over()

    def hand_over(self) -> None:
        """Gives blue another database, and gives blue's database to green."""
        if self.straight:
            return
        for tenant, index in (("blue", self._tenants["blue"].index + 3), ("green", self._tenants["blue"].index)):
            self._end_sessions(tenant)
            self._tenants[tenant] = Tenant(tenant, index)
            self._owners.append((self.world.now, index, tenant))
        self._use_directory()

    def _end_sessions(self, tenant: str) -> None:
        self.forgive(tenant, 0)
        for actor in self.actors:
            if actor.tenant == tenant:
                actor.give_up_keys()

    # The run.

    def run_for(self, seconds: float) -> None:
        """Runs all actors for so many seconds. Then they leave, and what they began ends."""
        for actor in self.actors:
            self.world.after(0.0, actor.open)
        try:
            self.world.run(self.world.now + seconds)
            for actor in self.actors:
                actor.stop()
            self.world.run(self.world.now + 1.0)
        finally:
            for patch in reversed(self._patches):
                patch.stop()

    def run(self) -> list[Wrong]:
        """Runs the simulation. Returns what was wrong."""
        globalLogPublisher.addObserver(self._log)
        try:
            for actor in self.actors:
                self.world.after(self.rng.uniform(0, 0.2), actor.open)
            self._run_until_done()
            if not self.world.over:
                self._look_at_data()
                if not self.straight:
                    self._look_at_what_is_left()
        finally:
            globalLogPublisher.removeObserver(self._log)
            for patch in reversed(self._patches):
                patch.stop()
        return self.found

    def _run_until_done(self) -> None:
        world = self.world
        end = world.now + LONGEST
        while not world.over and not all(actor.done and actor.end is None for actor in self.actors):
            world.run(world.now + 1.0)
            if world.now >= end:  # those that still read slowly, one after the other where slots are few
                for actor in self.actors:
                    actor.steps = 0
            if world.now >= end + LONGEST:
                self.wrong("stuck", "clients are never done", None)
                world.over = True
            stuck = [actor for actor in self.actors if self._is_stuck(actor)]
            if stuck:
                for actor in stuck:
                    due = b" ".join(each.name for each in list(actor.expected)[:3]).decode()
                    self.wrong(
                        "stuck", f"{actor} waits for {len(actor.expected)} replies: {due}; {actor.end.unsent} unsent", None
                    )
                world.over = True

    def _is_stuck(self, actor: Actor) -> bool:
        if actor.end is None or not actor.expected or self.world.now - actor.progress < STUCK:
            return False
        return not (self.crowded and actor.waits_for_log_in)

    @property
    def _handed_over(self) -> bool:
        """Whether a database may have got another owner."""
        return "hand_over" in self.options.faults or "hand_over_queued" in self.options.newer_faults

    def _look_at_data(self) -> None:
        """Checks oracle 2."""
        there = {item for database in self.redis.databases for item in database.get(b"q", ())}
        for item in sorted(self.pushed - self.got - there):
            self._judge_lost_item(item)
        for when, tenant, late in self.behind:
            allowed = when < max(self._forgiven[None], self._forgiven[tenant])
            if not allowed and any(late in database for database in self.redis.databases):
                self.wrong(
                    "behind", f"{late.decode()} was set behind a blocked command, though its client left at {when:.3f}", None
                )
        for tenant in ("blue", "green"):
            for name, counter in ((b"counter", tenant), (b"increased", tenant + "-increased")):
                if counter in self._counted and not self._handed_over:
                    surely, perhaps = self._counted[counter]
                    value = int(self.redis.databases[self._tenants[tenant].index].get(name, b"0"))
                    if not surely <= value <= perhaps:
                        self.wrong("count", f"{counter} is {value}, not {surely} to {perhaps}", tenant)

    def _judge_lost_item(self, item: bytes) -> None:
        tenant = "blue" if item.startswith(b"blue") else "green"
        at, _ = self.redis.popped.get(item, (0.0, 0))
        if at < max(self._forgiven[None], self._forgiven[tenant]):
            return
        # The item was on its way when the client left. Without a proxy it would be lost as well.
        # The client may be the other tenant's, which has the database now.
        near = 8 * self.world.latency + 0.02
        for when, who in self.left:
            if abs(when - at) < near and (who == tenant or self._was_left_behind(item, who)):
                return
        left = [when for when, who in self.left if who == tenant and at - 5 < when < at]
        self.wrong("item-lost", f"{item.decode()} was popped at {at:.3f} for nobody; left while blocked: {left[-1:]}", None)

    def _look_at_what_is_left(self) -> None:
        """Checks oracle 3: all clients have left, so nothing is left behind."""
        self.world.run(self.world.now + 100.0)
        left = {
            "clients": len(self._factory.clients),
            "tenants with clients": len(self._factory.members),
            "places": self._admission.served,
            "waiting for a place": self._admission.waiting,
            "homes": len(self._proxied.pool._tenant_pools),
            "connections to Redis": max(0, len(self._proxied.pool) - 1),
            "bytes": self._factory.memory.size,
            "sessions that wait for memory": len(self._factory.memory.stopped),
            "commands in an order": sum(
                len(order._entries) + len(order._counts) for order in self._proxied.pool._orders.values()
            ),
            "pools in an order": sum(len(order.pools) for order in self._proxied.pool._orders.values()),
            "spare connections": len(self._proxied.sessions._spares._openings),
        }
        if any(left.values()):
            self.wrong("left", ", ".join(f"{count} {name}" for name, count in left.items() if count), None)
        self._factory.stopFactory()
        self._holder.stopService()
        self._proxied.stopService()
        self.world.run(self.world.now + 10.0)
        calls = self.reactor.getDelayedCalls()
        if calls:
            self.wrong("left", f"calls: {[str(call.call) for call in calls]}", None)


#: The words of a command.
Words = Sequence[bytes]


def options_of(seed: int) -> Options:
    """Returns the options that `python -m tests.sim` uses for a seed.

    Odd seeds have faults. Of twenty, two are the control, four have slow scripts, and ten have
    RARE, two of them with slow scripts. Half of RARE has WINDOWS. Of those with slow scripts or
    RARE, a third has a bound of memory, and a third of RARE has shares of the slots.
    """
    kind = seed % 10
    if kind == 0:
        return Options(straight=True, newer=(*NEWER, *RARE) if seed % 20 else NEWER)
    slow = kind in (6, 7)
    rare = kind in (4, 5, 8, 9) or seed % 20 in (16, 17)
    newer: tuple[str, ...] = (*SCRIPTS, "scripts") * 3 if slow else NEWER
    if slow and rare:  # not "leave_blocked", whose times are too short for slow scripts
        newer += tuple(name for name in NEWER if name != "leave_blocked")
    newer_faults: tuple[str, ...] = NEWER_FAULTS + PAUSES
    if rare:
        newer_faults += RARE_FAULTS
    if slow and rare:
        newer_faults += SLOW_RARE_FAULTS
    if rare and seed % 4 == 3:
        newer_faults += SLOW_LOG_FAULTS
    if rare:
        newer += RARE
    if rare and seed % 4 > 1:  # these keep Redis busy, too
        newer = tuple(name for name in newer if name != "leave_blocked") + WINDOWS
        newer_faults += WINDOW_FAULTS
    return Options(
        limits=ALL_LIMITS,
        newer=newer,
        faults=FAULTS if seed % 2 else (),
        newer_faults=newer_faults if seed % 2 else (),
        memory=400_000 if (slow or rare) and seed % 3 == 0 else None,
        shares=rare and seed % 3 == 1,
    )
