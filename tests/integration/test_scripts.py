"""Tests scripts on every server, straight to Redis and through the proxy: both must give the same
replies, and subscribers must hear the same messages.
"""

from __future__ import annotations

import hashlib
import unittest
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import redis

from redisproxy.resp.framing import encode
from redisproxy.session.scripts import Scripts

from ..attacks.corpus import PUBLISHING, SECRETS, VICTIM_CHANNEL
from ..support.proxy import Installation
from ..support.raw import RawClient
from ..support.servers import MASTER_PASSWORD, RedisServer, on_every_server, valkey
from ..support.waiting import until

#: Channels that both subscribers subscribe to.
CHANNELS = [b"a", b"b", b"", b"5", b"3.25", b"1000000000000000", b"a\0b", b"\xff\r\n"]
END = b"the-end"

#: Scripts that publish, or that look so. Each is run with one key, `k`, and the argument `v`.
SCRIPTS = [
    "return redis.call('PUBLISH', 'a', 'x')",
    "return redis.call('publish', 'a', ARGV[1])",
    "return redis.pcall('PubLish', 'a', 'x')",
    "return redis['call']('PUBLISH', 'a', 'x')",
    "return redis['p' .. 'call']('PUBLISH', 'a', 'x')",
    "local call = redis.call return call('PUBLISH', 'a', 'x')",
    "local r = redis; return r.call('PUBLISH', 'a', 'x')",
    "local calls = {redis.call, redis.pcall} for i = 1, 2 do calls[i]('PUBLISH', 'a', i) end return 1",
    "for _, name in ipairs({'PUBLISH', 'publish', 'pUbLiSh'}) do redis.pcall(name, 'a', name) end return 'ok'",
    "return redis.call(unpack({'PUBLISH', 'a', 'x'}))",
    "return redis.call(string.upper('publish'), 'a', 'x')",
    "local co = coroutine.wrap(function() return redis.call('PUBLISH', 'a', 'x') end) return co()",
    "local function deep(n) if n == 0 then return redis.call('PUBLISH', 'a', 'x') end return 1 + deep(n - 1) end return deep(150)",
    "local n = 0 for i = 1, 50 do n = n + redis.call('PUBLISH', 'a', i) end return n",
    "redis.call('PUBLISH', 'a', 1) redis.call('PUBLISH', 'b', 2) redis.call('PUBLISH', 'c', 3) return {'a', 'b'}",
    "local a, b = redis.call('PUBLISH', 'a', 'x') return tostring(b)",
    # Channels and messages that are no ordinary strings.
    "return redis.call('PUBLISH', 5, 6)",
    "return redis.call('PUBLISH', 3.25, 0.1)",
    "return redis.call('PUBLISH', 1e15, 'x')",
    "return redis.call('PUBLISH', '', '')",
    "return redis.call('PUBLISH', 'a\\0b', '\\255\\r\\n')",
    "return redis.call('PUBLISH', '\\255\\r\\n', string.rep('x', 100000))",
    "return redis.call('SPUBLISH', 'a', 'x')",
    "return redis.pcall('spublish', 'a', 'x')",
    # What Redis refuses.
    "return redis.call('PUBLISH', 'a')",
    "return redis.call('PUBLISH')",
    "return redis.call() -- publish",
    "return redis.call('PUBLISH', 'a', 'x', 'y')",
    "return redis.call('PUBLISH', nil, 'x')",
    "return redis.call('PUBLISH', {}, 'x')",
    "return redis.call('PUBLISH', 'a', {})",
    "return redis.call('PUBLISH', 'a', nil)",
    "return redis.call(nil, 'publish')",
    "return redis.call('SUBSCRIBE', 'publish')",
    "return redis.call('EVAL', 'publish', 0)",
    # Errors: their texts and lines.
    "--publish\nlocal x = redis.call('INCR', 's')\nreturn x",
    "--publish\n\n\nlocal x = redis.call('LPUSH', 's', 1)\nreturn x",
    "--publish\nreturn redis.pcall('INCR', 's')",
    "--publish\nlocal function f(key)\n  local x = redis.call('INCR', key)\n  return x\nend\nlocal y = f('s') return y",
    "local ok, e = pcall(redis.call, 'INCR', 's') redis.call('PUBLISH', 'a', e) return {tostring(ok), type(e), e}",
    "local ok, e = pcall(function() local x = redis.call('INCR', 's') end) return {tostring(ok), type(e), 'publish'}",
    "local e = redis.pcall('INCR', 's') local names = {} for k in pairs(e) do names[#names + 1] = k end\ntable.sort(names) "
    "return {e.err, table.concat(names, ','), 'publish'}",
    "--publish\nlocal x = 1\nx.y.z = 1",
    "--publish\nerror('boo')",
    "return redis.error_reply('MY publish')",
    "--publish\nx x",
    "publish publish",
    "; return 'publish'",
    ".call('publish')",
    "('x').publish()",
    "['publish'] = 1",
    ")('publish'); return 1",
    # Scripts that only name it, or do something else with redis.
    "",
    "-- publish",
    "return 1 -- publish",
    "--[[publish\n]] return 2",
    "return {KEYS[1], ARGV[1], #KEYS, #ARGV, 'publish'}",
    "return select('#', ...) -- publish",
    "return {redis.sha1hex('publish'), redis.status_reply('OK'), redis.LOG_DEBUG, tostring(redis.nothing)}",
    "redis.publish = 1 return 1",
    "redis.sha1hex = 'publish' return 1",
    "return {type(redis), type(redis.call), tostring(redis.call == redis.call), 'publish'}",
    "redis.log(redis.LOG_DEBUG, 'publish') return redis.REPL_ALL",
    "redis.replicate_commands() return redis.call('PUBLISH', 'a', 'x')",
    "redis.set_repl(redis.REPL_NONE) return redis.call('PUBLISH', 'a', 'x')",
    "redis.setresp(3) redis.call('PUBLISH', 'a', 'x') redis.call('HSET', 'h', 'err', 'x') return redis.call('HGETALL', 'h')",
    "redis.call('PUBLISH', 'a', 'x') redis.call('HSET', 'h', 'err', 'x') return redis.call('HGETALL', 'h')",
    "redis.call('PUBLISH', 'a', 'x') return {redis.call('GET', 's'), redis.call('GET', 'none'), redis.call('EXISTS', 's')}",
    "return redis.call('SET', 't', 'publish')",
    "local t = {} for i = 1, 7000 do t[i] = 'publish' end redis.call('RPUSH', 'l', unpack(t)) return redis.call('LLEN', 'l')",
    "return redis.call(ARGV[1] == 'v' and 'PUBLISH' or 'x', 'a', 'x')",
    # Shebangs.
    "#!lua\nreturn redis.call('PUBLISH', 'a', 'x')",
    "#!lua name=x\nreturn redis.call('PUBLISH', 'a', 'x')",
    "#!lua flags=allow-stale,no-cluster\nlocal x = redis.call('PUBLISH', 'a', 'x')\nreturn x",
    "#!lua flags=no-writes\nlocal x = redis.call('PUBLISH', 'a', 'x')\nreturn x",
    "#!lua flags=no-writes\n-- publish\nlocal x = redis.call('SET', 's', 'x')\nreturn x",
    "#!lua flags=no-writes\nreturn redis.call('GET', 's') -- publish",
    "#!lua flags=publish\nreturn 1",
    "#!lua publish",
    "#!js\nreturn 'publish'",
    "#!lua\n\nx x publish",
    "#!lua\r\nreturn redis.call('PUBLISH', 'a', 'x')",
    # Scripts that do not publish.
    "return redis.call('GET', 's')",
    "return {1, {2, {3}}, false}",
]
#: Scripts whose commands are named by arguments, with these arguments.
BY_ARGUMENT = [
    ("return redis.call(ARGV[1], KEYS[1], ARGV[2])", ["a"], ["PUBLISH", "x"]),
    ("return redis.call(unpack(ARGV))", [], ["publish", "a", "x"]),
    ("local rcall = redis.call\nreturn rcall(ARGV[1], KEYS[1], 1)", ["a"], ["PubLish"]),
    ("return redis.call(ARGV[1], KEYS[1])", ["s"], ["GET"]),
]
#: Valkey's other name of redis.
OF_VALKEY = [
    "return server.call('PUBLISH', 'a', 'x')",
    "local c = server.pcall return c('PUBLISH', 'a', 'x')",
    "return {server.call('PUBLISH', 'a', 1), redis.call('PUBLISH', 'a', 2)}",
    "return {type(server), tostring(server == redis), 'publish'}",
]


