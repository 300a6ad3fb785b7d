"""Conversations in which the test plays the client and Redis: fakes of the connections around a
session, and assertions about them.

Owns the classes that tests of sessions are written with. It opens no socket and starts no process.
"""

from __future__ import annotations

import unittest
from collections import Counter
from collections.abc import Callable, Collection

from redisproxy.policy.facts import builtin
from redisproxy.policy.policy import Policy, make_policy
from redisproxy.resp.framing import WINDOWED, encode
from redisproxy.session.client_visit import ClientVisit
from redisproxy.session.errors import OK
from redisproxy.session.info import CLIENT_STATS
from redisproxy.session.order import UNORDERED
from redisproxy.session.pending import PendingReplies, ReplyBatch
from redisproxy.session.ports import Unavailable
from redisproxy.session.scripts import Scripts
from redisproxy.session.session import Session
from redisproxy.session.state import Step
from redisproxy.session.transactions import Transactions
from redisproxy.tenants.memory import FREE, Memory
from redisproxy.tenants.model import AuthenticationError, Credential, Snapshot, Tenant, TenantFullError, digest
from redisproxy.tenants.window import Window

BLUE = Credential(Tenant("blue", 3), "redis-secret-master", digest(b"blue"))
GREEN = Credential(Tenant("green", 5), "redis-secret-master", digest(b"green"))
DIRECTORY = Snapshot(None, [BLUE, GREEN])
POLICY = make_policy(builtin(), scripts=True, databases=True)


class RecordingUpstream:
    """A connection to a Redis that the test plays: the real pending replies, and a record of the
    sent bytes.
    """

    busy = runs_scripts = in_rounds = False
    #: bytes of commands that Redis has not taken
    unsent = 0
    #: bytes that the kernel uses for it
    in_kernel = 0

    def __init__(self, conversation: Conversation, protocol: int = 2) -> None:
        self.protocol = protocol
        self.pending = PendingReplies(protocol)
        self.newest, self.withdraw = self.pending.newest, self.pending.withdraw
        self.sent = b""
        #: of commands that were sent in rounds: how many replies and places they need
        self.rounds: list[tuple[int, int]] = []
        #: how often it had to decide whether replies are read
        self.settled = 0
        self.paused = False
        #: None: not given up; else the value of `blocked`: whether blocked commands were given up,
        #: too.
        self.given_up: bool | None = None
        self.released: bool | None = None
        self._conversation = conversation

    @property
    def overloaded(self) -> bool:
        return self.busy

    def send(self, data: bytes, batch: ReplyBatch | None = None) -> None:
        assert self.released is None, "sent to a connection that was given back"
        assert self.given_up is None, "sent to a connection that was given up"
        if batch is not None:
            self.pending.batches.append(batch)
        self.sent += data

    def send_in_rounds(self, data: bytes, batch: ReplyBatch, needed: int, window: object) -> None:
        self.rounds.append((batch.count, needed))
        self.send(data, batch)

    def expect(self, batch: ReplyBatch) -> None:
        self.pending.batches.append(batch)

    def carry_session(self, session: object) -> None:
        assert session is self._conversation.session

    def settle(self) -> None:
        """The test decides what is read."""
        self.settled += 1

    def others_wait(self, session: object) -> bool:
        return False

    def pause(self, paused: bool) -> None:
        self.paused = paused

    def give_up(self, blocked: bool) -> None:
        self.given_up = blocked

    def release(self, clean: bool) -> None:
        assert self.released is None, "given back twice"
        self.released = clean
        self.pending.abandon()


class RecordingReservation:
    """A reservation of one of a tenant's connections."""

    def __init__(self) -> None:
        self.kept: bool | None = None

    def keep(self) -> None:
        assert self.kept is None
        self.kept = True

    def cancel(self) -> None:
        assert self.kept is None
        self.kept = False


