"""What the control connection concludes from a server's answers. `attacks` and `integration` test
it with real servers.
"""

from __future__ import annotations

import gc
import random
import re
import weakref

import redis
from twisted.internet import defer, protocol, reactor, task, threads
from twisted.logger import LogLevel, formatEvent
from twisted.trial import unittest

from redisproxy.ops.logs import Log
from redisproxy.policy.probing import Server
from redisproxy.tenants.model import BackendAddress
from redisproxy.upstream.client import Connection
from redisproxy.upstream.control import ControlService

from ..support.relay import Relay
from ..support.sentinels import SentinelProcess
from ..support.servers import MASTER_PASSWORD, RedisServer, free_port, valkey
from ..support.waiting import LIMIT


class Redis60(protocol.Protocol):
    """Answers like Redis 6.0.16, which no package has any more: its ACLs do not know channels."""

    def dataReceived(self, data: bytes) -> None:
        for command in re.split(rb"(?m)^\*\d+\r\n", data)[1:]:
            self.answer(re.findall(rb"\$\d+\r\n(.*?)\r\n", command, re.DOTALL))

    def answer(self, words: list[bytes]) -> None:
        self.factory.asked.append(b" ".join(words[:2]))
        if words[0] == b"INFO":
            answer = b"$22\r\nredis_version:6.0.16\r\n\r\n"
        elif words[0] in (b"CONFIG", b"COMMAND"):
            answer = b"-ERR unknown command\r\n"
        elif words[:2] == [b"ACL", b"SETUSER"] and not {b"on", b"off", b"-@all"}.issuperset(words[3:]):
            answer = b"-ERR Error in ACL SETUSER modifier 'resetchannels': Syntax error\r\n"
        else:
            answer = b"+OK\r\n"
        self.transport.write(answer)


