"""Conversations whose client and Redis are the test: the recording upstream connections and homes under a session, and their
assertions.

Owns what tests of sessions write their transcripts with. It opens no socket and starts no process.
"""

from __future__ import annotations

import unittest

from redisproxy.policy.facts import builtin
from redisproxy.policy.policy import Policy, make_policy
from redisproxy.resp.framing import encode
from redisproxy.session.info import CLIENT_STATS
from redisproxy.session.pending import PendingReplies, ReplyBatch
from redisproxy.session.session import OK, Session
from redisproxy.tenants.model import Credential, Snapshot, Tenant, digest

BLUE = Credential(Tenant("blue", 3), "redis-secret-master", digest(b"blue"))
GREEN = Credential(Tenant("green", 5), "redis-secret-master", digest(b"green"))
DIRECTORY = Snapshot(None, [BLUE, GREEN])
POLICY = make_policy(builtin(), scripts=True, databases=True)


class RecordingUpstream:
    """An upstream connection whose Redis is the test: the real pending replies, and lists of what was sent."""

    busy = False

    def __init__(self, conversation: Conversation, protocol: int = 2) -> None:
        self.protocol = protocol
        self.pending = PendingReplies(protocol)
        self.latest, self.withdraw = self.pending.latest, self.pending.withdraw
        self.sent = b""
        self.paused = False
        #: None: not yet; else whether what blocks was given up, too
        self.given_up: bool | None = None
        self.released: bool | None = None
        self._conversation = conversation

    def send(self, data: bytes, *batches: ReplyBatch) -> None:
        assert self.released is None, "sent to an upstream connection that was given back"
        assert self.given_up is None, "sent to an upstream connection that was given up"
        self.pending.batches.extend(batches)
        self.sent += data

    def pause(self, paused: bool) -> None:
        self.paused = paused

    def give_up(self, blocked: bool) -> None:
        self.given_up = blocked

    def release(self, clean: bool) -> None:
        assert self.released is None, "given back twice"
        self.released = clean
        self.pending.abandon()


class Conversation:
    """A session between a client and a Redis that the test plays. It is its own link."""

    shares = False
    taken = 0

    def __init__(self, snapshot: Snapshot = DIRECTORY, upstreams_at_once: bool = True) -> None:
        """upstreams_at_once: an upstream connection is there as soon as the session asks for one; if not, the test opens
        it.
        """
        self.id = 7
        self.peer = "192.0.2.1:5555"
        self.age = 12
        self.questions: list[list[list[bytes]]] = []
        self.permitted: list[bytes] = []
        self.logouts = 0
        self.audited: list[str] = []
        self.looked: list[bytes] = []
        self.snapshot = snapshot
        self.upstreams_at_once = upstreams_at_once
        self.upstreams: list[RecordingUpstream] = []
        self.asked: list[Credential] = []
        self.asked_protocol = 2
        self.told = b""
        self.closed: str | None = None
        self.held = False
        self.session = Session(self)

    # The link.

    def write(self, data: bytes) -> None:
        self.told += data

    def close(self, close_reason: str) -> None:
        self.closed = self.closed or close_reason

    def abort(self, close_reason: str) -> None:
        self.closed = self.closed or close_reason

    def pause_reading(self) -> None:
        self.held = True

    def resume_reading(self) -> None:
        self.held = False

    def policy(self) -> Policy:
        return POLICY

    def ask(self, commands: list[list[bytes]]) -> None:
        self.questions.append(commands)

    def permit(self, patterns: list[bytes]) -> None:
        self.permitted += patterns
        self.session.told(None)

    def inspected(self, name: bytes) -> None:
        self.looked.append(name)

    def forbidden(self, name: str) -> None:
        self.audited.append(name)

    def delay_login_error(self, error: bytes) -> None:
        self.session.login_error_due(error, False)

    def logged_out(self) -> None:
        self.logouts += 1

    def stats(self) -> dict[str, int]:
        return dict.fromkeys(CLIENT_STATS, 4) | {"pubsub_patterns": 6}

    def authenticate(self, username: str | None, password: bytes) -> Credential:
        return self.snapshot.authenticate(username, password, 0.0)

    def acquire(self, credential: Credential, protocol: int) -> None:
        self.asked.append(credential)
        self.asked_protocol = protocol
        if self.upstreams_at_once:
            self.open_upstream()

    # The test's side.

    def open_upstream(self) -> None:
        self.upstreams.append(RecordingUpstream(self, self.asked_protocol))
        self.session.upstream_opened(self.upstreams[-1])

    def recheck(self, snapshot: Snapshot, now: float = 0.0) -> None:
        """Another directory is in force, or time has passed."""
        if self.session.recheck(lambda credential: snapshot.renewed(credential, now)):
            self.session.end_revoked()

    @property
    def waits(self) -> bool:
        """Whether no more commands are taken for now."""
        return bool(self.session._wait)

    @property
    def upstream(self) -> RecordingUpstream:
        return self.upstreams[-1]

    def client(self, *parts: bytes) -> Conversation:
        data = b"".join(parts)
        self.taken += len(data)
        self.session.received(data)
        return self

    def command(self, *words: bytes) -> Conversation:
        return self.client(encode(words))

    def redis(self, data: bytes, upstream: int = -1) -> Conversation:
        self.upstreams[upstream].pending.received(data)
        return self

    def hears(self) -> bytes:
        """What the client was told since the last time."""
        told, self.told = self.told, b""
        return told

    def gets(self) -> bytes:
        """What Redis was sent since the last time, on the newest upstream connection."""
        sent, self.upstream.sent = self.upstream.sent, b""
        return sent