class Conversation:
    """A session between a client and a Redis that the test plays. It is everything that the session
    knows of the outside.
    """

    multiplexes = False
    bytes_received = 0
    #: whether the client counts as gone
    has_left = False

    def __init__(self, snapshot: Snapshot = DIRECTORY, upstreams_at_once: bool = True, policy: Policy = POLICY) -> None:
        """upstreams_at_once: a connection opens as soon as the session asks for one; if False, the
        test opens it.
        """
        self.id = 7
        self.peer = "192.0.2.1:5555"
        self.local = "192.0.2.9:6379"
        self.age = 12
        self.policy = policy
        self.questions: list[list[list[bytes]]] = []
        self.permitted: list[bytes] = []
        #: how many uses of each pattern the session has
        self.in_use: Counter[bytes] = Counter()
        self._asked_for: tuple[Step, list[bytes]] | None = None
        #: Whether patterns are allowed as soon as the session asks.
        self.permits_at_once = True
        self.tracking_allowed: list[Tenant] = []
        self.identities: list[Credential | None] = []
        self.reservations: list[RecordingReservation] = []
        #: Tenants that have reached their maximum of connections.
        self.full: set[Tenant] = set()
        self.audited: list[str] = []
        self.looked: list[bytes] = []
        #: the latest visit of the tenant's sessions
        self.visiting: ClientVisit | None = None
        #: other sessions of the tenant
        self.siblings: list[Session] = []
        #: bytes of own answers that the tenant was charged for
        self.charged = 0
        self.snapshot = snapshot
        self.upstreams_at_once = upstreams_at_once
        self.upstreams: list[RecordingUpstream] = []
        self.asked: list[Tenant] = []
        self.asked_protocol = 2
        #: The latest Step that the session waits for.
        self.step: Step | None = None
        #: Whether log-ins wait for a slot, and the last one that does.
        self.slots_taken = False
        self.slot_step: Step | None = None
        self.told = b""
        self.closed: str | None = None
        self.held = False
        #: Whether the tenant's work waits because Redis is away.
        self.redis_away = False
        self.bugs: list[BaseException] = []
        self.now = 0.0
        #: Seconds until a wrong password is answered.
        self.login_delay = 0.0
        self.windows: dict[Tenant, Window] = {}
        #: names of plain commands that go through the window
        self.slow: dict[Tenant, list[bytes]] = {}
        #: what a window does a while later
        self.later: list[Callable[[], None]] = []
        self.known_scripts: dict[Tenant, Scripts] = {}
        self.open_transactions: dict[Tenant, Transactions] = {}
        self.script_errors: dict[Tenant, bytes] = {}
        self.session = Session(self, self, self)

    # The client's connection.

    def write(self, data: bytes) -> None:
        self.told += data

    def close(self, close_reason: str) -> None:
        self.closed = self.closed or close_reason

    def abort(self, close_reason: str) -> None:
        self.closed = self.closed or close_reason

    def gather(self) -> None:
        pass  # each answer stays an entry of its own, for the assertions

    def write_gathered(self) -> None:
        pass

    def pause_reading(self) -> None:
        self.held = True

    def resume_reading(self) -> None:
        self.held = False

    def bug(self, error: BaseException) -> None:
        raise error

    def deadline_changed(self) -> None:
        self.session.time_is(self.now)

    def sends_much_early(self) -> None:
        self.sent_much_early = True

    def identity_changed(self, credential: Credential | None) -> None:
        assert credential == self.session.credential or credential is None
        self.identities.append(credential)

    def inspected(self, name: bytes) -> None:
        self.looked.append(name)

    def forbidden(self, name: str) -> None:
        self.audited.append(name)

    # Accounts.

    def authenticate(self, username: str | None, password: bytes) -> Credential:
        return self.snapshot.authenticate(username, password, 0.0)

    def look_again(self, username: str | None, password: bytes) -> Credential | None:
        try:
            return self.authenticate(username, password)
        except AuthenticationError:
            return None

    def reserve(self, credential: Credential) -> RecordingReservation:
        if credential.tenant in self.full:
            raise TenantFullError
        self.reservations.append(RecordingReservation())
        return self.reservations[-1]

    def take_slot_at_once(self, tenant: Tenant) -> bool:
        return not self.slots_taken

    def take_slot(self, tenant: Tenant, step: Step) -> None:
        self.slot_step = step

    def wrong_password(self) -> tuple[float, bool]:
        return self.now + self.login_delay, False

    def may_track(self, tenant: Tenant) -> bool:
        return self.snapshot.limits_of(tenant.namespace).client_tracking

    def visit(self, visit: ClientVisit, step: Step) -> None:
        self.step = step
        self.visiting = visit

    def charge(self, answer: bytes) -> None:
        self.charged += len(answer)

    def stats(self) -> dict[str, int]:
        return dict.fromkeys(CLIENT_STATS, 4) | {"pubsub_patterns": 6}

    # The backend.

    def acquire(self, tenant: Tenant, protocol: int, step: Step) -> None:
        self.asked.append(tenant)
        self.asked_protocol = protocol
        self.step = step
        if self.upstreams_at_once:
            self.open_upstream()

    def query(self, tenant: Tenant, commands: list[list[bytes]], step: Step) -> None:
        assert self.session.credential is not None and tenant == self.session.credential.tenant
        self.questions.append(commands)
        self.step = step

    def transactions(self, tenant: Tenant) -> Transactions:
        return self.open_transactions.setdefault(tenant, Transactions())

    def scripts(self, tenant: Tenant) -> Scripts:
        return self.known_scripts.setdefault(tenant, Scripts(tenant.channel_prefix))

    def window(self, tenant: Tenant) -> Window:
        return self.windows.setdefault(tenant, Window(lambda: self.now, lambda _, call: self.later.append(call)))

    def table(self, tenant: Tenant, usual: dict[bytes, int]) -> dict[bytes, int]:
        slow = self.slow.get(tenant, ())
        return usual | dict.fromkeys(slow, WINDOWED) if slow else usual

    def holds(self, tenant: Tenant) -> bool:
        return self.redis_away

    def busy_error(self) -> str:
        return ""

    def script_error(self, tenant: Tenant) -> bytes:
        return self.script_errors.get(tenant, b"")

    def order(self, tenant: Tenant) -> object:
        return UNORDERED

    def allow_patterns(self, tenant: Tenant, patterns: list[bytes], step: Step) -> None:
        assert self.session.credential is not None and tenant == self.session.credential.tenant
        self.permitted += patterns
        self.step = step
        self._asked_for = step, patterns
        if self.permits_at_once:
            self.finish(None)

    def leave_patterns(self, tenant: Tenant, patterns: Collection[bytes]) -> None:
        self.in_use.subtract(set(patterns))
        assert min(self.in_use.values(), default=0) >= 0, "a pattern is left twice"
        self.in_use += Counter()  # without those that have no use

    def allow_tracking(self, tenant: Tenant, step: Step) -> None:
        assert self.session.credential is not None and tenant == self.session.credential.tenant
        self.tracking_allowed.append(tenant)
        self.step = step
        if self.permits_at_once:
            step.finish(None)

    # Called by the test.

    def has_memory(self, size: int) -> Memory:
        """Gives the session's tenant so many bytes. Returns its memory."""
        memory = Memory(int(size / FREE) + 1)
        self.session.usage.belongs_to(memory, "blue")
        return memory

    def finish(self, result: object) -> bool:
        """Finishes the latest Step with this result."""
        assert self.step is not None
        if result is None and self._asked_for is not None and self._asked_for[0] is self.step and self.step.waits:
            self.in_use.update(set(self._asked_for[1]))
        return self.step.finish(result)

    def finish_visit(self) -> None:
        """Visits this session and `siblings`, and finishes the Step."""
        assert self.visiting is not None
        for session in (self.session, *self.siblings):
            self.visiting.see(session)
        self.finish(self.visiting)

    def open_upstream(self) -> None:
        upstream = RecordingUpstream(self, self.asked_protocol)
        self.upstreams.append(upstream)
        if not self.finish(upstream):
            upstream.release(clean=True)

    def refuse_upstream(self, error: str = "", closes: bool = False) -> None:
        self.finish(Unavailable(error, closes=closes))

    def use_policy(self, policy: Policy) -> None:
        """Switches to another policy, as if Redis was replaced or its rules changed."""
        self.policy = policy
        self.session.policy_changed()

    def recheck(self, snapshot: Snapshot, now: float = 0.0) -> None:
        """Checks the session against another snapshot, or at a later time."""
        if self.session.ending.recheck(lambda credential: snapshot.renewed(credential, now)):
            self.session.ending.close_if_drained()

    @property
    def waits(self) -> bool:
        """Whether the session takes no more commands for now."""
        return bool(self.session.gates)

    @property
    def upstream(self) -> RecordingUpstream:
        return self.upstreams[-1]

    def client(self, *parts: bytes) -> Conversation:
        data = b"".join(parts)
        self.bytes_received += len(data)
        self.session.received(data)
        return self

    def command(self, *words: bytes) -> Conversation:
        return self.client(encode(words))

    def redis(self, data: bytes, upstream: int = -1) -> Conversation:
        self.upstreams[upstream].pending.received(data)
        return self

    def hears(self) -> bytes:
        """Returns what the client received since the last call."""
        told, self.told = self.told, b""
        return told

    def gets(self) -> bytes:
        """Returns what Redis received since the last call, on the newest dedicated connection."""
        sent, self.upstream.sent = self.upstream.sent, b""
        return sent


