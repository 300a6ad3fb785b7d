"""Conversations, as transcripts: what the client and Redis say, and what must come out on either side."""

from __future__ import annotations

import unittest

from redisproxy.core import session as session_module
from redisproxy.core.lane import Ledger, Owed
from redisproxy.core.resp import ProtocolError, encode
from redisproxy.core.session import NOAUTH, OK, SPOILER, Session, Wait
from redisproxy.core.tenants import AuthenticationError, Credential, Directory, Tenant, digest

BLUE = Credential(Tenant("blue", 3), "redis-secret-master", digest(b"blue"))
GREEN = Credential(Tenant("green", 5), "redis-secret-master", digest(b"green"))
DIRECTORY = Directory(None, [BLUE, GREEN])


class RecordingLane:
    """A lane whose Redis is the test: the real ledger, and lists of what was sent."""

    def __init__(self, conversation: Conversation) -> None:
        self.ledger = Ledger()
        self.expect, self.latest, self.forgo = self.ledger.expect, self.ledger.latest, self.ledger.forgo
        self.sent = b""
        self.released: bool | None = None
        self._conversation = conversation

    def send(self, data: bytes) -> None:
        assert self.released is None, "sent to a lane that was given back"
        self.sent += data

    def release(self, clean: bool) -> None:
        assert self.released is None, "given back twice"
        self.released = clean


class Conversation:
    """A session between a client and a Redis that the test plays. It is its own link."""

    def __init__(self, directory: Directory = DIRECTORY, lanes_at_once: bool = True) -> None:
        self.id = 7
        self.directory = directory
        self.lanes_at_once = lanes_at_once
        self.lanes: list[RecordingLane] = []
        self.asked: list[Credential] = []
        self.told = b""
        self.closed: str | None = None
        self.held = False
        self.session = Session(self)

    # The link.

    def write(self, data: bytes) -> None:
        self.told += data

    def close(self, mood: str) -> None:
        self.closed = self.closed or mood

    def hold(self) -> None:
        self.held = True

    def unhold(self) -> None:
        self.held = False

    def authenticate(self, username: str | None, password: bytes) -> Credential:
        return self.directory.authenticate(username, password, 0.0)

    def lease(self, credential: Credential) -> None:
        self.asked.append(credential)
        if self.lanes_at_once:
            self.open_lane()

    # The test's side.

    def open_lane(self) -> None:
        self.lanes.append(RecordingLane(self))
        self.session.lane_opened(self.lanes[-1])

    @property
    def lane(self) -> RecordingLane:
        return self.lanes[-1]

    def client(self, *parts: bytes) -> Conversation:
        self.session.received(b"".join(parts))
        return self

    def command(self, *words: bytes) -> Conversation:
        return self.client(encode(words))

    def redis(self, data: bytes, lane: int = -1) -> Conversation:
        self.lanes[lane].ledger.received(data)
        return self

    def hears(self) -> bytes:
        """What the client was told since the last time."""
        told, self.told = self.told, b""
        return told

    def gets(self) -> bytes:
        """What Redis was sent since the last time, on the newest lane."""
        sent, self.lane.sent = self.lane.sent, b""
        return sent


def logged_in(**options: object) -> Conversation:
    conversation = Conversation(**options)
    conversation.command(b"AUTH", b"blue")
    assert conversation.hears() == OK
    return conversation


class Case(unittest.TestCase):
    def assertHears(self, conversation: Conversation, *expected: bytes) -> None:
        self.assertEqual(conversation.hears(), b"".join(expected))

    def assertRefused(self, conversation: Conversation, start: bytes) -> None:
        told = conversation.hears()
        self.assertTrue(told.startswith(start) and told.endswith(b"\r\n") and told.count(b"\r\n") == 1, told)