class Side:
    """One way to Redis: a connection that runs scripts, and one that is subscribed to CHANNELS."""

    def __init__(self, connect: Callable[[], RawClient], protocol: bytes, sharded: bool) -> None:
        self.client, self.subscriber = connect(), connect()
        if protocol == b"3":
            self.client.ask([b"HELLO", b"3"])
        names = [b"SUBSCRIBE", b"SSUBSCRIBE"] if sharded else [b"SUBSCRIBE"]
        for name in names:
            self.subscriber.send([name, *CHANNELS, END] if name == b"SUBSCRIBE" else [name, *CHANNELS])
            for _ in range(len(CHANNELS) + (name == b"SUBSCRIBE")):
                self.subscriber.reply()

    def run(self, *words: bytes) -> tuple[bytes, list[bytes]]:
        """Returns the reply to a command, and the messages that the subscriber heard because of
        it.
        """
        for command in ([b"DEL", b"l", b"h", b"t"], [b"SET", b"s", b"a"]):
            self.client.ask(command)
        reply = self.client.ask(words)
        self.client.ask([b"PUBLISH", END, b""])
        heard = []
        while END not in (message := self.subscriber.reply()):
            heard.append(message)
        return reply, heard

    def close(self) -> None:
        self.client.close()
        self.subscriber.close()