def logged_in(protocol: int = 2, **options: object) -> Conversation:
    """Returns Blue's conversation with a dedicated connection, right after the log-in."""
    conversation = Conversation(**options)
    conversation.command(b"AUTH", b"blue")
    assert conversation.hears() == OK
    if protocol == 3:
        conversation.command(b"HELLO", b"3").redis(b"%0\r\n")
        conversation.hears(), conversation.gets()
    return conversation


class ConversationCase(unittest.TestCase):
    def assertHears(self, conversation: Conversation, *expected: bytes) -> None:
        self.assertEqual(conversation.hears(), b"".join(expected))

    def assertRefused(self, conversation: Conversation, start: bytes) -> None:
        told = conversation.hears()
        self.assertTrue(told.startswith(start) and told.endswith(b"\r\n") and told.count(b"\r\n") == 1, told)


class RecordingScriptPool:
    """A tenant's multiplexed connection for scripts to a Redis that the test plays."""

    def __init__(self, conversation: SharedConversation, protocol: int) -> None:
        self.upstream: RecordingUpstream | Unavailable = RecordingUpstream(conversation, protocol)
        self.slow = False
        self.waiting: list[Step] = []

    @property
    def available(self) -> RecordingUpstream | None:
        return None if isinstance(self.upstream, Unavailable) or self.slow or self.upstream.busy else self.upstream

    def wait_until_free(self, step: Step) -> None:
        self.waiting.append(step)

    def ready(self) -> None:
        waiting, self.waiting = self.waiting, []
        for step in waiting:
            step.finish(None)

    def breaks(self) -> None:
        """Loses the connection."""
        upstream, self.upstream = self.upstream, Unavailable(busy=True)
        lose(upstream)