class LoginTests(Case):
    def test_password_only(self) -> None:
        conversation = Conversation().command(b"AUTH", b"blue")
        self.assertHears(conversation, OK)
        self.assertEqual(conversation.asked, [BLUE])

    def test_username_and_password(self) -> None:
        for user in (b"blue", b"default"):
            self.assertHears(Conversation().command(b"AUTH", user, b"blue"), OK)
        self.assertRefused(Conversation().command(b"AUTH", b"green", b"blue"), b"-WRONGPASS ")
        self.assertRefused(Conversation().command(b"AUTH", b"blue", b"green"), b"-WRONGPASS ")

    def test_the_username_is_not_the_password(self) -> None:
        self.assertRefused(Conversation().command(b"AUTH", b"blue", b"x"), b"-WRONGPASS ")

    def test_arity(self) -> None:
        self.assertRefused(Conversation().command(b"AUTH"), b"-ERR wrong number of arguments for 'auth' command")
        self.assertRefused(Conversation().command(b"AUTH", b"a", b"b", b"c"), b"-ERR syntax error")

    def test_without_it_nothing_runs_and_the_connection_goes_on(self) -> None:
        conversation = Conversation()
        for words in (
            (b"GET", b"a"),
            (b"SELECT", b"3"),
            (b"NOSUCH",),
            (b"MULTI",),
            (b"CLIENT", b"ID"),
            (b"SUBSCRIBE", b"x"),
        ):
            self.assertHears(conversation.command(*words), NOAUTH)
        self.assertHears(conversation.command(b"N" * 500), NOAUTH)
        self.assertHears(conversation.client(b"GET a\r\n"), NOAUTH)
        self.assertIsNone(conversation.closed)
        self.assertHears(conversation.command(b"AUTH", b"blue"), OK)

    def test_pipelined_before_and_across(self) -> None:
        conversation = Conversation()
        conversation.client(
            encode([b"GET", b"a"]), encode([b"AUTH", b"blue"]), encode([b"GET", b"a"]), encode([b"SELECT", b"3"])
        )
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]))
        self.assertHears(conversation, NOAUTH, OK)
        self.assertHears(conversation.redis(b"$1\r\nx\r\n"), b"$1\r\nx\r\n", OK)

    def test_commands_wait_for_the_lane(self) -> None:
        conversation = Conversation(lanes_at_once=False)
        conversation.client(encode([b"AUTH", b"blue"]), encode([b"GET", b"a"]))
        self.assertTrue(conversation.held)
        conversation.command(b"GET", b"b")
        self.assertHears(conversation)
        conversation.open_lane()
        self.assertFalse(conversation.held)
        self.assertHears(conversation, OK)
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]) + encode([b"GET", b"b"]))

    def test_no_lane_can_be_had(self) -> None:
        conversation = Conversation(lanes_at_once=False).command(b"AUTH", b"blue")
        conversation.session.lane_refused("ERR Redis is away")
        self.assertHears(conversation, b"-ERR Redis is away\r\n")
        self.assertHears(conversation.command(b"GET", b"a"), NOAUTH)
        conversation.lanes_at_once = True
        self.assertHears(conversation.command(b"AUTH", b"blue"), OK)

    def test_the_lane_comes_when_the_client_is_gone(self) -> None:
        for leave in (lambda c: c.session.lost(), lambda c: c.session.recheck(Directory(None, []), 0.0)):
            conversation = Conversation(lanes_at_once=False).command(b"AUTH", b"blue")
            leave(conversation)
            conversation.open_lane()
            self.assertIs(conversation.lane.released, True)

    def test_before_the_first_snapshot(self) -> None:
        class Unread(Directory):
            def authenticate(self, *arguments: object) -> Credential:
                raise AuthenticationError("ERR not yet", "not-loaded")

        self.assertHears(Conversation(Unread(None, [])).command(b"AUTH", b"x"), b"-ERR not yet\r\n")

    def test_again_as_the_same_tenant(self) -> None:
        conversation = logged_in().command(b"AUTH", b"blue")
        self.assertHears(conversation, OK)
        self.assertEqual(len(conversation.lanes), 1)

    def test_a_wrong_one_leaves_the_session_as_it_was(self) -> None:
        conversation = logged_in()
        self.assertRefused(conversation.command(b"AUTH", b"wrong"), b"-WRONGPASS ")
        conversation.command(b"GET", b"a")
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]))

    def test_as_another_tenant_waits_for_what_is_owed(self) -> None:
        conversation = logged_in()
        conversation.client(encode([b"GET", b"a"]), encode([b"AUTH", b"green"]), encode([b"GET", b"b"]))
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]))
        self.assertTrue(conversation.held)
        conversation.redis(b"$-1\r\n")
        self.assertHears(conversation, b"$-1\r\n", OK)
        self.assertEqual(len(conversation.lanes), 2)
        self.assertIs(conversation.lanes[0].released, True)
        self.assertEqual(conversation.gets(), encode([b"GET", b"b"]))
        self.assertEqual(conversation.session.credential, GREEN)

    def test_as_another_tenant_whose_lane_cannot_be_had(self) -> None:
        conversation = logged_in()
        conversation.lanes_at_once = False
        conversation.command(b"AUTH", b"green")
        conversation.session.lane_refused("ERR no")
        self.assertHears(conversation, b"-ERR no\r\n")
        self.assertEqual(conversation.session.credential, BLUE)
        conversation.command(b"GET", b"a")
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]))

    def test_as_another_tenant_keeps_the_protocol(self) -> None:
        conversation = logged_in().command(b"HELLO", b"3").redis(b"%0\r\n")
        conversation.hears()
        conversation.command(b"AUTH", b"green")
        self.assertEqual(conversation.gets(), encode([b"HELLO", b"3"]))
        self.assertHears(conversation.redis(b"%1\r\n+proto\r\n:3\r\n"), OK)


