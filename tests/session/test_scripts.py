"""Tests scripts that publish: which these are, what Redis gets, and what the client gets."""

from __future__ import annotations

import hashlib
import unittest
from unittest import mock

from redisproxy import bounds
from redisproxy.policy.facts import builtin
from redisproxy.policy.policy import make_policy
from redisproxy.resp.framing import encode
from redisproxy.session.scripts import Scripts, publishes, sha

from ..support.conversations import ConversationCase, SharedCase, logged_in, logged_in_multiplexed

PUBLISHING = b"return redis.call('PUBLISH', 'a', 'x')"
PLAIN = b"return redis.call('GET', 'a')"


def in_redis(text: bytes) -> bytes:
    """Returns the text that Redis gets."""
    return Scripts(b"blue:").rewrite(text).text


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


class TextTests(unittest.TestCase):
    def test_a_script_that_may_publish(self) -> None:
        for text in (
            PUBLISHING,
            b"redis.pcall('publish', KEYS[1], 1)",
            b"redis['call']('pUbLiSh', KEYS[1], 1)",
            b"local c = redis.call; c('SPUBLISH', KEYS[1], 1)",
            b"for _, name in ipairs({'GET', \"publish\"}) do redis.pcall(name, KEYS[1], 1) end",
            b"redis.call([[PUBLISH]], KEYS[1], 1)",
            b"-- publishes nothing",
            b"#!lua\nreturn server.call('PUBLISH', 'a', 'x')",
            # as Redisson does
            b"redis.call(ARGV[4], KEYS[2], ARGV[1]);",
            b"local rcall = redis.call\nrcall ( ARGV[1], KEYS[1], 1)",
            b"return redis.call(unpack(ARGV))",
        ):
            self.assertTrue(publishes(text), text)

    def test_a_script_that_does_not(self) -> None:
        for text in (
            PLAIN,
            b"",
            b"return redis.call('SET', KEYS[1], ARGV[1])",
            b"local pushCmd = 'RPUSH'\nrcall(pushCmd, KEYS[1], ARGV[1])",
            b"return redis.call('GET', ARGV[1])",
            b"-- This call is cheap. ARGV[1] is the key.",
            b"redis.call('DEL', unpack(ARGV))",
            b"return redis.call('SET', KEYS[1], (ARGV[1]))",
        ):
            self.assertFalse(publishes(text), text)

    def test_long_texts_take_no_longer_than_their_length(self) -> None:
        for part in (b"call", b"call(", b"call(unpack(", b" ", b"call" + b" " * 1000, b"call(" + b"\n" * 1000):
            self.assertFalse(publishes(part * (bounds.INSPECTED_BYTES // len(part))))


class RewriteTests(unittest.TestCase):
    def test_the_lines_stay(self) -> None:
        text = b"local a = 1\n\nreturn redis.call('PUBLISH', 'a', a)"
        found = in_redis(text)
        self.assertTrue(found.endswith(text))
        self.assertEqual(found.count(b"\n"), 2)
        self.assertIn(b"(redis,'blue:'); ", found)

    def test_a_shebang_stays_alone_in_its_line(self) -> None:
        for first in (b"#!lua\n", b"#!lua flags=no-writes,allow-stale\n", b"#!lua\r\n", b"#!\n"):
            found = in_redis(first + PUBLISHING)
            self.assertTrue(found.startswith(first + b"local redis="), found)
            self.assertTrue(found.endswith(PUBLISHING))
            self.assertEqual(found.count(b"\n"), 1)
        for text in (b"#!lua publish", b"#!publish"):
            self.assertEqual(in_redis(text), text)

    def test_the_other_name_of_redis_is_there_if_it_is_used(self) -> None:
        self.assertNotIn(b"server", in_redis(PUBLISHING))
        found = in_redis(b"return server.call('PUBLISH', 'a', 'x')")
        self.assertIn(b"; local server=rawget(_G,'server') and redis; return server.call(", found)

    def test_no_prefix_ends_the_string_that_it_is_in(self) -> None:
        for prefix in (b"a'..x..'", b"a\\", b"a\nb", b"\xff'", b"PREFIX", b"A]]"):
            found = Scripts(prefix).rewrite(PUBLISHING).text
            head = found[: found.index(b"); return redis.call(")]
            inside = head[head.rindex(b"(redis,'") + len(b"(redis,'") : -1]
            self.assertRegex(inside.decode("ascii"), r"^(?:[a-z0-9:-]|\\[0-9]{3})+$")
            decoded = inside.decode("ascii").split("\\")
            self.assertEqual(
                b"".join([decoded[0].encode(), *(bytes([int(d[:3])]) + d[3:].encode() for d in decoded[1:])]), prefix
            )

    def test_the_shas(self) -> None:
        scripts = Scripts(b"blue:")
        found = scripts.rewrite(PUBLISHING)
        self.assertEqual(found.sha, hashlib.sha1(PUBLISHING).hexdigest().encode())
        self.assertEqual(found.sha_in_redis, hashlib.sha1(found.text).hexdigest().encode())
        self.assertEqual(scripts.rewrite(PUBLISHING), found)
        self.assertEqual(scripts.in_redis(found.sha), found.sha_in_redis)
        self.assertEqual(scripts.in_redis(found.sha.upper()), found.sha_in_redis)
        for other in (found.sha_in_redis, sha(PLAIN), b"", b"x" * 100):
            self.assertEqual(scripts.in_redis(other), other)
        self.assertNotEqual(Scripts(b"green:").rewrite(PUBLISHING).sha_in_redis, found.sha_in_redis)

    def test_shas_are_forgotten(self) -> None:
        scripts = Scripts(b"blue:")
        with mock.patch.object(bounds, "PUBLISHING_SCRIPTS", 3):
            names = [scripts.rewrite(b"publish(%d)" % n).sha for n in range(3)]
            scripts.in_redis(names[0])
            scripts.rewrite(b"publish(1)")
            names.append(scripts.rewrite(b"publish(3)").sha)
            self.assertEqual(list(scripts.known), [names[0], names[1], names[3]])
            self.assertEqual(scripts.in_redis(names[2]), names[2])

    def test_the_original_text(self) -> None:
        scripts = Scripts(b"blue:")
        for text in (PUBLISHING, b"#!lua\n" + PUBLISHING, b"server.call('PUBLISH')", b"#!lua publish", b"publish\n\n" * 10):
            self.assertEqual(scripts.original(bulk(scripts.rewrite(text).text)), bulk(text))
        for reply in (b"-NOSCRIPT no\r\n", b"$-1\r\n", b"_\r\n", bulk(PLAIN), b"+QUEUED\r\n", bulk(b""), bulk(b"#!lua")):
            self.assertEqual(scripts.original(reply), reply)


class SessionTests(ConversationCase):
    """A session with a dedicated connection."""

    def setUp(self) -> None:
        self.found = Scripts(b"blue:").rewrite(PUBLISHING)

    def test_eval(self) -> None:
        for name in (b"EVAL", b"eval", b"EVAL_RO"):
            conversation = logged_in().command(name, PUBLISHING, b"1", b"key", b"")
            self.assertEqual(conversation.gets(), encode([name, self.found.text, b"1", b"key", b""]))
            self.assertHears(conversation.redis(b":3\r\n"), b":3\r\n")

    def test_other_scripts_pass_as_they_are(self) -> None:
        sent = encode([b"EVAL", PLAIN, b"0"]) + encode([b"EVALSHA", self.found.sha, b"0"]) + encode([b"GET", b"a"])
        conversation = logged_in().client(sent)
        self.assertEqual(conversation.gets(), sent)
        self.assertEqual(conversation.looked, [b"AUTH"], "they are plain")

    def test_evalsha(self) -> None:
        conversation = logged_in().command(b"EVAL", PUBLISHING, b"0").redis(b":0\r\n")
        conversation.hears(), conversation.gets()
        for name in (b"EVALSHA", b"evalsha_ro"):
            for spelt in (self.found.sha, self.found.sha.upper()):
                conversation.command(name, spelt, b"0", b"x")
                self.assertEqual(conversation.gets(), encode([name, self.found.sha_in_redis, b"0", b"x"]))
                self.assertHears(
                    conversation.redis(b"-NOSCRIPT No matching script.\r\n"), b"-NOSCRIPT No matching script.\r\n"
                )
        other = encode([b"EVALSHA", sha(PLAIN), b"0"])
        self.assertEqual(conversation.client(other).gets(), other)

    def test_a_pipeline_knows_the_script_that_came_with_it(self) -> None:
        conversation = logged_in().client(
            encode([b"SCRIPT", b"LOAD", PUBLISHING]) + encode([b"EVALSHA", self.found.sha, b"0"]) + encode([b"GET", b"a"])
        )
        self.assertEqual(
            conversation.gets(),
            encode([b"SCRIPT", b"LOAD", self.found.text])
            + encode([b"EVALSHA", self.found.sha_in_redis, b"0"])
            + encode([b"GET", b"a"]),
        )
        conversation.redis(bulk(self.found.sha_in_redis) + b":0\r\n$-1\r\n")
        self.assertHears(conversation, bulk(self.found.sha), b":0\r\n$-1\r\n")

    def test_all_sessions_of_a_tenant_know_a_script(self) -> None:
        first = logged_in().command(b"SCRIPT", b"LOAD", PUBLISHING)
        second = logged_in()
        second.known_scripts = first.known_scripts
        second.session.scanner.known = first.session.scripts.known
        second.command(b"EVALSHA", self.found.sha, b"0")
        self.assertEqual(second.gets(), encode([b"EVALSHA", self.found.sha_in_redis, b"0"]))

    def test_another_tenant_has_its_own(self) -> None:
        conversation = logged_in().command(b"SCRIPT", b"LOAD", PUBLISHING).redis(bulk(self.found.sha_in_redis))
        conversation.command(b"AUTH", b"green")
        conversation.gets(), conversation.hears()
        sent = encode([b"EVALSHA", self.found.sha, b"0"])
        self.assertEqual(conversation.client(sent).gets(), sent, "as it came: green never gave the text")
        conversation.command(b"EVAL", PUBLISHING, b"0")
        self.assertEqual(conversation.gets(), encode([b"EVAL", Scripts(b"green:").rewrite(PUBLISHING).text, b"0"]))

    def test_errors_name_the_clients_sha(self) -> None:
        conversation = logged_in().command(b"EVAL", PUBLISHING, b"0")
        error = b"-ERR value is not an integer script: %b, on @user_script:2.\r\n"
        conversation.redis(error % self.found.sha_in_redis)
        self.assertHears(conversation, error % self.found.sha)
        conversation.command(b"EVALSHA", self.found.sha, b"0")
        for byte in range(len(error % self.found.sha)):
            self.assertHears(conversation)
            conversation.redis((error % self.found.sha_in_redis)[byte : byte + 1])
        self.assertHears(conversation, error % self.found.sha)

    def test_results_pass_as_they_are(self) -> None:
        """Also those that look like something else, and in pieces."""
        name = self.found.sha_in_redis
        for result in (
            bulk(name),
            b"*2\r\n%b-ERR script: %b\r\n" % (bulk(name), name),
            b"*3\r\n$7\r\nmessage\r\n$6\r\nblue:a\r\n$1\r\nx\r\n",
            b"*3\r\n$9\r\nsubscribe\r\n$6\r\nblue:a\r\n:1\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b"$-1\r\n",
            b"+OK\r\n",
            b"*1\r\n*1\r\n:1\r\n",
        ):
            for size in (len(result), 3, 1):
                conversation = logged_in().command(b"EVAL", PUBLISHING, b"0").command(b"GET", b"a")
                for start in range(0, len(result), size):
                    conversation.redis(result[start : start + size])
                conversation.redis(b"$-1\r\n")
                self.assertHears(conversation, result, b"$-1\r\n")

    def test_an_error_that_is_too_long_is_passed_on(self) -> None:
        error = b"-ERR " + b"x" * 100 + self.found.sha_in_redis + b"\r\n"
        with mock.patch.object(bounds, "REWRITTEN_BYTES", 100):
            conversation = logged_in().command(b"EVAL", PUBLISHING, b"0")
            self.assertHears(conversation.redis(error[:50]))
            self.assertHears(conversation.redis(error[50:110]), error[:110])
            self.assertHears(conversation.redis(error[110:]), error[110:])
            conversation.command(b"SCRIPT", b"SHOW", self.found.sha)
            shown = bulk(self.found.text)
            self.assertHears(conversation.redis(shown[:50]), shown[:50])
            self.assertHears(conversation.redis(shown[50:]), shown[50:])

    def test_muted(self) -> None:
        conversation = logged_in().command(b"CLIENT", b"REPLY", b"SKIP").command(b"EVAL", PUBLISHING, b"0")
        conversation.command(b"EVALSHA", self.found.sha, b"0").redis(b"-ERR no\r\n:2\r\n")
        self.assertHears(conversation, b":2\r\n")
        conversation.command(b"CLIENT", b"REPLY", b"OFF").command(b"SCRIPT", b"LOAD", PUBLISHING)
        conversation.redis(bulk(self.found.sha_in_redis))
        self.assertHears(conversation)

    def test_script_exists_and_show(self) -> None:
        conversation = logged_in().command(b"SCRIPT", b"LOAD", PUBLISHING).redis(bulk(self.found.sha_in_redis))
        conversation.gets(), conversation.hears()
        conversation.command(b"script", b"exists", self.found.sha.upper(), sha(PLAIN), b"x")
        self.assertEqual(conversation.gets(), encode([b"script", b"exists", self.found.sha_in_redis, sha(PLAIN), b"x"]))
        self.assertHears(conversation.redis(b"*3\r\n:1\r\n:0\r\n:0\r\n"), b"*3\r\n:1\r\n:0\r\n:0\r\n")
        conversation.command(b"SCRIPT", b"SHOW", self.found.sha)
        self.assertEqual(conversation.gets(), encode([b"SCRIPT", b"SHOW", self.found.sha_in_redis]))
        shown = bulk(self.found.text)
        conversation.redis(shown[:30])
        self.assertHears(conversation)
        self.assertHears(conversation.redis(shown[30:]), bulk(PUBLISHING))
        for words in (
            [b"SCRIPT", b"LOAD", PLAIN],
            [b"SCRIPT", b"LOAD", PUBLISHING, b"x"],
            [b"SCRIPT", b"SHOW", sha(PLAIN)],
            [b"SCRIPT", b"SHOW"],
            [b"SCRIPT", b"HELP"],
        ):
            self.assertEqual(conversation.command(*words).gets(), encode(words))

    def test_what_a_tenant_may_not_do_with_scripts(self) -> None:
        conversation = logged_in()
        for words in ([b"SCRIPT", b"FLUSH"], [b"SCRIPT", b"KILL"], [b"SCRIPT", b"DEBUG", b"YES"]):
            self.assertRefused(conversation.command(*words), b"-NOPERM")
        without = logged_in(policy=make_policy(builtin(), scripts=False))
        for words in ([b"EVAL", PUBLISHING, b"0"], [b"EVALSHA", self.found.sha, b"0"], [b"SCRIPT", b"LOAD", PUBLISHING]):
            self.assertRefused(without.command(*words), b"-NOPERM")
        self.assertEqual(without.gets() + conversation.gets(), b"")
        stranger = logged_in().command(b"RESET")
        stranger.hears()
        self.assertRefused(stranger.command(b"EVAL", PUBLISHING, b"0"), b"-NOAUTH")

    def test_in_a_transaction(self) -> None:
        conversation = logged_in().command(b"MULTI").command(b"EVAL", PUBLISHING, b"0")
        conversation.command(b"EVALSHA", self.found.sha, b"0").command(b"EXEC")
        self.assertEqual(
            conversation.gets(),
            encode([b"MULTI"])
            + encode([b"EVAL", self.found.text, b"0"])
            + encode([b"EVALSHA", self.found.sha_in_redis, b"0"])
            + encode([b"EXEC"]),
        )
        replies = b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:0\r\n:0\r\n"
        self.assertHears(conversation.redis(replies), replies)

    def test_among_messages(self) -> None:
        """In RESP3 a session can be subscribed and run scripts."""
        conversation = logged_in(protocol=3).command(b"SUBSCRIBE", b"a")
        conversation.redis(b">3\r\n$9\r\nsubscribe\r\n$6\r\nblue:a\r\n:1\r\n")
        conversation.hears(), conversation.gets()
        message = b">3\r\n$7\r\nmessage\r\n%b$1\r\nx\r\n"
        conversation.command(b"EVAL", PUBLISHING, b"0")
        conversation.redis(message % bulk(b"blue:a") + b"-ERR script: %b\r\n" % self.found.sha_in_redis)
        self.assertHears(conversation, message % bulk(b"a"), b"-ERR script: %b\r\n" % self.found.sha)


class StreamTests(SharedCase):
    """A session with multiplexed connections, and commands that are large."""

    def setUp(self) -> None:
        self.found = Scripts(b"blue:").rewrite(PUBLISHING)
        self.large = b"y" * 100_000

    def test_small_ones_need_no_dedicated_connection(self) -> None:
        conversation = logged_in_multiplexed()
        self.assertEqual(
            conversation.command(b"EVAL", PUBLISHING, b"0").scripts_gets(), encode([b"EVAL", self.found.text, b"0"])
        )
        conversation.scripts_redis(b"-ERR script: %b\r\n" % self.found.sha_in_redis)
        self.assertHears(conversation, b"-ERR script: %b\r\n" % self.found.sha)
        self.assertHome(conversation)

    def test_large_arguments_stream(self) -> None:
        for name, first, sent in (
            (b"EVAL", PUBLISHING, self.found.text),
            (b"EVALSHA", self.found.sha, self.found.sha_in_redis),
        ):
            conversation = logged_in_multiplexed()
            conversation.session.scripts.rewrite(PUBLISHING)
            data = encode([name, first, b"1", b"key", self.large, b"last"])
            for start in range(0, len(data), 10_000):
                conversation.client(data[start : start + 10_000])
            self.assertEqual(conversation.gets(), encode([name, sent, b"1", b"key", self.large, b"last"]))
            conversation.command(b"GET", b"a")
            conversation.redis(b"-ERR script: %b\r\n$-1\r\n" % self.found.sha_in_redis)
            self.assertHears(conversation, b"-ERR script: %b\r\n$-1\r\n" % self.found.sha)
            self.assertHome(conversation)

    def test_a_client_that_leaves_within_it(self) -> None:
        """Redis never answers the command that it did not get whole."""
        data = encode([b"EVAL", PUBLISHING, b"1", b"key", self.large])
        conversation = logged_in_multiplexed().client(data[:50_000])
        conversation.session.ending.hurry()
        self.assertEqual(conversation.closed, "cut-off")
        self.assertIs(conversation.upstream.released, False)

    def test_a_lost_connection_closes_the_client(self) -> None:
        conversation = logged_in_multiplexed().command(b"GET", b"a").command(b"EVAL", PUBLISHING, b"0")
        conversation.command(b"EVALSHA", self.found.sha, b"0")
        conversation.shared_redis(b"$-1\r\n")
        conversation.hears()
        conversation.command(b"GET", b"a")
        self.assertEqual(conversation.scripts_gets().count(b"$3\r\nGET"), 1)
        conversation.tenant_pool.scripts.breaks()
        self.assertEqual((conversation.hears(), conversation.closed), (b"", "redis-lost"))

    def test_a_large_text_is_rewritten_too(self) -> None:
        text = PUBLISHING + b"\n--" + b"z" * 200_000
        conversation = logged_in_multiplexed()
        data = encode([b"EVAL", text, b"0"])
        for start in range(0, len(data), 10_000):
            conversation.client(data[start : start + 10_000])
        self.assertEqual(conversation.scripts_gets(), encode([b"EVAL", in_redis(text), b"0"]))

    def test_a_whole_transaction_with_plain_scripts_needs_no_dedicated_connection(self) -> None:
        plain = encode([b"MULTI"]) + encode([b"EVAL", PLAIN, b"0"]) + encode([b"EXEC"])
        conversation = logged_in_multiplexed()
        self.assertEqual(conversation.client(plain).scripts_gets(), plain)
        other = encode([b"MULTI"]) + encode([b"EVAL", PUBLISHING, b"0"]) + encode([b"EXEC"])
        conversation.scripts_redis(b"+OK\r\n+QUEUED\r\n*1\r\n:1\r\n")
        conversation.hears()
        self.assertEqual(conversation.client(other).gets(), other.replace(bulk(PUBLISHING), bulk(self.found.text)))


class BehindOneThatBlocksTests(ConversationCase):
    """Redis would run the script before it writes the reply of the command that blocked. So nobody
    could tell the script from that command: see `upstream.script_watch`.
    """

    BLPOP = encode([b"BLPOP", b"q", b"0"])
    ITEM = b"*2\r\n$1\r\nq\r\n$1\r\na\r\n"

    def assertWaits(self, waiting: bytes, sent: bytes | None = None) -> None:
        """waiting: the commands behind the BLPOP; sent: what Redis gets of them."""
        conversation = logged_in().client(self.BLPOP + waiting)
        conversation.upstream.sent = conversation.upstream.sent.removeprefix(self.BLPOP)
        self.assertEqual(conversation.upstream.sent, b"")
        conversation.redis(self.ITEM)
        self.assertEqual(conversation.upstream.sent, waiting if sent is None else sent)
        conversation.redis(b":1\r\n")
        self.assertHears(conversation, self.ITEM, b":1\r\n")

    def test_no_script_is_sent(self) -> None:
        large = b"x" * (bounds.INSPECTED_BYTES + 1)
        for words in (
            [b"EVAL", PLAIN, b"0"],
            [b"EVALSHA", sha(PLAIN), b"0"],
            [b"EVAL_RO", PLAIN, b"0"],
            [b"EVAL", PLAIN, b"0", large],
            [b"evalsha", sha(PLAIN), b"0", large],
        ):
            with self.subTest(words[:2]):
                self.assertWaits(encode(words))
        self.assertWaits(encode([b"EVAL", PUBLISHING, b"0"]), encode([b"EVAL", in_redis(PUBLISHING), b"0"]))
        sent = encode([b"EVAL", in_redis(PUBLISHING), b"0", large])
        self.assertWaits(encode([b"EVAL", PUBLISHING, b"0", large]), sent)

    def test_plain_commands_are(self) -> None:
        for words in ([b"GET", b"a"], [b"SET", b"a", b"x" * (bounds.INSPECTED_BYTES + 1)]):
            data = self.BLPOP + encode(words)
            conversation = logged_in().client(data)
            self.assertTrue(conversation.upstream.sent.endswith(data))
        data = encode([b"MULTI"]) + self.BLPOP + encode([b"EXEC"])
        self.assertEqual(logged_in().client(data).upstream.sent, data)

    def test_no_transaction_ends(self) -> None:
        """Inside MULTI it does not block, but only Redis knows whether there is a MULTI."""
        multi, script, end = encode([b"MULTI"]), encode([b"EVAL", PLAIN, b"0"]), encode([b"EXEC"])
        conversation = logged_in().client(multi + script + self.BLPOP + end)
        self.assertEqual(conversation.upstream.sent, multi + script + self.BLPOP)
        conversation.redis(b"+OK\r\n" + b"+QUEUED\r\n" * 2)
        self.assertEqual(conversation.upstream.sent, multi + script + self.BLPOP + end)
        conversation.redis(b"*2\r\n:1\r\n*-1\r\n").client(end)
        self.assertFalse(conversation.session.multi)
        self.assertHears(conversation, b"+OK\r\n" + b"+QUEUED\r\n" * 2 + b"*2\r\n:1\r\n*-1\r\n")

    def test_refused_meanwhile(self) -> None:
        error = b"-NOPERM no scripts\r\n"
        for text in (PLAIN, PUBLISHING):
            conversation = logged_in().client(self.BLPOP + encode([b"EVAL", text, b"0"]))
            conversation.session.policy = conversation.session.policy.without_scripts(error)
            conversation.redis(self.ITEM)
            self.assertTrue(conversation.upstream.sent.endswith(self.BLPOP))
            self.assertTrue(conversation.hears().startswith(self.ITEM + b"-"))