def logged_in(protocol: int = 2, **options: object) -> Conversation:
    """Blue's conversation with a dedicated connection, at the first command after the log-in."""
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


class RecordingHome:
    """A tenant's multiplexed connections, of which the test is the Redis."""

    def __init__(self, conversation: SharedConversation, protocol: int) -> None:
        self.protocol = protocol
        self.upstream: RecordingUpstream | None = RecordingUpstream(conversation, protocol)
        self.away = ""
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

    def breaks(self, begun: bool = False) -> None:
        """As `upstream.multiplexed` does when a connection is lost."""
        upstream, self.upstream = self.upstream, None
        for owner in dict.fromkeys(batch.owner for batch in upstream.pending.abandon()):
            owner.multiplexed_lost(begun)


class SharedConversation(Conversation):
    """A session that shares upstream connections. `upstream connections` are those of its own."""

    shares = True

    def __init__(self, **options: object) -> None:
        self.homes: list[RecordingHome] = []
        super().__init__(**options)

    def share(self, credential: Credential, protocol: int) -> None:
        self.asked.append(credential)
        self.asked_protocol = protocol
        self.homes.append(RecordingHome(self, protocol))
        self.session.multiplexed_ready(self.homes[-1])

    @property
    def tenant_pool(self) -> RecordingHome:
        return self.homes[-1]

    def shared_gets(self) -> bytes:
        """What was sent over the multiplexed connection since the last time."""
        sent, self.tenant_pool.upstream.sent = self.tenant_pool.upstream.sent, b""
        return sent

    def shared_redis(self, data: bytes) -> SharedConversation:
        self.tenant_pool.upstream.pending.received(data)
        return self


def logged_in_at_home(**options: object) -> SharedConversation:
    """Blue's conversation over multiplexed connections, at the first command after the log-in."""
    conversation = SharedConversation(**options)
    conversation.command(b"AUTH", b"blue")
    assert conversation.hears() == OK
    return conversation


class SharedCase(ConversationCase):
    def assertHome(self, conversation: SharedConversation) -> None:
        self.assertFalse(conversation.session.dedicated)
        self.assertTrue(all(upstream.released is not None for upstream in conversation.upstreams))