def lose(upstream: RecordingUpstream) -> None:
    """Notifies the sessions of a lost connection, with the same calls as `upstream.multiplexed`."""
    oldest: dict[object, ReplyBatch] = {}
    for batch in upstream.pending.abandon():
        oldest.setdefault(batch.receiver, batch)
    for receiver, batch in oldest.items():
        receiver.upstream_lost(batch)


class RecordingPool:
    """A tenant's multiplexed connections to a Redis that the test plays."""

    def __init__(self, conversation: SharedConversation, protocol: int) -> None:
        self.protocol = protocol
        self.upstream: RecordingUpstream | Unavailable = RecordingUpstream(conversation, protocol)
        self.scripts = RecordingScriptPool(conversation, protocol)
        self.users = 1
        self.waiting: list[object] = []

    def wait(self, session: object) -> None:
        self.waiting.append(session)

    def leave(self) -> None:
        self.users -= 1

    def ready(self) -> None:
        waiting, self.waiting = self.waiting, []
        for session in waiting:
            session.upstream_ready()

    def goes_away(self, error: str = "", closes: bool = False) -> None:
        """Closes the connection; a new one cannot be opened. closes: the time to wait is over."""
        self.upstream = Unavailable(error, closes=closes)
        self.ready()

    def breaks(self) -> None:
        """Loses the connection."""
        upstream, self.upstream = self.upstream, Unavailable(busy=True)
        lose(upstream)


class SharedConversation(Conversation):
    """A session over multiplexed connections. `upstreams` are its dedicated ones."""

    multiplexes = True

    def __init__(self, **options: object) -> None:
        self.pools: list[RecordingPool] = []
        #: The error that refuses a pool; empty: none does.
        self.refuses_pools = ""
        #: The state of pools that are joined, if Redis is busy with a script.
        self.busy_pools: Unavailable | None = None
        super().__init__(**options)

    def join_at_once(self, tenant: Tenant, protocol: int) -> RecordingPool | None:
        if self.refuses_pools or self.busy_pools:
            return None
        self.asked.append(tenant)
        self.asked_protocol = protocol
        self.pools.append(RecordingPool(self, protocol))
        return self.pools[-1]

    def join(self, tenant: Tenant, protocol: int, step: Step) -> None:
        self.asked.append(tenant)
        self.asked_protocol = protocol
        self.step = step
        if self.refuses_pools:
            step.finish(Unavailable(self.refuses_pools))
            return
        pool = RecordingPool(self, protocol)
        pool.upstream = self.busy_pools or pool.upstream
        self.pools.append(pool)
        if not step.finish(pool):
            pool.leave()

    @property
    def tenant_pool(self) -> RecordingPool:
        return self.pools[-1]

    def shared_gets(self) -> bytes:
        """Returns what was sent over the multiplexed connection since the last call."""
        sent, self.tenant_pool.upstream.sent = self.tenant_pool.upstream.sent, b""
        return sent

    def shared_redis(self, data: bytes) -> SharedConversation:
        self.tenant_pool.upstream.pending.received(data)
        return self

    def scripts_gets(self) -> bytes:
        """Returns what was sent over the connection for scripts since the last call."""
        upstream = self.tenant_pool.scripts.upstream
        sent, upstream.sent = upstream.sent, b""
        return sent

    def scripts_redis(self, data: bytes) -> SharedConversation:
        self.tenant_pool.scripts.upstream.pending.received(data)
        return self


def logged_in_multiplexed(**options: object) -> SharedConversation:
    """Returns Blue's conversation over multiplexed connections, right after the log-in."""
    conversation = SharedConversation(**options)
    conversation.command(b"AUTH", b"blue")
    assert conversation.hears() == OK
    return conversation


class SharedCase(ConversationCase):
    def assertHome(self, conversation: SharedConversation) -> None:
        self.assertIsNone(conversation.session.dedicated)
        self.assertTrue(all(upstream.released is not None for upstream in conversation.upstreams))
