"""Tenants' users in a real Redis, created at once by several processes or replicas of the proxy."""

from __future__ import annotations

from collections.abc import Callable

import redis
from twisted.internet import defer
from twisted.trial import unittest

from redisproxy import bounds
from redisproxy.policy.acl import granted, only_patterns
from redisproxy.policy.facts import builtin, parse
from redisproxy.policy.policy import make_policy
from redisproxy.policy.probing import Server
from redisproxy.tenants.model import Tenant
from redisproxy.upstream.acl_users import AclUserError, AclUsers
from redisproxy.upstream.client import ControlError, ReplyError

from ..support.clients import client_once
from ..support.control import Control, run
from ..support.servers import MASTER_PASSWORD, RedisServer, on_every_server
from ..support.waiting import LIMIT

BLUE = Tenant("team-blue", 3)
MASTER = MASTER_PASSWORD.encode()
BUSY = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."


def fails(words: tuple) -> None:
    raise ControlError("Redis did not answer")


def is_busy(words: tuple) -> None:
    raise ReplyError(BUSY)


async def settled(tenant: Tenant) -> None:
    """Nobody removes patterns."""


class Unknown:
    """A control connection that is lost, or not there yet."""

    connected = True

    async def ask(self, *words: bytes | str) -> object:
        raise ControlError("the control connection is not there")


class OneLayerTests(unittest.SynchronousTestCase):
    def test_what_one_redis_has_not_says_nothing_of_another(self) -> None:
        """No connection gets the master's rights before it is known what the new Redis is."""
        control = Unknown()
        acl_users = AclUsers("auto", control)
        acl_users.use(Server("a Redis", 64, builtin(), False, False), make_policy(builtin(), scripts=False))
        self.assertIsNone(run(acl_users.login(BLUE, MASTER)))
        control.connected = False
        acl_users.forget_all()
        with self.assertRaises(AclUserError) as caught:
            run(acl_users.login(BLUE, MASTER))
        self.assertTrue(caught.exception.passing)


class Asked:
    """A control connection that answers when the test says so.

    asked: the questions, each with the Deferred of its answer.
    """

    connected = True

    def __init__(self) -> None:
        self.asked: list[tuple[tuple, defer.Deferred]] = []

    def ask(self, *words: bytes | str) -> defer.Deferred:
        answered: defer.Deferred = defer.Deferred()
        self.asked.append((words, answered))
        return answered


class RightsTests(unittest.SynchronousTestCase):
    """The policy changes while a user is being created."""

    def setUp(self) -> None:
        self.control = Asked()
        self.acl_users = AclUsers("require", self.control)
        self.use(scripts=False)

    def use(self, scripts: bool) -> None:
        policy = make_policy(builtin(), scripts=True, sealed=scripts)
        self.acl_users.use(Server("a Redis", 64, builtin(), True, False), policy)

    def test_a_user_that_was_being_made_gets_the_new_rights(self) -> None:
        first = defer.Deferred.fromCoroutine(self.acl_users.login(BLUE, MASTER))
        words, answered = self.control.asked.pop()
        self.assertNotIn(b"+eval", words)
        self.use(scripts=True)
        # The update of the users' rights waits for the same user.
        second = defer.Deferred.fromCoroutine(self.acl_users.login(BLUE, MASTER))
        answered.callback(b"OK")
        self.assertNoResult(second)
        for words, answered in self.control.asked:
            self.assertIn(b"+eval", words)
            answered.callback(b"OK")
        self.assertEqual(self.successResultOf(second), self.successResultOf(first))
        self.control.asked.clear()
        self.successResultOf(defer.Deferred.fromCoroutine(self.acl_users.login(BLUE, MASTER)))
        self.assertEqual(self.control.asked, [])