class ControlTests(unittest.TestCase):
    @defer.inlineCallbacks
    def test_what_comes_of_a_place_that_was_left_changes_nothing(self):
        """The end of a log-in at the former address, be it late or a success, leaves the new
        connection open.
        """
        told = []
        control = ControlService(reactor, LIMIT, None, told.append)
        control.startService()
        self.addCleanup(control.stopService)
        server = RedisServer().start()
        self.addCleanup(server.stop)
        relay = Relay(server.port)
        self.addCleanup(relay.stop)
        password = server.password.encode()
        control.use(BackendAddress(host="127.0.0.1", port=relay.port, password=password))
        left = control._client
        control.use(BackendAddress(host="127.0.0.1", port=server.port, password=password))
        self.assertEqual((yield defer.Deferred.fromCoroutine(control.ask("PING"))), b"PONG")
        connection = control._connection
        control._changed(left)
        left.connection = left._build()
        control._changed(left)
        self.assertEqual((yield defer.Deferred.fromCoroutine(control.ask("PING"))), b"PONG")
        self.assertIs(control._connection, connection)
        self.assertEqual(len(told), 1)

    @defer.inlineCallbacks
    def test_acls_that_do_not_know_channels_are_no_layer(self):
        """Redis 6.0 counts as a server without ACL users, because a script there could PUBLISH to
        anybody.
        """
        factory = protocol.Factory.forProtocol(Redis60)
        factory.asked = []
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        told: defer.Deferred[Server] = defer.Deferred()
        control = ControlService(reactor, LIMIT, None, told.callback)
        control.startService()
        self.addCleanup(control.stopService)
        control.use(BackendAddress(host="127.0.0.1", port=port.getHost().port, password=b"master"))
        server = yield told
        self.assertEqual(server.version, "Redis 6.0.16")
        self.assertFalse(server.acl)
        self.assertFalse(server.acl_databases)
        self.assertIn(b"ACL SETUSER", factory.asked)

    @defer.inlineCallbacks
    def test_what_the_operator_has_to_know_of_it_is_told_once(self):
        loading = RedisServer(valkey, "save 3600 1")
        loading.start()
        self.addCleanup(loading.stop)
        with loading.client().pipeline() as pipeline:
            for number in range(200):
                pipeline.set(f"key-{number}", random.randbytes(200))
            pipeline.execute()
        loading.client().save()
        loading.kill()
        # Each key takes 10 ms to load, and Redis answers after every 1,024 bytes.
        loading.change("key-load-delay 10000", "loading-process-events-interval-bytes 1024")
        sentinel = SentinelProcess(valkey, f"127.0.0.1 {loading.port}")
        self.addCleanup(sentinel.stop)
        cluster = RedisServer(valkey, "cluster-enabled yes", f"cluster-port {free_port()}")
        self.addCleanup(cluster.stop)
        for server, password, text in (
            (loading, MASTER_PASSWORD, "is loading its data"),
            (sentinel, "", r"is a sentinel: .* redis\+sentinel://"),
            (cluster, MASTER_PASSWORD, "is a node of a Redis Cluster"),
        ):
            server.start()
            events = []
            control = ControlService(reactor, LIMIT, None, lambda _: None)
            control._log = Log(observer=events.append)
            control.startService()
            control.use(BackendAddress(host="127.0.0.1", port=server.port, password=password.encode()))
            while not control._state.reason:
                yield task.deferLater(reactor, 0.01)
            control._log_state(control._state.reason)
            warnings = [formatEvent(event) for event in events if event["log_level"] == LogLevel.warn]
            self.assertEqual(len(warnings), 1)
            self.assertRegex(warnings[0], f"^Redis at redis://127.0.0.1:{server.port} {text}")
            yield control.stopService()

    @defer.inlineCallbacks
    def test_a_redis_that_is_busy_is_asked_again(self):
        """A Redis that is busy with a tenant's script is probed again until it has answered
        everything.
        """
        server = RedisServer(valkey, "lua-time-limit 10").start()
        self.addCleanup(server.stop)
        running = threads.deferToThread(server.client().eval, "while true do end", 0)
        while True:
            try:
                server.client().ping()
            except redis.exceptions.BusyLoadingError:
                self.fail("it loads")
            except redis.ResponseError as error:
                self.assertIn("BUSY", str(error))
                break
            yield task.deferLater(reactor, 0.01)
        told: list[Server] = []
        control = ControlService(reactor, LIMIT, None, told.append)
        control.startService()
        self.addCleanup(control.stopService)
        control.use(BackendAddress(host="127.0.0.1", port=server.port, password=server.password.encode()))
        while not control._state.reason:
            yield task.deferLater(reactor, 0.01)
        self.assertEqual(told, [])
        self.assertRegex(
            control._state.reason, "^did not report its version and settings, and is asked again: INFO server, .*: BUSY "
        )
        self.assertNotIn("--acl off", control._state.reason)
        server.client().script_kill()
        yield self.assertFailure(running, redis.ResponseError)
        while not control.connected:
            yield task.deferLater(reactor, 0.01)
        self.assertTrue(told[-1].sealed)

    @defer.inlineCallbacks
    def test_nothing_is_concluded_while_redis_loads_its_data(self):
        server = RedisServer(valkey, "save 3600 1").start()
        self.addCleanup(server.stop)
        server.client().mset({f"key-{number}": random.randbytes(200) for number in range(3000)})
        server.client().save()
        server.kill()
        # loading takes 90 s
        server.change("key-load-delay 30000", "loading-process-events-interval-bytes 1024")
        server.start()
        told: list[Server] = []
        control = ControlService(reactor, LIMIT, None, told.append)
        control.startService()
        self.addCleanup(control.stopService)
        control.use(BackendAddress(host="127.0.0.1", port=server.port, password=server.password.encode()))
        while control.fault is None:
            yield task.deferLater(reactor, 0.01)
        self.assertEqual((control.fault.code, told), ("redis-is-loading", []))
        yield threads.deferToThread(server.client().config_set, "key-load-delay", 0)
        while not told:
            yield task.deferLater(reactor, 0.01)
        self.assertTrue(told[0].sealed)

    def test_it_is_tried_again_soon_however_long_it_was_away(self):
        """The service connects again soon, however long Redis was away, because all tenants wait
        for it.
        """
        control = ControlService(reactor, LIMIT, None, lambda _: None)
        control.startService()
        self.addCleanup(control.stopService)
        control.use(BackendAddress(host="127.0.0.1", port=free_port()))
        self.assertLess(max(control._client.retry_delay(attempt) for attempt in range(1, 50)), 4)

    @defer.inlineCallbacks
    def test_connections_that_are_gone_are_not_kept(self):
        """A connection that is lost is freed: a Redis that comes and goes for weeks must not cost
        memory.
        """
        server = RedisServer().start()
        self.addCleanup(server.stop)
        told = []
        control = ControlService(reactor, LIMIT, None, told.append)
        control.startService()
        self.addCleanup(control.stopService)
        control.use(BackendAddress(host="127.0.0.1", port=server.port, password=server.password.encode()))
        made: list[weakref.ref[Connection]] = []
        for number in range(1, 3):
            while len(told) < number or not control.connected:
                yield task.deferLater(reactor, 0.01)
            made.append(weakref.ref(control._connection))
            server.client().client_kill_filter(_type="normal", skipme=True)
            while control.connected:
                yield task.deferLater(reactor, 0.01)
        gc.collect()
        self.assertEqual([each() for each in made], [None, None])