class ScriptCase(unittest.TestCase):
    def installation(self, binary: Callable[[], str], *options: str) -> Installation:
        # On some of the servers the operator has to allow scripts.
        installation = Installation("--allow-commands", "EVAL", *options, server=RedisServer(binary))
        self.addCleanup(installation.stop)
        return installation

    def sides(self, installation: Installation, protocol: bytes = b"2") -> tuple[Side, Side]:
        """Returns (straight to Redis, in database 7; through the proxy, as blue)."""
        server = installation.server

        def straight() -> RawClient:
            client = RawClient(server.port, b"AUTH", MASTER_PASSWORD.encode())
            client.ask([b"SELECT", b"7"])
            return client

        def through() -> RawClient:
            return RawClient(installation.proxy.port, b"AUTH", b"blue-password")

        with server.client() as client:
            sharded = "ssubscribe" in client.command()
        found = Side(straight, protocol, sharded), Side(through, protocol, sharded)
        for side in found:
            self.addCleanup(side.close)
        return found


def commands(scripts: list[str]) -> Iterator[list[bytes]]:
    """Yields commands that run the scripts in each way."""
    for text in scripts:
        script = text.encode("latin-1")
        sha = hashlib.sha1(script).hexdigest().encode()
        yield [b"SCRIPT", b"EXISTS", sha]
        yield [b"EVALSHA", sha, b"1", b"k", b"v"]
        yield [b"EVAL", script, b"1", b"k", b"v"]
        yield [b"SCRIPT", b"EXISTS", sha, b"x", sha.upper()]
        yield [b"evalsha", sha.upper(), b"1", b"k", b"v"]
        yield [b"EVAL_RO", script, b"0"]
        yield [b"EVALSHA_RO", sha, b"0"]
        yield [b"SCRIPT", b"LOAD", script]
        yield [b"SCRIPT", b"SHOW", sha]
    yield from (
        [b"EVAL"],
        [b"EVAL", b"publish"],
        [b"EVAL", b"publish", b"x"],
        [b"EVAL", b"publish", b"2", b"k"],
        [b"EVALSHA"],
    )
    yield [b"EVAL", b"return redis.call('PUBLISH', 'a', ARGV[1])", b"0", b"y" * 200_000, b"z"]
    yield [b"EVAL", b"return {redis.call('PUBLISH', 'a', ARGV[1])} --" + b"x" * 200_000, b"0", b"y" * 200_000]
    yield [b"EVAL", b"return {redis.call('PUBLISH', 'a', #ARGV)}", b"0", *[b"y"] * 40_000]