@on_every_server
class ReplicasTests(unittest.SynchronousTestCase):
    def acl_users(self, server: RedisServer) -> AclUsers:
        control = Control(server)
        self.addCleanup(control._client.close)
        acl_users = AclUsers("require", control)
        acl_users.control = control
        commands = parse(control._client.execute_command("COMMAND"))
        acl_users.use(Server("a Redis", 64, commands, True, False), make_policy(commands, scripts=True))
        return acl_users

    def start(self, binary: Callable[[], str]) -> RedisServer:
        server = RedisServer(binary).start()
        self.addCleanup(server.stop)
        return server

    def subscribed(self, server: RedisServer, acl_users: AclUsers) -> redis.client.PubSub:
        """Returns a session of the tenant's user that is subscribed to a pattern."""
        name, password = run(acl_users.login(BLUE, MASTER))
        run(acl_users.permit(BLUE, [b"team-blue:news.*"], settled))
        client = client_once(port=server.port, username=name.decode(), password=password.decode())
        pubsub = client.pubsub()
        self.addCleanup(client.close)
        self.addCleanup(pubsub.close)
        pubsub.psubscribe("team-blue:news.*")
        self.assertEqual(pubsub.get_message(timeout=LIMIT)["type"], "psubscribe")
        return pubsub

    def assertHears(self, server: RedisServer, pubsub: redis.client.PubSub) -> None:
        self.assertEqual(server.client().publish("team-blue:news.today", "x"), 1, "it was not disconnected")
        self.assertEqual(pubsub.get_message(timeout=LIMIT)["data"], b"x")

    def each_another_one_provisions_the_user_again(self, binary: Callable[[], str]) -> None:
        server = self.start(binary)
        first, second = self.acl_users(server), self.acl_users(server)
        pubsub = self.subscribed(server, first)
        self.assertEqual(run(second.login(BLUE, MASTER)), run(first.login(BLUE, MASTER)))
        self.assertHears(server, pubsub)
        run(second.permit(BLUE, [b"team-blue:other.*"], settled))
        self.assertHears(server, pubsub)

    def opens(self, server: RedisServer, login: tuple[bytes, bytes]) -> bool:
        name, password = (part.decode() for part in login)
        try:
            return client_once(port=server.port, username=name, password=password, protocol=2).ping()
        except redis.AuthenticationError:
            return False

    def each_one_that_knows_another_master_password_does_not_take_the_user(self, binary: Callable[[], str]) -> None:
        """A replica that knows another master password leaves the others' password valid."""
        server = self.start(binary)
        first, second = self.acl_users(server), self.acl_users(server)
        for _ in range(3):
            logins = []
            for acl_users, password in ((first, MASTER), (second, b"another"), (first, b"another")):
                acl_users.forget_all()
                logins.append(run(acl_users.login(BLUE, password)))
                self.assertEqual([self.opens(server, login) for login in logins], [True] * len(logins))

    def each_a_user_that_takes_any_password_does_not_after_it_is_provisioned(self, binary: Callable[[], str]) -> None:
        server = self.start(binary)
        acl_users = self.acl_users(server)
        name, _ = run(acl_users.login(BLUE, MASTER))
        server.client().execute_command("ACL", "SETUSER", name, "nopass")
        self.assertTrue(self.opens(server, (name, b"whatever")))
        acl_users.forget(BLUE)
        run(acl_users.login(BLUE, MASTER))
        self.assertFalse(self.opens(server, (name, b"whatever")))

    def each_connections_of_before_log_in_too(self, binary: Callable[[], str]) -> None:
        """A process with several master passwords gives Redis the user's password of each, even at
        once.
        """
        server = self.start(binary)
        acl_users = self.acl_users(server)
        logins = []
        acl_users.control.before = lambda _: logins.append(run(acl_users.login(BLUE, b"another")))
        logins.append(run(acl_users.login(BLUE, MASTER)))
        for password in (b"third", MASTER):
            logins.append(run(acl_users.login(BLUE, password)))
        self.assertEqual(len(set(logins)), 3)
        self.assertEqual([self.opens(server, login) for login in logins], [True] * 4)

    def each_patterns_that_redis_cannot_be_told_of(self, binary: Callable[[], str]) -> None:
        acl_users = self.acl_users(self.start(binary))
        run(acl_users.login(BLUE, MASTER))
        for pattern in (b"team-blue:a b", b"team-blue:\0", b"team-blue:a\r\n", b"team-blue:\t", b"team-blue:\v"):
            with self.assertRaises(ControlError) as caught:
                run(acl_users.permit(BLUE, [b"team-blue:fit", pattern], settled))
            self.assertIn("spaces or NUL bytes", caught.exception.client_reply)
        run(acl_users.permit(BLUE, [b"team-blue:\xff\x01", b"team-blue:fit"], settled))

    def each_client_side_caching(self, binary: Callable[[], str]) -> None:
        """The user has the right while the tenant has it; the next log-in takes it away."""
        server = self.start(binary)
        acl_users, other = self.acl_users(server), self.acl_users(server)
        name, password = run(acl_users.login(BLUE, MASTER))

        def may() -> bool:
            with client_once(port=server.port, username=name.decode(), password=password.decode(), protocol=3) as client:
                try:
                    return bool(client.execute_command("CLIENT", "TRACKING", "ON"))
                except redis.exceptions.NoPermissionError:
                    return False

        run(acl_users.permit_tracking(BLUE))
        self.assertFalse(may())
        acl_users.let_track({"team-green"})
        run(acl_users.permit_tracking(BLUE))
        self.assertFalse(may())
        acl_users.let_track({"team-blue"})
        run(acl_users.permit_tracking(BLUE))
        self.assertTrue(may())
        run(acl_users.login(BLUE, MASTER))
        self.assertTrue(may())
        # another process that knows of it leaves it
        other.let_track({"team-blue"})
        run(other.login(BLUE, MASTER))
        self.assertTrue(may())
        acl_users.let_track(set())
        run(acl_users.login(BLUE, MASTER))
        self.assertFalse(may())
        # taken back while Redis is being asked
        acl_users.let_track({"team-blue"})
        acl_users.control.before = lambda _: acl_users.let_track(set())
        run(acl_users.permit_tracking(BLUE))
        run(acl_users.login(BLUE, MASTER))
        self.assertFalse(may())
        acl_users.forget(BLUE)
        acl_users.control.before = lambda _: acl_users.let_track({"team-blue"})
        run(acl_users.login(BLUE, MASTER))
        self.assertTrue(may())

    def each_redis_is_busy_when_it_is_to_be_made(self, binary: Callable[[], str]) -> None:
        """A BUSY error is not taken to mean that the user exists: its channels are reset when it is
        created. It is told as it is, and nothing waits until it passes.
        """
        server = self.start(binary)
        acl_users = self.acl_users(server)
        refused = []
        acl_users.user_refused = lambda: refused.append(True)
        acl_users.control.before = is_busy
        with self.assertRaises(AclUserError) as caught:
            run(acl_users.login(BLUE, MASTER))
        self.assertEqual((caught.exception.passing, caught.exception.answer, refused), (False, BUSY, []))
        with self.assertRaises(ReplyError) as busy:
            acl_users.control.before = is_busy
            run(acl_users.permit(BLUE, [b"team-blue:*"], settled))
        self.assertEqual((busy.exception.passing, busy.exception.client_reply), (False, BUSY))
        self.assertEqual([user for user in server.client().acl_users() if "team-blue" in user], [])
        name, password = run(acl_users.login(BLUE, MASTER))
        client = client_once(port=server.port, username=name.decode(), password=password.decode())
        self.addCleanup(client.close)
        self.assertRaises(redis.exceptions.NoPermissionError, client.publish, "team-green:news", "x")
        self.assertEqual(client.publish("team-blue:news", "x"), 0)

    def each_two_make_it_at_the_same_moment(self, binary: Callable[[], str]) -> None:
        """A user that another process creates between any two questions keeps its patterns."""
        reached = []
        for questions in range(3):
            server = self.start(binary)
            first, second = self.acl_users(server), self.acl_users(server)
            subscribed = self.meanwhile(second.control, questions, lambda: self.subscribed(server, first))  # noqa: B023
            run(second.login(BLUE, MASTER))
            reached.append(bool(subscribed))
            for pubsub in subscribed:
                self.assertHears(server, pubsub)
        self.assertTrue(reached[0])

    def each_patterns_are_granted_once_nobody_removes_any(self, binary: Callable[[], str]) -> None:
        server = self.start(binary)
        acl_users = self.acl_users(server)
        name, _ = run(acl_users.login(BLUE, MASTER))
        client = acl_users.control._client
        patterns = {b"team-blue:%d" % number for number in range(bounds.PATTERNS_PER_CALL + 1)}
        waited: list[set[bytes]] = []

        def has() -> set[bytes]:
            return granted(BLUE, client.execute_command("ACL", "GETUSER", name))[0]

        async def cleaned(tenant: Tenant) -> None:
            waited.append(has())

        run(acl_users.permit(BLUE, patterns, cleaned))
        self.assertEqual((waited, has()), ([set()], patterns))
        run(acl_users.permit(BLUE, patterns, cleaned))
        self.assertEqual(len(waited), 1)
        self.assertTrue(acl_users.forget_patterns(BLUE, [b"team-blue:0"]))
        run(acl_users.permit(BLUE, patterns, cleaned))
        self.assertEqual(len(waited), 2)
        acl_users.forget_all_patterns()
        acl_users.control.before = fails
        with self.assertRaises(ControlError):
            run(acl_users.permit(BLUE, patterns, cleaned))

    def each_unused_patterns_are_removed_alone(self, binary: Callable[[], str]) -> None:
        """No other subscriber of the user is disconnected."""
        server = self.start(binary)
        acl_users = self.acl_users(server)
        pubsub = self.subscribed(server, acl_users)
        pubsub.subscribe("team-blue:plain")
        pubsub.psubscribe("__keyspace@3__:*")
        for _ in range(2):
            self.assertIsNotNone(pubsub.get_message(timeout=LIMIT))
        run(acl_users.permit(BLUE, [b"team-blue:a*"], settled))
        name, password = run(acl_users.login(BLUE, MASTER))
        gone = client_once(port=server.port, username=name.decode(), password=password.decode())
        self.addCleanup(gone.close)
        other = gone.pubsub()
        self.addCleanup(other.close)
        other.psubscribe("team-blue:a*")
        self.assertEqual(other.get_message(timeout=LIMIT)["type"], "psubscribe")
        client = acl_users.control._client
        patterns, [secret] = granted(BLUE, client.execute_command("ACL", "GETUSER", name))
        self.assertEqual(patterns, {b"team-blue:a*", b"team-blue:news.*"})
        client.execute_command("ACL", "SETUSER", name, *only_patterns(BLUE, [b"team-blue:news.*"], secret))
        patterns, secrets = granted(BLUE, client.execute_command("ACL", "GETUSER", name))
        self.assertEqual((patterns, secrets), ({b"team-blue:news.*"}, [secret]))
        with self.assertRaises(redis.ConnectionError):
            other.get_message(timeout=LIMIT)
        self.assertHears(server, pubsub)
        self.assertEqual(client.execute_command("PUBLISH", "team-blue:plain", "x"), 1)
        self.assertTrue(self.opens(server, (name, password)))
        # a user that was deleted meanwhile is not made by this
        client.execute_command("ACL", "DELUSER", name)
        with self.assertRaises(redis.ResponseError):
            client.execute_command("ACL", "SETUSER", name, *only_patterns(BLUE, [], secret))
        self.assertEqual(granted(BLUE, client.execute_command("ACL", "GETUSER", name)), (set(), []))

    def meanwhile(self, control: Control, questions: int, call: Callable[[], object]) -> list[object]:
        """Calls before the question after so many others. Returns what `call` gave; empty if it was
        not called.
        """
        found: list[object] = []

        def before(left: int) -> None:
            if left:
                control.before = lambda words: before(left - 1)
            else:
                found.append(call())

        control.before = lambda words: before(questions)
        return found
