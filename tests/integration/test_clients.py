"""Tests clients as applications use them, through a real twistd process to a real server."""

from __future__ import annotations

import asyncio
import unittest

import redis
import redis.asyncio
import txredisapi
from twisted.internet import defer
from twisted.trial import unittest as trial

from redisproxy.policy.server_config import NAMES

from ..support.proxy import Installation, shared
from ..support.waiting import LIMIT


class RedisPyTests(unittest.TestCase):
    """Blocking redis-py."""

    def setUp(self) -> None:
        self.installation = shared()
        self.blue = self.installation.blue()
        self.addCleanup(self.blue.close)
        self.straight = self.installation.server.client(3)
        self.addCleanup(self.straight.close)
        self.straight.flushall()

    def test_reads_what_it_wrote_and_lands_in_its_own_database(self) -> None:
        self.blue.set("key", b"\x00\xff\r\n value")
        self.assertEqual(self.blue.get("key"), b"\x00\xff\r\n value")
        self.assertEqual(self.straight.get("key"), b"\x00\xff\r\n value")
        self.assertIsNone(self.installation.green().get("key"))

    def test_resp3(self) -> None:
        client = self.installation.blue(protocol=3)
        client.hset("hash", mapping={"a": "1", "b": "2"})
        self.assertEqual(client.hgetall("hash"), {b"a": b"1", b"b": b"2"})
        self.assertIn(b"proto", client.execute_command("HELLO"))

    def test_resp2(self) -> None:
        client = self.installation.blue(protocol=2)
        client.hset("hash", mapping={"a": "1"})
        self.assertEqual(client.hgetall("hash"), {b"a": b"1"})

    def test_what_is_harmless_of_the_configuration(self) -> None:
        for protocol in (2, 3):
            with self.installation.blue(protocol=protocol) as client:
                expected = self.straight.config_get("maxmemory", "databases")
                self.assertEqual(client.config_get("maxmemory", "databases"), expected)
                every = self.straight.config_get()
                self.assertEqual(set(client.config_get()), {name.decode() for name in NAMES} & set(every))
                self.assertEqual(client.config_get("*pass*"), {})
                self.assertRaises(redis.exceptions.NoPermissionError, client.config_set, "save", "")

    def test_pipelines_with_and_without_transaction(self) -> None:
        for transaction in (True, False):
            pipeline = self.blue.pipeline(transaction=transaction)
            for number in range(500):
                pipeline.incrby("counter", number)
            pipeline.get("counter")
            results = pipeline.execute()
            self.assertEqual(results[-1], b"%d" % sum(range(500)))
            self.blue.delete("counter")

    def test_a_watched_key_that_changed_makes_exec_fail(self) -> None:
        with self.blue.pipeline() as pipeline:
            pipeline.watch("watched")
            self.installation.blue().set("watched", 1)
            pipeline.multi()
            pipeline.set("watched", 2)
            self.assertRaises(redis.WatchError, pipeline.execute)

    def test_a_refused_select_is_an_error_and_the_connection_goes_on(self) -> None:
        with self.blue.client() as connection:
            self.assertRaisesRegex(redis.ResponseError, "database 3 only", connection.execute_command, "SELECT", 5)
            connection.set("after", 1)
            self.assertEqual(self.straight.get("after"), b"1")
            self.assertTrue(connection.execute_command("SELECT", 3))

    def test_a_refused_command_keeps_its_place_in_a_pipeline(self) -> None:
        pipeline = self.blue.pipeline(transaction=False)
        pipeline.set("a", 1).execute_command("SELECT", 5)
        pipeline.execute_command("CONFIG", "REWRITE").get("a").execute_command("SELECT", 3).get("a")
        results = pipeline.execute(raise_on_error=False)
        self.assertEqual([results[0], results[3], results[4], results[5]], [True, b"1", True, b"1"])
        self.assertIsInstance(results[1], redis.ResponseError)
        self.assertIsInstance(results[2], redis.ResponseError)

    def test_a_refused_select_inside_multi_aborts_the_exec(self) -> None:
        pipeline = self.blue.pipeline(transaction=True)
        pipeline.set("a", 1).execute_command("SELECT", 5)
        self.assertRaises(redis.ResponseError, pipeline.execute)
        self.assertIsNone(self.straight.get("a"))

    def test_wrong_password(self) -> None:
        self.assertRaises(redis.AuthenticationError, self.installation.proxy.client("wrong").ping)

    def test_username_is_the_namespace(self) -> None:
        self.assertTrue(self.installation.blue(username="team-blue").ping())
        self.assertTrue(self.installation.blue(username="default").ping())
        self.assertRaises(redis.AuthenticationError, self.installation.blue(username="team-green").ping)

    def test_publish_and_subscribe(self) -> None:
        for protocol in (2, 3):
            subscriber = self.installation.blue(protocol=protocol).pubsub()
            self.addCleanup(subscriber.close)
            subscriber.subscribe("news", "more")
            subscriber.psubscribe("n?ws")
            for _ in range(3):
                self.assertIn("subscribe", subscriber.get_message(timeout=LIMIT)["type"])
            self.blue.publish("news", "hello")
            got = {subscriber.get_message(timeout=LIMIT)["type"] for _ in range(2)}
            self.assertEqual(got, {"message", "pmessage"})
            subscriber.unsubscribe()
            subscriber.punsubscribe()
            kinds = [subscriber.get_message(timeout=LIMIT)["type"] for _ in range(3)]
            self.assertEqual(kinds, ["unsubscribe", "unsubscribe", "punsubscribe"])

    def test_a_blocking_pop_gets_what_another_pushes(self) -> None:
        with self.blue.client() as waiting:
            waiting.connection.send_command("BLPOP", "queue", 10)
            self.blue.rpush("queue", "item")
            self.assertEqual(list(waiting.parse_response(waiting.connection, "BLPOP")), [b"queue", b"item"])

    def test_flushall_empties_the_own_database_only(self) -> None:
        self.blue.set("mine", 1)
        self.installation.green().set("other", 1)
        self.blue.flushall()
        self.assertEqual(self.blue.dbsize(), 0)
        self.assertEqual(self.installation.green().get("other"), b"1")

    def test_copy_stays_within_the_database(self) -> None:
        self.blue.set("source", 1)
        self.assertTrue(self.blue.copy("source", "target"))
        self.assertRaises(redis.ResponseError, self.blue.copy, "source", "target", destination_db=5)
        self.assertTrue(self.blue.copy("source", "target", destination_db=3, replace=True))

    def test_scripts(self) -> None:
        self.assertEqual(self.blue.eval("return redis.call('INCR', KEYS[1])", 1, "n"), 1)
        double = self.blue.register_script("return ARGV[1] * 2")
        self.assertEqual(double(args=[21]), 42)

    def test_what_clients_ask_at_their_start(self) -> None:
        for protocol in (2, 3):
            client = self.installation.blue(protocol=protocol)
            self.assertGreater(len(client.execute_command("COMMAND")), 200)
            self.assertGreater(client.execute_command("COMMAND COUNT"), 200)
            self.assertIn("redis_version", client.info())
            self.assertEqual(dict(client.pubsub_numsub("a", "b")), {b"a": 0, b"b": 0})

    def test_client_name_and_id(self) -> None:
        with self.installation.blue(client_name="worker-7").client() as connection:
            self.assertEqual(connection.client_getname(), "worker-7")
            self.assertGreater(connection.client_id(), 0)

    def test_a_user_moves_to_another_tenant_wholly_or_not_at_all(self) -> None:
        with self.installation.blue().client() as connection:
            connection.set("where", "blue")
            self.assertRaises(redis.AuthenticationError, connection.execute_command, "AUTH", "nonsense")
            self.assertEqual(connection.get("where"), b"blue")
            connection.execute_command("AUTH", Installation.GREEN)
            self.assertIsNone(connection.get("where"))
            connection.set("where", "green")
        self.assertEqual(self.straight.get("where"), b"blue")

    def test_reset_logs_out(self) -> None:
        with self.installation.blue().client() as connection:
            self.assertIn(connection.execute_command("RESET"), ("RESET", b"RESET"))
            self.assertRaises(redis.AuthenticationError, connection.get, "x")
            connection.execute_command("AUTH", Installation.BLUE)
            connection.set("x", 1)