class HelloTests(Case):
    def test_with_a_login(self) -> None:
        conversation = Conversation().command(b"HELLO", b"3", b"AUTH", b"default", b"blue", b"SETNAME", b"me")
        self.assertEqual(conversation.gets(), encode([b"HELLO", b"3"]))
        self.assertHears(conversation.redis(b"%1\r\n+proto\r\n:3\r\n"), b"%1\r\n+proto\r\n:3\r\n")
        self.assertHears(conversation.command(b"CLIENT", b"GETNAME"), b"$2\r\nme\r\n")

    def test_without_one(self) -> None:
        self.assertRefused(Conversation().command(b"HELLO"), b"-NOAUTH HELLO must be called")
        self.assertRefused(Conversation().command(b"HELLO", b"3"), b"-NOAUTH HELLO must be called")

    def test_wrong_password(self) -> None:
        self.assertRefused(Conversation().command(b"HELLO", b"2", b"AUTH", b"default", b"no"), b"-WRONGPASS ")

    def test_options(self) -> None:
        conversation = logged_in()
        self.assertRefused(conversation.command(b"HELLO", b"4"), b"-NOPROTO ")
        self.assertRefused(conversation.command(b"HELLO", b"x"), b"-ERR Protocol version is not an integer")
        self.assertRefused(conversation.command(b"HELLO", b"3", b"NONSENSE"), b"-ERR Syntax error in HELLO")
        self.assertRefused(conversation.command(b"HELLO", b"3", b"AUTH", b"x"), b"-ERR Syntax error in HELLO")
        self.assertRefused(conversation.command(b"HELLO", b"3", b"SETNAME", b"a b"), b"-ERR Client names")
        self.assertEqual(conversation.gets(), b"")
        conversation.command(b"HELLO")
        self.assertEqual(conversation.gets(), encode([b"HELLO"]))

    def test_null_of_the_protocol(self) -> None:
        conversation = logged_in()
        self.assertHears(conversation.command(b"CLIENT", b"GETNAME"), b"$-1\r\n")
        conversation.command(b"HELLO", b"3").redis(b"%0\r\n")
        conversation.hears()
        self.assertHears(conversation.command(b"CLIENT", b"GETNAME"), b"_\r\n")

    def test_a_lane_that_speaks_resp3_is_not_given_back_clean(self) -> None:
        conversation = logged_in().command(b"HELLO", b"3").redis(b"%0\r\n")
        conversation.session.lost()
        self.assertIs(conversation.lane.released, False)