@on_every_server
class StraightTests(ScriptCase):
    """Scripts do through the proxy what they do straight to Redis."""

    def each_the_replies_and_messages_are_the_same(self, binary: Callable[[], str]) -> None:
        installation = self.installation(binary)
        with installation.server.client() as client:
            info = client.info("server")
            before_7 = info["redis_version"].startswith("6.")
        for protocol in (b"2", b"3"):
            straight, through = self.sides(installation, protocol)
            scripts = SCRIPTS + (OF_VALKEY if "valkey_version" in info else [])
            for words in commands(scripts):
                with self.subTest(protocol=protocol, words=[word[:100] for word in words]):
                    if before_7 and words[0] in (b"EVAL_RO", b"EVALSHA_RO"):
                        continue
                    expected, found = straight.run(*words), through.run(*words)
                    if before_7 and b": @user_script: " in expected[0]:
                        # There an error of redis.call itself has the line of the rewritten text,
                        # too.
                        expected = expected[0].split(b": @user_script: ")[0], expected[1]
                        found = found[0].split(b": @user_script: ")[0], found[1]
                    self.assertEqual(found, expected)
            # Redis forgets its scripts, and so must the proxy seem to.
            straight.client.ask([b"SCRIPT", b"FLUSH"])

    def each_commands_that_arguments_name(self, binary: Callable[[], str]) -> None:
        straight, through = self.sides(self.installation(binary))
        for text, keys, arguments in BY_ARGUMENT:
            script = text.encode()
            words = [b"%d" % len(keys), *(word.encode() for word in keys + arguments)]
            sha = hashlib.sha1(script).hexdigest().encode()
            for command in ([b"SCRIPT", b"LOAD", script], [b"EVALSHA", sha, *words], [b"EVAL", script, *words]):
                self.assertEqual(through.run(*command), straight.run(*command), command)

    def each_a_tail_call_that_fails_names_the_first_line(self, binary: Callable[[], str]) -> None:
        """The one difference in errors: Lua has forgotten the line of the call by then."""
        straight, through = self.sides(self.installation(binary))
        words = [b"EVAL", b"--publish\n\nreturn redis.call('INCR', 's')", b"0"]
        expected, found = straight.run(*words)[0], through.run(*words)[0]
        self.assertIn(b"@user_script:3", expected)
        self.assertEqual(found, expected.replace(b"@user_script:3", b"@user_script:1"))

    def each_in_transactions_and_pipelines(self, binary: Callable[[], str]) -> None:
        publishing, plain = b"return redis.call('PUBLISH', 'a', KEYS[1])", b"return redis.call('GET', KEYS[1])"
        sha = hashlib.sha1(publishing).hexdigest().encode()
        for side in self.sides(self.installation(binary)):
            some = [
                [b"EVAL", plain, b"1", b"s"],
                [b"EVAL", publishing, b"1", b"one"],
                [b"EVALSHA", sha, b"1", b"two"],
                [b"SET", b"s", b"b"],
                [b"EVALSHA", b"0" * 40, b"0"],
                [b"EVALSHA", sha, b"1", b"three"],
                [b"GET", b"s"],
            ]
            expected = [b"$1\r\na\r\n", b":1\r\n", b":1\r\n", b"+OK\r\n", b"-NOSCRIPT", b":1\r\n", b"$1\r\nb\r\n"]
            queued = [b"+OK\r\n", *[b"+QUEUED\r\n"] * len(some)]
            for whole in (True, False):
                side.client.ask([b"SET", b"s", b"a"])
                side.client.send(b"".join(map(encode, some)))
                replies = [side.client.reply() for _ in some]
                self.assertTrue(all(map(bytes.startswith, replies, expected)), replies)
                side.client.ask([b"SET", b"s", b"a"])
                transaction = [[b"MULTI"], *some, [b"EXEC"]]
                if whole:
                    side.client.send(b"".join(map(encode, transaction)))
                    replies = [side.client.reply() for _ in transaction]
                else:
                    replies = [side.client.ask(words) for words in transaction]
                self.assertEqual(replies[:-1], queued)
                self.assertIn(b"*7\r\n$1\r\na\r\n:1\r\n:1\r\n+OK\r\n-NOSCRIPT", replies[-1])
            heard = [side.subscriber.reply() for _ in range(12)]
            messages = [b"one", b"two", b"three"] * 4
            self.assertTrue(all(word in message for word, message in zip(messages, heard, strict=True)), heard)

    def each_the_own_index_can_be_selected(self, binary: Callable[[], str]) -> None:
        installation = self.installation(binary)
        with installation.blue(protocol=2) as blue:
            self.assertEqual(blue.eval("return redis.call('SELECT', 3)", 0), b"OK")
            self.assertEqual(blue.eval("redis.call('select', '3') return redis.call('SET', 'key', 'own')", 0), b"OK")
            self.assertEqual(installation.server.client(3).get("key"), b"own")
            for index in ("5", "0", "'03'", "'+3'", "'3 '", "'3\\0'", "''", "3.5", "-3", "'3', '5'", "4294967299"):
                for call in ("call", "pcall"):
                    script = f"redis.{call}('SELECT', {index}) redis.call('SET', 'key', 'strange') return redis.call('GET', 'key')"
                    try:
                        blue.eval(script, 0)
                    except redis.ResponseError:
                        self.assertEqual(call, "call")
                    self.assertIsNone(installation.server.client(5).get("key"))
                    self.assertIsNone(installation.server.client(0).get("key"))