class RedisPyAsyncTests(unittest.TestCase):
    """redis-py on asyncio, with and without its pool."""

    def setUp(self) -> None:
        self.installation = shared()

    def test_pool_and_single_connection(self) -> None:
        async def work() -> None:
            options = {"host": "127.0.0.1", "port": self.installation.proxy.port, "password": Installation.BLUE, "db": 3}
            pool = redis.asyncio.BlockingConnectionPool(**options, max_connections=20)
            pooled = redis.asyncio.Redis(connection_pool=pool)
            await asyncio.gather(*(pooled.set(f"k{n}", n) for n in range(200)))
            self.assertEqual(await pooled.get("k199"), b"199")
            async with pooled.pipeline(transaction=True) as pipeline:
                self.assertEqual(await pipeline.get("k1").get("k2").execute(), [b"1", b"2"])
            await pooled.aclose()
            single = redis.asyncio.Redis(**options, single_connection_client=True)
            self.assertEqual(await single.get("k7"), b"7")
            async with single.pipeline(transaction=False) as pipeline:
                self.assertEqual(await pipeline.get("k1").get("k2").execute(), [b"1", b"2"])
            await single.aclose()

        asyncio.run(work())


class TxredisapiTests(trial.TestCase):
    """txredisapi, from the reactor that trial runs."""

    def setUp(self) -> None:
        self.installation = shared()

    @defer.inlineCallbacks
    def test_pool_and_transaction(self):
        pool = yield txredisapi.ConnectionPool(
            "127.0.0.1", self.installation.proxy.port, dbid=3, password=Installation.BLUE, poolsize=3
        )
        yield defer.gatherResults([pool.set(f"key{n}", n) for n in range(50)])
        self.assertEqual((yield pool.get("key49")), 49)
        transaction = yield pool.multi()
        yield transaction.incr("counter")
        yield transaction.incr("counter")
        self.assertEqual((yield transaction.commit()), [1, 2])
        yield pool.disconnect()