class OrderTests(Case):
    def test_every_reply_in_its_place(self) -> None:
        conversation = logged_in()
        get = encode([b"GET", b"a"])
        conversation.client(
            encode([b"SELECT", b"3"]), get, get, encode([b"SELECT", b"9"]), get, encode([b"CONFIG", b"GET", b"x"]), get
        )
        self.assertEqual(conversation.gets(), get * 4)
        self.assertHears(conversation, OK)
        self.assertHears(conversation.redis(b"+1\r\n+2"), b"+1\r\n+2")
        self.assertHears(conversation.redis(b"\r\n+3\r\n+4\r"), b"\r\n", REFUSED_SELECT, b"+3\r\n", REFUSED_CONFIG, b"+4\r")
        self.assertHears(conversation.redis(b"\n"), b"\n")
        self.assertTrue(conversation.lane.ledger.settled)

    def test_the_same_split_at_each_byte(self) -> None:
        get = encode([b"GET", b"a"])
        sent = get + encode([b"SELECT", b"9"]) + get + encode([b"CONFIG", b"GET", b"x"]) + b"SELECT 3\r\n"
        for size in range(1, 20):
            conversation = logged_in()
            for start in range(0, len(sent), size):
                conversation.client(sent[start : start + size])
            self.assertEqual(conversation.gets(), get * 2)
            replies = b"$3\r\n\r\n+\r\n*2\r\n+a\r\n:1\r\n"
            for start in range(0, len(replies), size):
                conversation.redis(replies[start : start + size])
            self.assertHears(conversation, replies[:9], REFUSED_SELECT, replies[9:], REFUSED_CONFIG, OK)

    def test_a_reply_to_nothing_is_a_broken_lane(self) -> None:
        self.assertRaises(ProtocolError, logged_in().redis, b"+OK\r\n")
        conversation = logged_in().command(b"GET", b"a")
        self.assertRaises(ProtocolError, conversation.redis, b"+1\r\n+2\r\n")

    def test_quit_after_what_is_owed(self) -> None:
        conversation = logged_in().client(encode([b"GET", b"a"]), encode([b"QUIT"]), encode([b"GET", b"b"]))
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]))
        self.assertIsNone(conversation.closed)
        self.assertHears(conversation.redis(b"+1\r\n"), b"+1\r\n", OK)
        self.assertEqual(conversation.closed, "quit")
        self.assertIs(conversation.lane.released, True)

    def test_half_closed(self) -> None:
        conversation = Conversation(lanes_at_once=False).client(encode([b"AUTH", b"blue"]), encode([b"GET", b"a"]))
        conversation.session.half_closed()
        conversation.open_lane()
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]))
        self.assertIsNone(conversation.closed)
        self.assertHears(conversation.redis(b"+1\r\n"), OK, b"+1\r\n")
        self.assertEqual(conversation.closed, "client-left")

    def test_lost_with_replies_outstanding(self) -> None:
        conversation = logged_in().command(b"GET", b"a")
        conversation.session.lost()
        self.assertIs(conversation.lane.released, False)

    def test_the_lane_is_lost(self) -> None:
        conversation = logged_in().command(b"GET", b"a")
        conversation.session.lane_lost()
        self.assertEqual(conversation.closed, "redis-lost")
        conversation.command(b"GET", b"a")


REFUSED_SELECT = b"-NOPERM this password opens database 3 only: SELECT of any other is refused\r\n"
REFUSED_CONFIG = b"-NOPERM the command 'config' is not available here: it reaches beyond the own database\r\n"