@on_every_server
class ClientTests(ScriptCase):
    """redis-py, as applications use it."""

    def each_scripts_that_redis_has_forgotten(self, binary: Callable[[], str]) -> None:
        """After SCRIPT FLUSH, and after a restart of Redis, the client gets NOSCRIPT, and sends the
        text again.
        """
        installation = self.installation(binary)
        blue = installation.blue(protocol=2)
        self.addCleanup(blue.close)
        script = blue.register_script("redis.call('INCR', KEYS[1]) return redis.call('PUBLISH', KEYS[2], ARGV[1])")
        with blue.pubsub() as subscriber:
            subscriber.subscribe("news")
            self.assertEqual(until(lambda: subscriber.get_message(timeout=0.1), "subscribed")["type"], "subscribe")
            self.assertEqual(script(keys=["n", "news"], args=["one"]), 1)
            self.assertEqual(blue.script_exists(script.sha), [True])
            installation.server.client().script_flush()
            self.assertEqual(blue.script_exists(script.sha), [False])
            self.assertRaises(redis.exceptions.NoScriptError, blue.evalsha, script.sha, 2, "n", "news", "x")
            self.assertEqual(script(keys=["n", "news"], args=["two"]), 1)
            for transaction in (True, False):
                pipeline = blue.pipeline(transaction=transaction)
                script(keys=["n", "news"], args=["more"], client=pipeline)
                pipeline.get("n")
                pipeline.execute()
            heard = [until(lambda: subscriber.get_message(timeout=0.1), "a message")["data"] for _ in range(4)]
        self.assertEqual(heard, [b"one", b"two", b"more", b"more"])
        self.assertEqual(blue.get("n"), b"4")
        self.assertEqual(blue.script_load(script.script), script.sha)
        installation.server.kill()
        installation.server.start()

        def works() -> bool:
            try:
                return script(keys=["n", "news"], args=["after"]) == 0
            except (redis.ConnectionError, redis.ResponseError) as error:
                # Not NOSCRIPT, which redis-py handles, and not an error of the script.
                self.assertNotIn("script", str(error).lower())
                return False

        until(works, "the script runs after the restart")

    def test_several_processes(self) -> None:
        """A process that never had the text answers NOSCRIPT, although another one has it."""
        installation = self.installation(valkey, "--processes", "2")
        with ThreadPoolExecutor(20) as threads:

            def run(number: int) -> int:
                with installation.blue(protocol=2) as blue:
                    script = blue.register_script("return {redis.call('PUBLISH', 'nobody', 'x'), tonumber(ARGV[1])}")
                    return sum(script(args=[number])[1] for _ in range(3))

            self.assertEqual(list(threads.map(run, range(60))), [3 * number for number in range(60)])
        self.assertNotIn("Traceback", installation.proxy.log)


