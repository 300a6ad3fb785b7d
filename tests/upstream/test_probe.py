"""Each error to each question of the probe, from a real server behind a relay that refuses
questions.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence

from twisted.internet import defer, reactor, task
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory
from twisted.trial import unittest

from redisproxy import bounds
from redisproxy.ops.retry import Backoff
from redisproxy.policy.acl import rules
from redisproxy.policy.probing import Server, needed, policy_for
from redisproxy.printable import clause, shown_error
from redisproxy.resp.value import Answer, ErrorReply
from redisproxy.tenants.model import BackendAddress, Tenant
from redisproxy.upstream import control, inquiry
from redisproxy.upstream.client import Connection, ControlError
from redisproxy.upstream.control import ControlService
from redisproxy.upstream.inquiry import InquiryError, inquire
from redisproxy.upstream.probe import Memory, Probe
from redisproxy.upstream.sentinel import NotYet, Sentinel, SentinelError

from ..support.faults import FaultyRedis
from ..support.redis_errors import ABSENT, FORBIDDEN, ODD, PASSING
from ..support.sentinels import NAME, SentinelProcess
from ..support.servers import MASTER_PASSWORD, RedisServer, on_every_server, valkey

#: How each question of the probe begins.
INFO = ("INFO server", "INFO persistence", "INFO replication")
QUESTIONS = (
    "CONFIG GET databases",
    "COMMAND",
    "ACL SETUSER redisproxy:probe off resetchannels -@all\n",
    "ACL SETUSER redisproxy:probe resetdbs",
    "ACL SETUSER redisproxy:probe off resetchannels -@all +",
)
SEALED = "EVAL"
NOBODY = frozenset()


def rights(server: Server) -> frozenset[bytes]:
    return needed(policy_for(server, True, allow=NOBODY, deny=NOBODY))


class ProbeCase(unittest.TestCase):
    timeout = 120

    def setUp(self) -> None:
        self.patch(control, "BACKOFF", Backoff(0.02, 0.02))

    def server(self, binary: Callable[[], str] = valkey, *settings: str) -> RedisServer:
        server = RedisServer(binary, *settings).start()
        self.addCleanup(server.stop)
        return server

    def behind(self, server: RedisServer) -> FaultyRedis:
        faulty = FaultyRedis(server.port)
        self.addCleanup(faulty.stop)
        return faulty

    def control(self, port: int, acl: bool = True, username: str = "", password: str = MASTER_PASSWORD) -> ControlService:
        service = ControlService(reactor, 5.0, None, lambda server: service.history.append(server), acl, rights)
        service.history = []
        service.startService()
        self.addCleanup(service.stopService)
        service.use(BackendAddress(host="127.0.0.1", port=port, username=username, password=password.encode()))
        return service

    async def until(self, probe: Callable[[], object], what: object = "") -> None:
        for _ in range(3000):
            if probe():
                return
            await task.deferLater(reactor, 0.01)
        self.fail(f"it did not come to it: {what}")

    async def at_once(self, cases: Iterable[Coroutine]) -> None:
        await defer.gatherResults([defer.Deferred.fromCoroutine(case) for case in cases], consumeErrors=True)

    async def told_all(self, service: ControlService, what: object = "") -> Server:
        await self.until(lambda: service.connected and not service.asking, what)
        return service.server

    async def asked_again(self, service: ControlService, faulty: FaultyRedis, what: str) -> None:
        """Waits until the question was refused, the state says so, and it was asked again."""
        await self.until(lambda: len(faulty.refused) >= 2 and shown_error(what) in (service._state.reason or ""), what)

    def fault(self, faulty: FaultyRedis, beginning: str, error: str | None) -> None:
        faulty.refused.clear()
        # The question without commands is not the one with the tenants' commands.
        faulty.faults = {beginning: error}
        if beginning.endswith("\n"):
            faulty.faults = {beginning.rstrip(): error}
        if beginning in INFO:
            # COMMAND would be asked each time, and its answer is large
            faulty.faults["COMMAND"] = error


class FirstProbeTests(ProbeCase):
    """The server has answered nothing yet."""

    async def test_nothing_is_concluded_from_what_passes(self) -> None:
        server = self.server()
        truth = await self.told_all(self.control(server.port))
        self.assertEqual((truth.databases, truth.acl, truth.acl_databases, truth.sealed), (64, True, True, True))
        await self.at_once(self.passes(server, truth, question) for question in (*INFO, *QUESTIONS))

    async def passes(self, server: RedisServer, truth: Server, question: str) -> None:
        faulty = self.behind(server)
        self.fault(faulty, question, PASSING[0])
        service = self.control(faulty.port)
        for error in (*PASSING, *ODD[:3]):
            self.fault(faulty, question, error)
            await self.asked_again(service, faulty, error)
            self.assertEqual(service.history, [], (question, error))
            self.assertFalse(service.connected)
            self.assertIn(" ".join(question.split()[:2]), service._state.reason)
            self.assertEqual("--acl off" in service._state.reason, error in ODD, (question, error))
        faulty.faults = {}
        self.assertEqual(await self.told_all(service, question), truth)
        self.assertEqual((service.history, service._state.reason), ([truth], None))

    async def test_whether_scripts_are_sealed_is_seen_later(self) -> None:
        server = self.server()
        faulty = self.behind(server)
        self.fault(faulty, SEALED, PASSING[0])
        service = self.control(faulty.port)
        for error in (*PASSING, *ODD[:3]):
            self.fault(faulty, SEALED, error)
            await self.asked_again(service, faulty, error)
            self.assertTrue(service.connected)
            self.assertIsNone(service.server.sealed)
        faulty.faults = {}
        await self.told_all(service)
        self.assertEqual([told.sealed for told in service.history], [None, True])

    async def test_only_what_was_not_answered_is_asked_again(self) -> None:
        """Only unanswered questions are asked again, so a tenant that keeps Redis busy cannot stop
        the probe.
        """
        faulty = self.behind(self.server())
        self.fault(faulty, "CONFIG", PASSING[0])
        service = self.control(faulty.port)
        await self.asked_again(service, faulty, PASSING[0])
        self.fault(faulty, "COMMAND", PASSING[0])
        await self.told_all(service)
        self.assertEqual(faulty.asked.count("COMMAND"), 1)
        self.assertEqual(faulty.refused, [])

    async def test_no_answer_at_all(self) -> None:
        server = self.server()
        self.patch(bounds, "CONTROL_REPLY_SECONDS", 0.5)
        services = []
        for question in (INFO[0], *QUESTIONS, SEALED):
            faulty = self.behind(server)
            self.fault(faulty, question, None)
            services.append((faulty, self.control(faulty.port)))
        for _, service in services:
            await self.until(lambda: service._state.reason)  # noqa: B023
            self.assertEqual((service.history, service.connected), ([], False))
            self.assertEqual(
                service._state.reason, "did not report its version and settings within 0.5 s, and is asked again"
            )
        self.patch(bounds, "CONTROL_REPLY_SECONDS", 10)
        for faulty, service in services:
            faulty.faults = {}
            service.reconnect()
            self.assertTrue((await self.told_all(service)).sealed)

    async def test_what_it_has_not(self) -> None:
        server = self.server()
        for text in (ABSENT[1], *FORBIDDEN):
            for question, name, value in (
                ("CONFIG", "databases", None),
                ("ACL SETUSER", "acl", False),
                ("ACL SETUSER redisproxy:probe resetdbs", "acl_databases", False),
                ("EVAL", "sealed", False),
            ):
                faulty = self.behind(server)
                self.fault(faulty, question, text)
                service = self.control(faulty.port)
                self.assertEqual(getattr(await self.told_all(service, (question, text)), name), value)
                await service.stopService()

    async def test_with_acl_off_nothing_of_acls_is_asked_and_odd_words_are_taken_for_a_no(self) -> None:
        faulty = self.behind(self.server())
        faulty.faults = dict.fromkeys(("CONFIG", "COMMAND", "ACL", "EVAL"), ODD[0])
        service = self.control(faulty.port, acl=False)
        told = await self.told_all(service)
        self.assertEqual((told.databases, told.acl, told.acl_databases), (None, False, False))
        self.assertIn(b"GET", told.commands)
        self.assertEqual(faulty.refused, ["CONFIG GET databases", "COMMAND"])
        faulty.faults = dict.fromkeys(("CONFIG", "COMMAND"), PASSING[0])
        again = self.control(faulty.port, acl=False)
        await self.until(lambda: again._state.reason)
        self.assertEqual(again.history, [])


class LaterTests(ProbeCase):
    """The proxy connects again to a server that has answered before."""

    async def test_an_error_unlearns_nothing(self) -> None:
        server = self.server()
        await self.at_once(self.unlearns_nothing(server, question) for question in (*QUESTIONS, SEALED))

    async def unlearns_nothing(self, server: RedisServer, question: str) -> None:
        faulty = self.behind(server)
        service = self.control(faulty.port)
        truth = await self.told_all(service)
        service.history.clear()
        self.fault(faulty, question, FORBIDDEN[0])
        service.reconnect()
        for error in (FORBIDDEN[0], FORBIDDEN[1], ABSENT[1], ODD[0], *PASSING):
            self.fault(faulty, question, error)
            await self.asked_again(service, faulty, error)
            self.assertEqual(service.history, [truth], (question, error))
            self.assertTrue(service.connected)
            # No new client can log in while Redis refuses to create users.
            self.assertEqual(service.users_refused, "-@all" in question, (question, error))
        faulty.faults = {}
        await self.until(lambda: not service.asking)
        self.assertEqual((service._state.reason, service.users_refused), (None, False))

    async def test_another_server_at_the_address_has_told_nothing(self) -> None:
        first, second = self.server(), self.server()
        faulty = self.behind(first)
        service = self.control(faulty.port)
        await self.told_all(service)
        service.history.clear()
        faulty._target = second.port
        self.fault(faulty, "ACL SETUSER", PASSING[0])
        service.reconnect()
        await self.asked_again(service, faulty, PASSING[0])
        self.assertEqual((service.history, service.connected), ([], False))
        self.fault(faulty, "ACL SETUSER", FORBIDDEN[0])
        self.assertFalse((await self.told_all(service)).acl)
        # Back to the first server, as in a failover. It had two isolation layers, and a lost right
        # does not take one away.
        faulty._target = first.port
        service.reconnect()
        await self.until(lambda: len(service.history) == 2)
        self.assertTrue(service.server.acl)
        self.assertTrue(service.users_refused)

    async def test_the_right_comes_later(self) -> None:
        faulty = self.behind(self.server())
        self.fault(faulty, "ACL", FORBIDDEN[0])
        service = self.control(faulty.port)
        self.assertFalse((await self.told_all(service)).acl)
        faulty.faults = {}
        service.reconnect()
        await self.until(lambda: len(service.history) == 2)
        self.assertTrue(service.server.acl)

    async def test_a_refused_user_has_it_asked_again(self) -> None:
        """After Redis refused to create a user, the same connection is used to probe again."""
        faulty = self.behind(self.server())
        service = self.control(faulty.port)
        await self.told_all(service)
        self.fault(faulty, "ACL SETUSER", FORBIDDEN[1])
        await self.assertFailure(
            defer.Deferred.fromCoroutine(service.ask("ACL", "SETUSER", "redisproxy:team-blue:3", "on")), ControlError
        )
        service.probe_again()
        service.probe_again()
        await self.until(lambda: service.users_refused)
        faulty.faults = {}
        await self.until(lambda: not service.users_refused)
        self.assertEqual(len(service.history), 1)


@on_every_server
class CommandTests(ProbeCase):
    """The server's COMMAND is not available: the built-in table makes users that the server
    accepts.
    """

    def each_command_that_is_renamed_away(self, binary: Callable[[], str]) -> defer.Deferred:
        return defer.Deferred.fromCoroutine(self.made(self.server(binary, 'rename-command COMMAND ""')))

    def each_command_that_is_forbidden(self, binary: Callable[[], str]) -> defer.Deferred:
        server = self.server(binary)
        server.client().execute_command("ACL", "SETUSER", "proxy", "on", ">pw", "+@all", "-command", "~*", "&*")
        return defer.Deferred.fromCoroutine(self.made(server, "proxy", "pw"))

    async def made(self, server: RedisServer, username: str = "", password: str = MASTER_PASSWORD) -> None:
        told = await self.told_all(self.control(server.port, username=username, password=password))
        self.assertTrue(told.acl)
        policy = policy_for(told, True, allow=NOBODY, deny=NOBODY)
        self.assertLess({"get", "set", "eval" if told.sealed else "del", "object|encoding"}, set(policy.forwarded))
        client = server.client()
        words = ["on", "-@all", *("+" + name for name in policy.forwarded)]
        self.assertTrue(client.execute_command("ACL", "SETUSER", "redisproxy:team-blue:3", *words))
        self.assertEqual([user for user in client.acl_users() if "probe" in user], [])

    def each_command_that_is_told(self, binary: Callable[[], str]) -> defer.Deferred:
        """If the server answers COMMAND, no command of its answer is left out."""

        async def told() -> None:
            server = self.server(binary)
            faulty = self.behind(server)
            service = self.control(faulty.port)
            found = await self.told_all(service)
            names = {name.upper().encode() for name in _names(server)}
            self.assertEqual(names - set(found.commands), set())
            tried = [
                command
                for command in faulty.asked
                if command.startswith("ACL SETUSER redisproxy:probe off resetchannels -@all +")
            ]
            self.assertEqual(len(tried), 1)

        return defer.Deferred.fromCoroutine(told())


def _names(server: RedisServer) -> list[str]:
    client = server.client()
    client.response_callbacks.clear()
    return [entry[0].decode() for entry in client.execute_command("COMMAND")]


class PassingConnectionTests(ProbeCase):
    async def test_another_server_over_the_same_connection(self) -> None:
        """If a load balancer leads the same connection to another server, the first one's answers
        do not count.
        """
        first, second = self.server(), self.server(valkey, 'rename-command ACL ""')
        leads = [first]
        clients = {server: await self.connected(server) for server in (first, second)}
        probe = Probe(lambda commands: clients[leads[0]].ask_all(commands), "here", Memory(), True, rights)
        await probe.ask()
        self.assertTrue(probe.server.acl)
        leads[0] = second
        await probe.ask()
        self.assertIsNone(probe.server)
        self.assertEqual(list(probe.again), ["INFO server"])
        await probe.ask()
        self.assertFalse(probe.server.acl)
        self.assertEqual(probe.again, {})

    async def test_a_server_that_knows_no_rule_for_one_index(self) -> None:
        """Tenants are served, and run scripts, but these may not SELECT."""
        client = await self.connected(self.server())
        refused = ErrorReply("ERR Error in ACL SETUSER modifier '+select|0': Unknown command or category name in ACL")

        async def ask_all(commands: Iterable[Sequence[bytes | str]]) -> list[Answer | ErrorReply]:
            commands = list(commands)
            replies = await client.ask_all(commands)
            return [refused if b"+select|0" in words else reply for words, reply in zip(commands, replies, strict=True)]

        probe = Probe(ask_all, "here", Memory(), True, rights)
        await probe.ask()
        self.assertEqual((probe.again, probe.users_refused, probe.server.select_rule), ({}, False, False))
        policy = policy_for(probe.server, True, allow=NOBODY, deny=NOBODY)
        self.assertEqual((policy.runs_scripts, policy.selects), (True, False))
        self.assertEqual([rule for rule in rules(Tenant("team-blue", 3), policy, b"x", True, True) if b"select" in rule], [])

    async def connected(self, server: RedisServer) -> Connection:
        factory = Factory.forProtocol(lambda: Connection(reactor, None, bounds.CONTROL_REPLY_BYTES))
        connection = await TCP4ClientEndpoint(reactor, "127.0.0.1", server.port).connect(factory)
        self.addCleanup(connection.transport.abortConnection)
        await connection.log_in(BackendAddress(password=MASTER_PASSWORD.encode()))
        return connection


class SentinelTests(ProbeCase):
    async def test_a_sentinel_that_does_not_tell_now_tells_later(self) -> None:
        server = self.server()
        process = SentinelProcess(valkey, f"127.0.0.1 {server.port}").start()
        self.addCleanup(process.stop)
        faulty = FaultyRedis(process.port)
        self.addCleanup(faulty.stop)
        faulty.faults["SENTINEL"] = PASSING[1]
        place = BackendAddress(host="127.0.0.1", port=faulty.port)
        news: list[str] = []
        sentinel = Sentinel(
            reactor, place, lambda: TCP4ClientEndpoint(reactor, "127.0.0.1", faulty.port), NAME, lambda: news.append("")
        )
        self.addCleanup(sentinel.stop)
        with self.assertRaises(NotYet):
            await sentinel.ask()
        await self.until(lambda: news)
        with self.assertRaisesRegex(SentinelError, f"^{PASSING[1]}"):
            await sentinel.ask()
        faulty.faults.clear()
        self.assertEqual((await sentinel.ask()).port, server.port)
        self.assertEqual(len(news), 1)


class InquiryTests(ProbeCase):
    """The operator's command asks the same questions."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(inquiry, "_PAUSE", 0.05)

    async def test_what_does_not_tell(self) -> None:
        faulty = self.behind(self.server())
        address = BackendAddress(host="127.0.0.1", port=faulty.port, password=MASTER_PASSWORD.encode())
        for question in (*INFO, *QUESTIONS):
            self.fault(faulty, question, PASSING[0])
            with self.assertRaises(InquiryError) as caught:
                await inquire(reactor, address, 5.0, None, True, rights)
            self.assertRegex(
                str(caught.exception),
                f"^Redis at .* did not report its version and settings: {' '.join(question.split()[:2])}.*: BUSY ",
            )
        self.fault(faulty, "EVAL", PASSING[0])
        found = await inquire(reactor, address, 5.0, None, True, rights)
        self.assertIsNone(found.server.sealed)
        self.assertEqual(found.again, f"EVAL: {clause(PASSING[0])}")

    async def test_what_passes_while_it_asks(self) -> None:
        faulty = self.behind(self.server())
        address = BackendAddress(host="127.0.0.1", port=faulty.port, password=MASTER_PASSWORD.encode())
        self.fault(faulty, "COMMAND", PASSING[0])
        asked = defer.Deferred.fromCoroutine(inquire(reactor, address, 5.0, None, True, rights))
        await self.until(lambda: faulty.refused)
        faulty.faults = {}
        found = await asked
        self.assertEqual((found.server.databases, found.server.acl, found.again), (64, True, None))