class ProtocolErrorTests(Case):
    def test_error_in_its_place_then_closed(self) -> None:
        conversation = logged_in().client(encode([b"GET", b"a"]), b"*1\r\n+x\r\n", encode([b"GET", b"b"]))
        self.assertHears(conversation)
        self.assertHears(conversation.redis(b"+1\r\n"), b"+1\r\n", b"-ERR Protocol error: expected '$', got '+'\r\n")
        self.assertEqual(conversation.closed, "protocol-error")

    def test_in_the_middle_of_a_command_that_was_passed_on(self) -> None:
        for before in (b"", encode([b"GET", b"a"])):
            conversation = logged_in().client(before, b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n")
            conversation.client(b"$x\r\n")
            if before:
                self.assertHears(conversation)
                conversation.redis(b"+1\r\n")
            self.assertTrue(conversation.hears().endswith(b"-ERR Protocol error: invalid bulk length\r\n"))
            self.assertEqual(conversation.closed, "protocol-error")
            self.assertIs(conversation.lane.released, False)

    def test_ended_in_the_middle_of_a_command(self) -> None:
        for end in (lambda c: c.session.half_closed(), lambda c: c.session.recheck(Directory(None, []), 0.0)):
            conversation = logged_in().client(b"*2\r\n$3\r\nGET\r\n$9\r\nab")
            end(conversation)
            self.assertIsNotNone(conversation.closed)
            self.assertIs(conversation.lane.released, False)

    def test_before_the_login(self) -> None:
        for data, text in (
            (b"*11\r\n", b"unauthenticated multibulk length"),
            (b"*2\r\n$4\r\nAUTH\r\n$20000\r\n", b"unauthenticated bulk length"),
            (b'AUTH "x\r\n', b"unbalanced quotes in request"),
        ):
            conversation = Conversation().client(data)
            self.assertHears(conversation, b"-ERR Protocol error: %b\r\n" % text)
            self.assertEqual(conversation.closed, "protocol-error")

    def test_too_much_before_the_login(self) -> None:
        conversation = Conversation()
        chunk = encode([b"AUTH", b"x" * 16000])
        for _ in range(session_module.UNAUTHENTICATED_LIMIT // len(chunk)):
            conversation.client(chunk)
        self.assertIsNone(conversation.closed)
        conversation.client(chunk)
        self.assertEqual(conversation.closed, "protocol-error")

    def test_cross_protocol(self) -> None:
        for data in (b"POST / HTTP/1.1\r\n", b"Host: redis\r\n", encode([b"post", b"x"])):
            for conversation in (Conversation(), logged_in()):
                conversation.client(data)
                self.assertEqual((conversation.hears(), conversation.closed), (b"", "cross-protocol"))

    def test_arguments_larger_than_can_be_looked_at(self) -> None:
        conversation = logged_in().client(encode([b"WATCH", b"x" * (2 << 20)]), encode([b"SELECT", b"3"]))
        self.assertHears(conversation, b"-ERR the arguments of 'watch' are larger than 1048576 bytes\r\n", OK)


class TransactionTests(Case):
    def test_multi_and_exec(self) -> None:
        conversation = logged_in()
        sent = encode([b"MULTI"]) + encode([b"SET", b"a", b"1"]) + encode([b"EXEC"])
        self.assertEqual(conversation.client(sent).gets(), sent)
        conversation.redis(b"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n")
        conversation.session.lost()
        self.assertIs(conversation.lane.released, True)

    def test_a_refusal_spoils_the_exec(self) -> None:
        for words, start in (
            ((b"SELECT", b"9"), b"-NOPERM "),
            ((b"CONFIG", b"GET", b"x"), b"-NOPERM "),
            ((b"AUTH", b"green"), b"-ERR "),
            ((b"HELLO", b"3"), b"-ERR "),
            ((b"HELLO",), b"-ERR "),
            ((b"CLIENT", b"ID"), b"-NOPERM "),
            ((b"SUBSCRIBE", b"x"), b"-ERR "),
            ((b"COPY", b"a", b"b", b"DB", b"5"), b"-NOPERM "),
        ):
            conversation = logged_in().command(b"MULTI").command(*words).command(b"EXEC")
            self.assertEqual(conversation.gets(), encode([b"MULTI"]) + SPOILER + encode([b"EXEC"]))
            conversation.redis(b"+OK\r\n-ERR wrong number of arguments\r\n-EXECABORT discarded\r\n")
            told = conversation.hears()
            self.assertTrue(told.startswith(b"+OK\r\n" + start) and told.endswith(b"\r\n-EXECABORT discarded\r\n"), told)
            self.assertEqual(told.count(b"\r\n"), 3)

    def test_the_own_database_may_be_selected(self) -> None:
        conversation = logged_in().command(b"MULTI").command(b"SELECT", b"3")
        self.assertEqual(conversation.gets(), encode([b"MULTI"]) + encode([b"SELECT", b"3"]))

    def test_what_leaves_a_state_on_the_lane(self) -> None:
        exec_, discard = encode([b"EXEC"]), encode([b"DISCARD"])
        for sent, replies, clean in (
            (encode([b"MULTI"]), b"+OK\r\n", False),
            (encode([b"MULTI"]) + discard, b"+OK\r\n+OK\r\n", True),
            (encode([b"WATCH", b"a"]), b"+OK\r\n", False),
            (encode([b"WATCH", b"a"]) + encode([b"UNWATCH"]), b"+OK\r\n+OK\r\n", True),
            (encode([b"WATCH", b"a"]) + encode([b"MULTI"]) + exec_, b"+OK\r\n+OK\r\n*0\r\n", True),
            (encode([b"MULTI"]) + encode([b"EXEC", b"x"]), b"+OK\r\n-ERR\r\n", False),
            (encode([b"MULTI"]) + encode([b"UNWATCH"]), b"+OK\r\n+QUEUED\r\n", False),
            (encode([b"SUBSCRIBE", b"a"]), b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", False),
            (encode([b"GET", b"a"]), b"$-1\r\n", True),
        ):
            conversation = logged_in().client(sent).redis(replies)
            conversation.session.lost()
            self.assertIs(conversation.lane.released, clean, sent)


class OwnDatabaseTests(Case):
    def test_select(self) -> None:
        conversation = logged_in()
        self.assertHears(conversation.command(b"select", b"3"), OK)
        for index in (b"0", b"5", b"-1", b"03", b"2147483648"):
            self.assertRefused(conversation.command(b"SELECT", index), b"-NOPERM this password opens database 3 only")
        for index in (b"x", b"", b"3 ", b"3\r\n", b"+3", b"1" * 20):
            self.assertRefused(conversation.command(b"SELECT", index), b"-ERR value is not an integer")
        self.assertRefused(conversation.command(b"SELECT"), b"-ERR wrong number of arguments")
        self.assertRefused(conversation.command(b"SELECT", b"3", b"3"), b"-ERR wrong number of arguments")
        self.assertEqual(conversation.gets(), b"")

    def test_flushall_becomes_flushdb(self) -> None:
        self.assertEqual(logged_in().command(b"flushall", b"ASYNC").gets(), encode([b"FLUSHDB", b"ASYNC"]))

    def test_copy(self) -> None:
        conversation = logged_in()
        for words in ((b"a", b"b"), (b"a", b"b", b"DB", b"3"), (b"a", b"DB"), (b"a", b"b", b"replace", b"db", b"3")):
            self.assertEqual(conversation.command(b"COPY", *words).gets(), encode([b"COPY", *words]))
        conversation.redis(b":1\r\n" * 4).hears()
        for words in ((b"DB", b"5"), (b"REPLACE", b"db", b"5"), (b"DB",), (b"DB", b"3", b"DB", b"5"), (b"DB", b"03")):
            self.assertRefused(conversation.command(b"COPY", b"a", b"b", *words), b"-NOPERM ")

    def test_refused(self) -> None:
        conversation = logged_in()
        for name in (b"SWAPDB", b"move", b"Config", b"MONITOR", b"psync", b"SHUTDOWN", b"ACL", b"REPLCONF", b"DEBUG"):
            self.assertRefused(conversation.command(name, b"x"), b"-NOPERM the command '%b'" % name.lower())
        self.assertRefused(conversation.client(b"swapdb 3 5\r\n"), b"-NOPERM the command 'swapdb'")
        self.assertRefused(conversation.command(b"CLIENT", b"KILL", b"x"), b"-NOPERM the command 'client|kill'")
        self.assertRefused(conversation.command(b"CLIENT", b"REPLY", b"OFF"), b"-NOPERM the command 'client|reply'")
        self.assertRefused(conversation.command(b"SCRIPT", b"flush"), b"-NOPERM the command 'script|flush'")
        self.assertRefused(conversation.command(b"CLIENT", b"a\r\n+OK\r\n" * 9), b"-NOPERM the command 'client|aok")
        self.assertEqual(conversation.gets(), b"")
        self.assertEqual(conversation.session.refused, 14)

    def test_client(self) -> None:
        conversation = logged_in()
        self.assertHears(conversation.command(b"CLIENT", b"ID"), b":7\r\n")
        self.assertHears(conversation.command(b"CLIENT", b"SETNAME", b"x"), OK)
        self.assertRefused(conversation.command(b"CLIENT", b"SETNAME", b"a\nb"), b"-ERR Client names")
        self.assertHears(conversation.command(b"CLIENT", b"GETNAME"), b"$1\r\nx\r\n")
        self.assertHears(conversation.command(b"CLIENT", b"SETINFO", b"lib-name", b"redis-py"), OK)
        self.assertRefused(conversation.command(b"CLIENT", b"SETINFO", b"other", b"x"), b"-ERR Unrecognized")
        self.assertRefused(conversation.command(b"CLIENT", b"SETINFO", b"LIB-VER", b"a b"), b"-ERR lib-ver")
        self.assertRefused(conversation.command(b"CLIENT"), b"-ERR wrong number of arguments")


def confirmation(kind: bytes, channel: bytes, count: int, push: bytes = b"*") -> bytes:
    return b"%b3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n:%d\r\n" % (push, len(kind), kind, len(channel), channel, count)


def message(channel: bytes, payload: bytes, push: bytes = b"*") -> bytes:
    return b"%b3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (push, len(channel), channel, len(payload), payload)


class PubSubTests(Case):
    def test_confirmations_and_messages_whole_and_split(self) -> None:
        for push in (b"*", b">"):
            replies = (
                confirmation(b"subscribe", b"a", 1, push)
                + confirmation(b"subscribe", b"b", 2, push)
                + message(b"a", b"\r\n*3\r\n$7\r\nmessage\r\n", push)
                + confirmation(b"unsubscribe", b"a", 1, push)
                + message(b"b", b"x" * 200, push)
            )
            for size in (1, 2, 3, 7, 1000):
                conversation = logged_in().command(b"SUBSCRIBE", b"a", b"b").command(b"UNSUBSCRIBE", b"a")
                for start in range(0, len(replies), size):
                    conversation.redis(replies[start : start + size])
                self.assertHears(conversation, replies)

    def test_an_answer_of_the_proxy_waits_for_all_confirmations(self) -> None:
        conversation = logged_in().command(b"SUBSCRIBE", b"a", b"b").command(b"SELECT", b"3")
        first, second = confirmation(b"subscribe", b"a", 1), confirmation(b"subscribe", b"b", 2)
        self.assertHears(conversation.redis(first), first)
        self.assertHears(conversation.redis(second), second, OK)

    def test_ordinary_replies_between_pushes(self) -> None:
        conversation = logged_in().command(b"SUBSCRIBE", b"a").redis(confirmation(b"subscribe", b"a", 1, b">"))
        conversation.hears()
        for reply in (
            b"+PONG\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b"*1\r\n$-1\r\n",
            b"*1\r\n:1\r\n",
            b"*1\r\n*0\r\n",
            b"*1\r\n$0\r\n\r\n",
        ):
            conversation.command(b"GET", b"a").command(b"SELECT", b"3")
            pushed = message(b"a", b"1", b">")
            self.assertHears(conversation.redis(pushed + reply), pushed, reply, OK)

    def test_an_ordinary_array_that_looks_like_a_message(self) -> None:
        """LRANGE may say so, while nothing is subscribed to."""
        conversation = logged_in().command(b"LRANGE", b"k", b"0", b"-1").command(b"SUBSCRIBE", b"a").command(b"SELECT", b"3")
        reply = message(b"a", b"b")
        confirmed = confirmation(b"subscribe", b"a", 1)
        self.assertHears(conversation.redis(reply + confirmed), reply, confirmed, OK)

    def test_after_the_last_channel_is_left_nothing_is_a_message(self) -> None:
        conversation = (
            logged_in().command(b"PSUBSCRIBE", b"a*").command(b"PUNSUBSCRIBE").command(b"LRANGE", b"k", b"0", b"-1")
        )
        self.assertIn(encode([b"PUNSUBSCRIBE", b"a*"]), conversation.gets())
        conversation.command(b"SELECT", b"3")
        reply = message(b"a", b"b")
        confirmed = confirmation(b"psubscribe", b"a*", 1) + confirmation(b"punsubscribe", b"a*", 0)
        self.assertHears(conversation.redis(confirmed + reply), confirmed, reply, OK)

    def test_to_leave_all_names_them(self) -> None:
        conversation = (
            logged_in().command(b"SUBSCRIBE", b"b", b"a", b"b").command(b"SSUBSCRIBE", b"s").command(b"UNSUBSCRIBE")
        )
        sent = conversation.gets()
        self.assertTrue(sent.endswith(encode([b"UNSUBSCRIBE", b"a", b"b"])), sent)
        conversation.command(b"UNSUBSCRIBE")
        self.assertEqual(conversation.gets(), encode([b"UNSUBSCRIBE"]))
        conversation.command(b"SUNSUBSCRIBE")
        self.assertEqual(conversation.gets(), encode([b"SUNSUBSCRIBE", b"s"]))

    def test_a_refused_subscription_is_one_error(self) -> None:
        conversation = logged_in().command(b"SUBSCRIBE", b"a", b"b").command(b"SELECT", b"3")
        for piece in (b"-NOPERM ", b"no", b"\r\n"):
            conversation.redis(piece)
        self.assertHears(conversation, b"-NOPERM no\r\n", OK)

    def test_a_message_that_nobody_asked_for(self) -> None:
        conversation = logged_in().command(b"GET", b"a")
        self.assertRaises(ProtocolError, conversation.redis, message(b"a", b"x", b">"))
        conversation = logged_in().command(b"SUBSCRIBE", b"a")
        self.assertRaises(ProtocolError, conversation.redis, b">2\r\n$10\r\ninvalidate\r\n*0\r\n")

    def test_arity(self) -> None:
        self.assertRefused(logged_in().command(b"SUBSCRIBE"), b"-ERR wrong number of arguments for 'subscribe' command")


class ResetTests(Case):
    def test_logs_out(self) -> None:
        conversation = logged_in().command(b"GET", b"a").command(b"RESET").command(b"GET", b"b")
        self.assertHears(conversation)
        self.assertHears(conversation.redis(b"+1\r\n"), b"+1\r\n", b"+RESET\r\n", NOAUTH)
        self.assertIs(conversation.lane.released, True)
        self.assertHears(conversation.command(b"AUTH", b"green"), OK)

    def test_before_the_login(self) -> None:
        self.assertHears(Conversation().command(b"RESET"), b"+RESET\r\n")
        self.assertRefused(Conversation().command(b"RESET", b"x"), b"-ERR wrong number of arguments")


class BoundsTests(Case):
    def test_replies_outstanding(self) -> None:
        self.patch_limit("OWED_LIMIT", 10)
        conversation = logged_in()
        conversation.client(encode([b"GET", b"a"]) * 10)
        self.assertTrue(conversation.held)
        conversation.redis(b"+1\r\n" * 4)
        self.assertTrue(conversation.held)
        conversation.redis(b"+1\r\n")
        self.assertFalse(conversation.held)

    def test_answers_that_wait_for_their_turn(self) -> None:
        self.patch_limit("ANSWERS_LIMIT", 1000)
        conversation = logged_in().client(encode([b"GET", b"a"]), encode([b"CONFIG"]) * 100, encode([b"GET", b"b"]))
        self.assertTrue(conversation.held)
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]))
        conversation.redis(b"+1\r\n")
        self.assertFalse(conversation.held)
        self.assertEqual(conversation.gets(), encode([b"GET", b"b"]))
        self.assertHears(conversation, b"+1\r\n", REFUSED_CONFIG * 100)

    def test_a_client_that_is_not_logged_in_and_does_not_read(self) -> None:
        conversation = Conversation().client(encode([b"PING"]))
        conversation.session.unread(True)
        self.assertTrue(conversation.held)
        conversation.hears()
        self.assertHears(conversation.client(encode([b"PING"]) * 1000))
        conversation.session.unread(False)
        self.assertHears(conversation, NOAUTH * 1000)

    def test_a_client_that_does_not_read_its_refusals(self) -> None:
        conversation = logged_in()
        conversation.session.unread(True)
        self.assertFalse(conversation.held)
        conversation.client(encode([b"CONFIG"]) * 100)
        self.assertTrue(conversation.held)
        self.assertHears(conversation, REFUSED_CONFIG)
        conversation.session.unread(False)
        self.assertHears(conversation, REFUSED_CONFIG * 99)

    def patch_limit(self, name: str, value: int) -> None:
        self.addCleanup(setattr, session_module, name, getattr(session_module, name))
        setattr(session_module, name, value)