@on_every_server
class TenantTests(ScriptCase):
    """Two tenants run the same scripts, and publish to channels of the same name."""

    def each_everybody_hears_only_the_own(self, binary: Callable[[], str]) -> None:
        installation = self.installation(binary)
        subscribers = [client().pubsub() for client in (installation.blue, installation.green)]
        for subscriber in subscribers:
            self.addCleanup(subscriber.close)
            subscriber.subscribe("news")
            until(lambda s=subscriber: s.get_message(timeout=0.1), "subscribed")
        blue, green = installation.blue(protocol=2), installation.green(protocol=2)
        self.addCleanup(blue.close)
        self.addCleanup(green.close)
        text = "return redis.call('PUBLISH', 'news', ARGV[1])"
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.assertEqual(blue.eval(text, 0, "of blue"), 1)
        # Redis has blue's script, but green never gave the text.
        self.assertRaises(redis.exceptions.NoScriptError, green.evalsha, sha, 0, "x")
        self.assertEqual(green.script_exists(sha), [False])
        self.assertEqual(green.eval(text, 0, "of green"), 1)
        self.assertEqual(green.evalsha(sha, 0, "of green, too"), 1)
        self.assertEqual(blue.evalsha(sha, 0, "of blue, too"), 1)
        # The script as Redis knows it of green runs with blue's rights.
        with self.assertRaises(redis.ResponseError):
            blue.evalsha(Scripts(b"team-green:").rewrite(text.encode()).sha_in_redis.decode(), 0, "of blue to green")
        for subscriber, name in zip(subscribers, ("blue", "green"), strict=True):
            heard = [until(lambda s=subscriber: s.get_message(timeout=0.1), "a message") for _ in range(2)]
            self.assertEqual([each["data"].decode() for each in heard], [f"of {name}", f"of {name}, too"])
            self.assertEqual({each["channel"] for each in heard}, {b"news"})
            self.assertIsNone(subscriber.get_message(timeout=0.05))

    def each_no_spelling_reaches_another_tenant(self, binary: Callable[[], str]) -> None:
        """Also on servers on which tests/attacks cannot run scripts."""
        installation = self.installation(binary)
        with installation.green().pubsub() as subscriber:
            subscriber.subscribe(VICTIM_CHANNEL)
            subscriber.psubscribe("*")
            for _ in range(2):
                until(lambda: subscriber.get_message(timeout=0.1), "subscribed")
            with RawClient(installation.proxy.port, b"AUTH", b"blue-password") as blue:
                for script in PUBLISHING:
                    sha = hashlib.sha1(script).hexdigest().encode()
                    for words in (
                        [b"EVAL", script, b"0"],
                        [b"SCRIPT", b"LOAD", script],
                        [b"EVALSHA", sha, b"0"],
                        [b"EVAL_RO", script, b"0"],
                        [b"EVAL", b"#!lua\n" + script, b"0"],
                    ):
                        answer = blue.ask(words)
                        self.assertFalse([secret for secret in SECRETS if secret in answer and secret not in script], answer)
            self.assertIsNone(subscriber.get_message(timeout=0.1))
            # Green still hears what it should.
            installation.green().publish(VICTIM_CHANNEL, "own")
            self.assertEqual(until(lambda: subscriber.get_message(timeout=0.1), "the own message")["data"], b"own")