class RevocationTests(Case):
    def test_after_what_is_owed(self) -> None:
        conversation = logged_in().command(b"GET", b"a")
        conversation.session.recheck(Directory(None, [GREEN]), 0.0)
        self.assertIsNone(conversation.closed)
        conversation.command(b"GET", b"b")
        self.assertEqual(conversation.gets(), encode([b"GET", b"a"]))
        self.assertHears(conversation.redis(b"+1\r\n"), b"+1\r\n")
        self.assertEqual(conversation.closed, "revoked")

    def test_at_once_when_nothing_is_owed(self) -> None:
        conversation = logged_in()
        conversation.session.recheck(Directory(None, [BLUE]), 0.0)
        self.assertIsNone(conversation.closed)
        conversation.session.recheck(Directory(None, []), 0.0)
        self.assertEqual(conversation.closed, "revoked")

    def test_expiry(self) -> None:
        temporary = Credential(BLUE.tenant, "redis-secret-temp-1", digest(b"temp"), expires=100.0)
        conversation = Conversation(Directory(None, [BLUE, temporary])).command(b"AUTH", b"temp")
        conversation.session.recheck(conversation.directory, 99.9)
        self.assertIsNone(conversation.closed)
        conversation.session.recheck(conversation.directory, 100.0)
        self.assertEqual(conversation.closed, "revoked")

    def test_a_moved_index(self) -> None:
        moved = Credential(Tenant("blue", 4), BLUE.secret, BLUE.digest)
        conversation = logged_in()
        conversation.session.recheck(Directory(None, [moved]), 0.0)
        self.assertEqual(conversation.closed, "revoked")


class TableTests(unittest.TestCase):
    def test_every_command_that_is_taken_has_a_method(self) -> None:
        self.assertEqual(session_module._METHODS.keys(), session_module.policy.TAKEN)

    def test_reprs_show_the_state_and_no_secret(self) -> None:
        conversation = logged_in().command(b"GET", b"a")
        self.assertIn("blue owed=1", repr(conversation.session))
        self.assertEqual(repr(conversation.lane.latest()), "<Owed 1 replies>")
        self.assertNotIn(BLUE.digest.hex(), repr(BLUE))
        self.assertEqual(Wait(0), conversation.session._wait)
        self.assertIsInstance(conversation.lane.latest(), Owed)
