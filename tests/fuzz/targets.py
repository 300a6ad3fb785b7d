"""The fuzzing targets: properties that hold for any bytes. Each target is a function that raises
AssertionError if a property does not hold.

An input begins with HEADER bytes. They choose the options, and the chunks into which the rest is
cut. So a mutation of one part does not change the other. Nothing here needs atheris: `fuzz` runs
the targets with atheris, and `test_corpus` without.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

from redisproxy import bounds
from redisproxy.resp import framing
from redisproxy.resp.framing import (
    AUTHENTICATED,
    EMPTY,
    FORWARD,
    HEADED,
    INSPECT,
    INSPECT_ABOVE,
    INSPECT_FIRST,
    INSPECT_KNOWN,
    INSPECT_TEXT,
    REFUSE,
    RUN,
    SCRIPT,
    SCRIPTS,
    STREAM,
    UNAUTHENTICATED,
    ProtocolError,
    ReplyMeasurer,
    RequestScanner,
    encode,
)
from redisproxy.resp.value import Answer
from redisproxy.session import commands
from redisproxy.session import pending as pending_module
from redisproxy.session.pending import CONFIRMATIONS, HELLO, REPLIES, ReplyBatch
from redisproxy.session.ports import Unavailable
from redisproxy.session.pubsub import HIDDEN, KINDS, SubscriptionChange, Subscriptions
from redisproxy.session.session import Session
from redisproxy.session.state import Gate, Phase, ReplyMode, Step
from redisproxy.tenants.limits import Limits
from redisproxy.tenants.model import Snapshot
from tests.support.conversations import BLUE, GREEN, Conversation, RecordingUpstream

_dispatch, _ended = commands.dispatch, Subscriptions.ended

#: Bytes of an input before its payload: one of options, the others sizes of chunks, used in turn.
HEADER = 5

TABLE = {
    b"INSPECT": INSPECT,
    b"REFUSE": REFUSE,
    b"INSPECT_FIRST": INSPECT_FIRST,
    b"TEXT": INSPECT_TEXT,
    b"KNOWN": INSPECT_KNOWN,
    b"GET": FORWARD,
    b"CALL": SCRIPT,
    b"ABOVE": INSPECT_ABOVE + 1,
}


def inspects(first: bytes) -> bool:
    """Returns whether a TEXT with this first argument is inspected. KNOWN: if it is x."""
    return first.startswith(b"x")


def cut(data: bytes, sizes: bytes) -> Iterator[bytes]:
    """Yields the data in chunks. Each byte of `sizes` gives a size: 1 to 32 bytes, or a power of
    two up to 32768.
    """
    pos = turn = 0
    while pos < len(data):
        size = sizes[turn % len(sizes)] if sizes else 255
        step = 1 + (size & 31) if size < 192 else 1 << (size & 15)
        yield data[pos : pos + step]
        pos += step
        turn += 1


# Requests.


class Scanned:
    """Keeps what a scanner reports for chunks, and what Redis would get."""

    def __init__(self, limits: framing.Limits, table: dict[bytes, int], default: int) -> None:
        self.scanner = RequestScanner(limits, table, default, inspects)
        self.scanner.known = {b"x": b""}
        #: runs as [bytes, count, whether of scripts], everything else as `next` returned it
        self.said: list[object] = []
        self.error: str | None = None
        self.sent = bytearray()
        self.count = 0
        self.fed = 0

    def feed(self, chunk: bytes) -> bool:
        """Feeds a chunk. Returns False after a protocol error."""
        self.fed += len(chunk)
        self.scanner.feed(chunk)
        try:
            while (found := self.scanner.next()) is not None:
                self._take(found)
        except ProtocolError as error:
            self.error = str(error)
            assert self.error.isascii(), self.error
            return False
        held = self.scanner.buffered + sum(map(len, self.scanner._taken))
        assert held <= self.fed, "more is held than was fed"
        assert held <= bounds.INSPECTED_BYTES + bounds.INLINE_BYTES + bounds.WHOLE_COMMAND_BYTES, f"{held} bytes are held"
        assert self.scanner.buffered >= 0
        return True

    def _take(self, found: tuple[int, object, int]) -> None:
        kind, what, count = found
        if kind == EMPTY:
            assert self.scanner.apart >= bounds.EMPTY_LINES
            return
        if kind in (RUN, STREAM, SCRIPTS):
            assert what, "an empty run"
            self.sent += what
            self.count += count
            if self.said and isinstance(self.said[-1], list) and self.said[-1][2] == (kind == SCRIPTS):
                self.said[-1][0] += what
                self.said[-1][1] += count
            else:
                self.said.append([what, count, kind == SCRIPTS])
            return
        self.said.append(found)
        if kind == HEADED:
            # Like the session does for a PUBLISH and an EVAL.
            left = self.scanner.arguments_left
            assert len(what) >= 2 and left and (left == 1 or what[0].upper() != b"INSPECT_FIRST")
            self.sent += b"*%d\r\n%b" % (len(what) + left, encode(what).split(b"\r\n", 1)[1])
            self.count += 1


def requests(data: bytes) -> None:
    """Checks RequestScanner: chunks do not matter, what is passed on is what was counted, and
    little is kept.
    """
    options, sizes, payload = (data[:1] or b"\0")[0], data[1:HEADER], data[HEADER:]
    if options & 0x80:  # limits that inputs can reach, and a flood
        if options & 0x40:
            payload *= 1 + 4096 // (len(payload) + 1)
        limits = {"INSPECTED_BYTES": 1024, "INLINE_BYTES": 256, "WHOLE_COMMAND_BYTES": 128}
        with mock.patch.multiple(bounds, **limits):
            _requests(options, sizes, payload)
    else:
        _requests(options, sizes, payload)


def _requests(options: int, sizes: bytes, payload: bytes) -> None:
    limits = UNAUTHENTICATED if options & 1 else AUTHENTICATED
    default = (FORWARD, REFUSE, INSPECT, FORWARD)[options >> 1 & 3]
    whole = Scanned(limits, TABLE, default)
    whole.feed(payload)
    split = Scanned(limits, TABLE, default)
    for chunk in cut(payload, sizes):
        if not split.feed(chunk):
            break
    assert whole.error == split.error, (whole.error, split.error)
    if whole.error:
        # How much of the command with the error was passed on depends on the chunks. Behind the
        # head of a headed command there may be nothing.
        for scanned in (whole, split):
            if scanned.said and isinstance(scanned.said[-1], list) and scanned.said[-1][1] == 0:
                scanned.said.pop()
    assert len(whole.said) == len(split.said), (whole.said, split.said)
    for n, (one, other) in enumerate(zip(whole.said, split.said, strict=True)):
        if isinstance(one, list) and isinstance(other, list) and whole.error and n == len(whole.said) - 1:
            assert one[1] == other[1], (one, other)
            assert one[0].startswith(other[0]) or other[0].startswith(one[0]), (one, other)
        else:
            assert one == other, (one, other)
    for scanned in (whole, split):
        again = Scanned(AUTHENTICATED, {}, FORWARD)
        assert again.feed(bytes(scanned.sent)), f"what is passed on is {again.error}"
        assert (again.sent, again.count) == (scanned.sent, scanned.count), "what is passed on has other boundaries"
        if scanned.error is None:
            assert again.scanner.forwarding == scanned.scanner.forwarding


# Replies.


class Creditor:
    """Receives replies, confirmations and messages, and keeps what comes."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.said: list[object] = []
        self.done = 0
        self.excuses = 0
        self.whole = True
        self.subscribed = False

    def _add(self, key: object, piece: bytes, done: int) -> None:
        """Adds a piece, to the last entry if that is for the same batch: cuts do not show."""
        self.heard += piece
        if self.said and self.said[-1][0] == key:
            self.said[-1][1] += piece
            self.said[-1][2] += done
        else:
            self.said.append([key, bytearray(piece), done])

    def reply(self, batch: ReplyBatch, piece: bytes, ended: int) -> None:
        assert self.whole, "a reply within a message"
        assert batch.count >= batch.discard >= 0 and not (batch.muted and piece)
        self.done += ended
        self._add(batch.number, piece, ended)

    def message(self, piece: bytes, whole: bool) -> None:
        self._add("message", piece, whole)
        self.whole = whole

    def cancelled(self, count: int) -> None:
        assert count >= 0
        self.excuses += count

    hidden = 0

    def confirmed(self, change: SubscriptionChange, refused: bool) -> bool:
        if not refused:
            self.subscribed = change.joins
        return self.subscribed

    def bare(self, channel: bytes) -> bytes:
        return channel

    def pattern_of(self, pattern: bytes, channel: bytes) -> bytes:
        return pattern


class NumberedBatch(ReplyBatch):
    """A reply batch with a number, to tell it from others."""

    __slots__ = ("muted", "number")


class Measured(NamedTuple):
    """What ReplyMeasurer finds in bytes.

    replies: whole ones, with the pushes within them; rest: the bytes behind them; inner: how many
    pushes within replies are whole.
    """

    replies: list[bytes]
    rest: bytes
    error: str | None
    inner: int


def _measured(chunks: Iterator[bytes], pushes: bool) -> Measured:
    def fresh() -> ReplyMeasurer:
        measurer = ReplyMeasurer()
        measurer.pushes = pushes
        return measurer

    measurers = [fresh()]  # of a reply, and of a push within it
    replies: list[bytes] = []
    current = bytearray()
    inner = 0
    for chunk in chunks:
        pos = 0
        while pos < len(chunk):
            measurer = measurers[-1]
            try:
                end, done = measurer.measure(chunk, pos, 1)
            except ProtocolError as error:
                return Measured(replies, b"", str(error), inner)
            assert done <= 1 and end >= pos
            assert len(measurer._header) < bounds.HEADER_BYTES
            current += chunk[pos:end]
            pos = end
            assert bool(done) == measurer.between
            if done and len(measurers) > 1:
                measurers.pop()
                inner += 1
            elif done:
                replies.append(bytes(current))
                current.clear()
            elif pos < len(chunk):
                assert pushes and chunk[pos] == framing.PUSH
                if len(measurers) > 1:
                    return Measured(replies, b"", "a push within a push", inner)
                measurers.append(fresh())
    return Measured(replies, bytes(current), None, inner)


def _settled(chunks: Iterator[bytes], batches: list[tuple[int, int, bool, bool, int]]) -> tuple[Creditor, str | None]:
    """Feeds the chunks to PendingReplies with these reply batches. Returns the receiver of the
    replies and the error.
    """
    pending, owner = pending_module.PendingReplies(), Creditor()
    batch: list[NumberedBatch] = []
    for number, (kind, count, muted, subscribed, protocol) in enumerate(batches):
        subscription = (owner, SubscriptionChange(b"", subscribed, ())) if kind == CONFIRMATIONS else None
        batch.append(NumberedBatch(owner, count, kind, count if muted else 0, subscription))
        batch[-1].protocol = protocol
        batch[-1].number, batch[-1].muted = number, muted
        pending.batches.append(batch[-1])
    total = sum(batch[1] for batch in batches)
    fed = bytearray()
    loud = not any(batch[2] for batch in batches)
    error = None
    for chunk in chunks:
        fed += chunk
        try:
            pending.received(chunk)
        except ProtocolError as wrong:
            error = str(wrong)
            break
        assert len(pending._kept) <= bounds.MESSAGE_HEAD_BYTES + len(chunk)
        if loud:
            assert owner.heard + pending._kept == fed, "bytes were lost, added or changed"
    if loud:
        assert fed.startswith(owner.heard), "bytes were changed"
    else:
        assert len(owner.heard) <= len(fed)
    assert owner.done <= total, "more was delivered than waits for"
    settled = pending.settled
    left = pending.abandon()
    assert owner.done + owner.excuses + sum(batch.count for batch in left) == total
    assert left == batch[len(batch) - len(left) :], "not in order"
    assert not (settled and left)
    return owner, error


def replies(data: bytes) -> None:
    """Checks ReplyMeasurer and PendingReplies: chunks do not matter, all bytes come out, and never
    more replies than are pending.
    """
    options, sizes, rest = (data[:1] or b"\0")[0], data[1:HEADER], data[HEADER:]
    number = options & 7
    batches = [_batch(rest[n], options & 16) for n in range(min(number, len(rest)))]
    payload = rest[number:]
    pushes = bool(options & 8)
    whole, split = _measured(iter([payload]), pushes), _measured(cut(payload, sizes), pushes)
    assert whole == split, (whole, split)
    if whole.error is None:
        measurer = ReplyMeasurer()
        measurer.pushes = pushes
        want = len(whole.replies) + 1
        end, done = measurer.measure(payload, 0, want)
        assert (end, done) == (len(payload), want - 1) or (done < want and payload[end] == framing.PUSH)
        assert b"".join(whole.replies) + whole.rest == payload
    # Reply batches change while their replies come, so each PendingReplies has its own.
    one, error = _settled(iter([payload] if payload else []), batches)
    other, later = _settled(cut(payload, sizes), batches)
    assert (error is None) == (later is None), (error, later)
    if error is None:
        assert (one.said, one.done, one.excuses) == (other.said, other.done, other.excuses), (one.said, other.said)
    else:
        shorter, longer = sorted((bytes(one.heard), bytes(other.heard)), key=len)
        assert longer.startswith(shorter)


def _batch(byte: int, plain: int) -> tuple[int, int, bool, bool, int]:
    """Returns (kind, count, muted, subscribed afterwards, protocol) for a byte of the input."""
    kind = REPLIES if plain else (REPLIES, CONFIRMATIONS, HELLO, CONFIRMATIONS)[byte & 3]
    if kind == HELLO:
        return HELLO, 1, bool(byte & 4), False, (0, 2, 3, 3)[byte >> 3 & 3]
    return kind, 1 + (byte >> 4 & 7), kind == REPLIES and bool(byte & 4), bool(byte & 8), 0


# Whole conversations.

#: What the client may send, besides any bytes. A unique number replaces ######, and shows in the
#: reply.
CLIENT = [
    encode([b"ECHO", b"echo######"]),
    encode([b"NOSUCH######", b"x"]),
    b"ECHO echo######\r\n",
    b"nosuch###### x\r\n",
    *(
        encode(line.split())
        for line in (
            b"MULTI|EXEC|DISCARD|WATCH a|UNWATCH|SUBSCRIBE a|PSUBSCRIBE b*|SSUBSCRIBE c|UNSUBSCRIBE a|PUNSUBSCRIBE b*|"
            b"SUNSUBSCRIBE c|PUBLISH a hello|SPUBLISH a hello|HELLO|HELLO 2|HELLO 3|HELLO 3 AUTH default blue|"
            b"HELLO 3 AUTH default green|HELLO 2 AUTH default wrong|AUTH blue|AUTH green|AUTH wrong|AUTH x blue|RESET|QUIT|"
            b"SELECT 3|SELECT 5|CLIENT ID|CLIENT SETNAME me|CLIENT GETNAME|CLIENT REPLY ON|CLIENT REPLY OFF|"
            b"CLIENT REPLY SKIP|CLIENT INFO|INFO|PUBSUB CHANNELS|PUBSUB NUMSUB a|PUBSUB NUMPAT|FLUSHALL|COPY a b|"
            b"COPY a b DB 5|CONFIG GET x|SCRIPT LOAD x|CLIENT|SUBSCRIBE|MULTI x|EXEC x|SUBSCRIBE a b|PUNSUBSCRIBE|"
            b"UNSUBSCRIBE|PSUBSCRIBE __key*|PING|POST x|UNWATCH x|DISCARD x|HELLO 4|RESET x|PUBLISH a|HELLO 3 SETNAME"
        ).split(b"|")
    ),
    b"*0\r\n\r\n",
    encode([b"SET", b"a", b"x" * 300]),
    encode([b"PUBLISH", b"a", b"x" * 300]),
    encode([b"N" * 200, b"x"]),
    *(encode(line.split()) for line in (b"CONFIG SET x y", b"CONFIG GET s*", b"CONFIG GET SAVE", b"INFO keyspace nosuch")),
    *(
        encode(b"CLIENT TRACKING".split() + line.split())
        for line in (b"ON", b"OFF", b"ON OPTIN", b"ON BCAST", b"ON REDIRECT 7", b"MAYBE")
    ),
]
BLOCKING = encode([b"BLPOP", b"q", b"echo######"])
_NUMBERED = re.compile(rb"(?:echo|nosuch|NOSUCH)(\d{6})")
#: If the client sends none of these, every command has exactly one reply.
_UNCOUNTED = (b"REPLY", b"SUBSCRIBE a b", b"UNSUBSCRIBE", b"POST")

#: What may come to Redis of CLIENT.
TRACKING = [[b"TRACKING", b"ON"], [b"TRACKING", b"OFF"], [b"TRACKING", b"ON", b"OPTIN"]]
_SUBSCRIBES = frozenset((b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE"))
_UNSUBSCRIBES = frozenset((b"UNSUBSCRIBE", b"PUNSUBSCRIBE", b"SUNSUBSCRIBE"))


def _strictly(data: bytes) -> tuple[list[list[bytes]], bytes]:
    """Returns (the commands, the rest). Accepts only what the proxy may send, and uses no code of
    the proxy.
    """
    commands = []
    pos = 0
    while match := re.compile(rb"\*([1-9]\d*)\r\n").match(data, pos):
        words = []
        at = match.end()
        for _ in range(int(match[1])):
            header = re.compile(rb"\$(0|[1-9]\d*)\r\n").match(data, at)
            if header is None:
                break
            at = header.end() + int(header[1]) + 2
            if at > len(data):
                break
            assert data[at - 2 : at] == b"\r\n", "the proxy sent a bulk string that does not end where it says"
            words.append(data[header.end() : at - 2])
        if len(words) < int(match[1]):
            break
        commands.append(words)
        pos = at
    rest = data[pos:]
    assert rest[:1] in (b"", b"*"), f"the proxy sent {rest[:20]!r}"
    return commands, rest


class ModelRedis:
    """The Redis behind one connection: only what decides the state of the connection."""

    def __init__(self, protocol: int) -> None:
        self.unread = b""
        self.pending = b""
        self.protocol = self.agreed = protocol
        self.multi = self.watching = self.tracking = False
        self.subscribed: set[tuple[bytes, bytes]] = set()

    @property
    def clean(self) -> bool:
        """Whether the connection is in the state in which it was made, for the next session."""
        state = self.multi or self.watching or self.tracking or self.subscribed or self.protocol != self.agreed
        return not (state or self.unread or self.pending)

    def takes(self, data: bytes, fail: bool) -> None:
        """Runs commands. fail: every reply is an error."""
        commands, self.unread = _strictly(self.unread + data)
        for words in commands:
            self.pending += self._answer(words[0].upper(), words, fail)

    def _answer(self, name: bytes, words: list[bytes], fail: bool) -> bytes:
        assert name not in (b"AUTH", b"RESET", b"QUIT", b"CONFIG", b"FLUSHALL"), f"{name!r} was sent to Redis"
        assert name != b"SELECT" or len(words) == 1, "a SELECT was sent to Redis"
        assert not name.startswith(b"NOSUCH")
        assert name != b"CLIENT" or words[1:] in TRACKING, f"{words!r} was sent to Redis"
        if self.protocol == 2 and self.subscribed and name not in _SUBSCRIBES | _UNSUBSCRIBES and name != b"PING":
            # Also HELLO, as in Redis. Its arguments are echoed so that the order shows.
            return b"-ERR Can't execute while subscribed: %b\r\n" % b" ".join(words[1:2])[:40].translate(None, b"\r\n")
        if name in (b"EXEC", b"DISCARD") and self.multi and (name == b"EXEC" or len(words) == 1):
            self.multi = self.watching = False
            # As of Redis before 7.2, if the transaction publishes.
            inner = self._messages() if self.protocol == 3 else b""
            return b"-EXECABORT\r\n" if fail else b"*1\r\n" + inner + b"*1\r\n$7\r\nmessage\r\n"
        if self.multi:
            return b"-ERR %b\r\n" % words[-1][:12].translate(None, b"\r\n") if fail else self._shown(words)
        if name == b"MULTI" and len(words) == 1:
            self.multi = True
        elif name == b"WATCH" and len(words) > 1:
            self.watching = True
        elif name == b"UNWATCH" and len(words) == 1:
            self.watching = False
        elif name == b"CLIENT":
            if fail:
                return b"-NOPERM\r\n"
            self.tracking = words[2] == b"ON"
            return b"+OK\r\n"
        elif name == b"HELLO":
            if fail:
                return b"-NOPROTO\r\n"
            if len(words) > 1:
                self.protocol = int(words[1])
            return b"*2\r\n+proto\r\n:2\r\n" if self.protocol == 2 else b"%1\r\n+proto\r\n:3\r\n"
        elif name in _SUBSCRIBES and len(words) > 1:
            if fail:
                return b"-NOPERM\r\n"
            self.subscribed.update((name, channel) for channel in words[1:])
            return b"".join(self._push([name.lower(), channel], b":9\r\n") for channel in words[1:])
        elif name in _UNSUBSCRIBES:
            kind = name.replace(b"UN", b"", 1)
            channels = words[1:] or [c for k, c in sorted(self.subscribed) if k == kind]
            self.subscribed -= {(kind, channel) for channel in channels}
            if not channels:
                return self._push([name.lower()], b"$-1\r\n:9\r\n" if self.protocol == 2 else b"_\r\n:9\r\n")
            return b"".join(self._push([name.lower(), channel], b":9\r\n") for channel in channels)
        return self._shown(words)

    @staticmethod
    def _shown(words: list[bytes]) -> bytes:
        return b"$%d\r\n%b\r\n" % (len(words[-1]), words[-1])

    def _push(self, words: list[bytes], tail: bytes) -> bytes:
        count = len(words) + (2 if tail[:2] in (b"$-", b"_\r") else 1)
        return b"%b%d\r\n" % (b">" if self.protocol == 3 else b"*", count) + encode(words).split(b"\r\n", 1)[1] + tail

    def publishes(self) -> None:
        self.pending += self._messages()

    def _messages(self) -> bytes:
        messages = b""
        for kind, channel in sorted(self.subscribed):
            words = [kind.lower().replace(b"subscribe", b"message"), channel]
            if kind == b"PSUBSCRIBE":
                words.append(channel.replace(b"*", b"x"))
            messages += self._push(words, b"$10\r\nmessage\r\n!\r\n")
        if self.tracking and self.protocol == 3:
            messages += b">2\r\n$10\r\ninvalidate\r\n*1\r\n$10\r\nmessage\r\n!\r\n"
        return messages


#: Blue may use client-side caching.
TRACKERS = Snapshot(None, [BLUE, GREEN], {"blue": Limits(client_tracking=True)})


class FuzzedConversation(Conversation):
    """The tests' conversation, in which nothing happens at once and forbidden calls are noticed."""

    def __init__(self, shares: bool) -> None:
        self.multiplexes = shares
        self.pools: list[FuzzedPool] = []
        self.steps: dict[str, list[Step]] = {"acquire": [], "join": [], "permit": [], "query": []}
        self.gone = self.wild = False
        self.wrong_passwords = 0
        super().__init__(TRACKERS, upstreams_at_once=False)

    @property
    def busy(self) -> bool:
        """Whether work is under way for a Step of the session, or for a Step that it gave up."""
        return any(self.steps.values()) or self.session.deadline is not None

    def write(self, data: bytes) -> None:
        assert self.closed is None, "written to a client after its connection was closed"
        super().write(data)

    def _work(self, what: str, step: Step) -> None:
        assert not any(other.waits for steps in self.steps.values() for other in steps), "two steps at once"
        assert step is self.session.step or not hasattr(self, "session")
        self.steps[what].append(step)

    def acquire(self, tenant: object, protocol: int, step: Step) -> None:
        self.asked_protocol = protocol
        self._work("acquire", step)

    def join_at_once(self, tenant: object, protocol: int) -> None:
        """Has each session wait."""

    def join(self, tenant: object, protocol: int, step: Step) -> None:
        assert self.multiplexes
        self.asked_protocol = protocol
        self._work("join", step)

    def query(self, tenant: object, commands: list[list[bytes]], step: Step) -> None:
        super().query(tenant, commands, step)
        self._work("query", step)

    def allow_patterns(self, tenant: object, patterns: list[bytes], step: Step) -> None:
        self._asked_for = step, patterns
        self._work("permit", step)

    def allow_tracking(self, tenant: object, step: Step) -> None:
        self._work("permit", step)

    def deadline_changed(self) -> None:
        """Does nothing: time passes when the input says so. See `_link`."""

    def wrong_password(self) -> tuple[float, bool]:
        self.wrong_passwords += 1
        return self.now + 1, not self.wrong_passwords % 4

    def open_upstream(self) -> None:
        self.step = self.steps["acquire"].pop(0)
        upstream = FuzzedUpstream(self, self.asked_protocol)
        if self.step.waits:
            self.upstreams.append(upstream)
        if not self.step.finish(upstream):
            upstream.release(clean=True)

    def join_pool(self) -> None:
        step = self.steps["join"].pop(0)
        pool = FuzzedPool(self, self.asked_protocol)
        if step.waits:
            self.pools.append(pool)
        if not step.finish(pool):
            pool.leave()


def _weight(session: Session) -> int:
    """A number that grows with each reply that a command gets or will get."""
    replies = session.replies
    return len(session.connection.told) + replies.pending + replies._answers_size


def _dispatch_checked(session: Session, words: list[bytes]) -> None:
    """Runs a command and asserts that it has a reply: at once, later, or after a Step. CLIENT REPLY
    and the end of the session are exceptions.
    """
    before, muted = _weight(session), session.replies.mode is not ReplyMode.ON
    _dispatch(session, words)
    answered = _weight(session) > before or session.step is not None
    unheard = muted or session.replies.mode is not ReplyMode.ON
    assert answered or unheard or session.ended, f"{words} has no answer"


class FuzzedPool:
    """The multiplexed connections of a tenant, one after the other."""

    def __init__(self, conversation: FuzzedConversation, protocol: int) -> None:
        self.protocol = protocol
        self.users = 1
        self._waiting: list[object] = []
        self._conversation = conversation
        self.upstream: FuzzedUpstream | Unavailable
        self.open()

    def open(self) -> None:
        self.upstream = FuzzedUpstream(self._conversation, self.protocol, shared=True)

    def wait(self, session: object) -> None:
        self._waiting.append(session)

    def leave(self) -> None:
        self.users -= 1
        assert not self.users, "it was left twice"

    def ready(self) -> None:
        waiting, self._waiting = self._waiting, []
        for session in waiting:
            session.upstream_ready()


class FuzzedUpstream(RecordingUpstream):
    def __init__(self, conversation: FuzzedConversation, protocol: int, shared: bool = False) -> None:
        super().__init__(conversation, protocol)
        self.shared = shared
        self.model = ModelRedis(protocol)
        self.fail = False
        self.lost = False
        self.newest, self.withdraw = self._newest, self._withdraw

    def _usable(self) -> None:
        assert self.released is None and not self.lost, "an upstream connection is used that is no more the session's"

    def _newest(self) -> ReplyBatch | None:
        self._usable()
        return self.pending.newest()

    def _withdraw(self, batch: ReplyBatch) -> None:
        self._usable()
        self.pending.withdraw(batch)

    def send(self, data: bytes, batch: ReplyBatch | None = None) -> None:
        self._usable()
        assert self.given_up is None, "sent for a session that was revoked"
        if batch is not None:
            self.pending.batches.append(batch)
        self.model.takes(data, self.fail)
        assert not self.shared or self._whole, "a multiplexed connection was left in the middle of something"

    @property
    def _whole(self) -> bool:
        model = self.model
        return not (
            model.unread
            or model.multi
            or model.watching
            or model.tracking
            or model.subscribed
            or model.protocol != model.agreed
        )

    def slow_reader(self, session: object, size: int) -> None:
        assert self.shared and size

    def read_everything(self, session: object) -> None:
        assert self.shared

    def settle(self) -> None:
        assert self.shared

    def others_wait(self, session: object) -> bool:
        assert self.shared
        return False

    def release(self, clean: bool) -> None:
        self._usable()
        super().release(clean)
        if clean and not self._conversation.wild:
            assert self.pending.settled, "given back as clean while something waits for"
            assert self.model.clean, f"given back as clean: {vars(self.model)}"
        self.pending.abandon()


def _answer(words: list[bytes]) -> Answer:
    """Returns Redis's reply to a control query."""
    if words[0] == b"INFO":
        return b"# Server\r\nredis_version:7\r\n"
    if words[0] == b"CONFIG":
        return [words[2], b"1"]
    return [b"blue:a", b"green:a"] if words[1] == b"CHANNELS" else [b"blue:a", 1]


class Play:
    """Plays one conversation from an input: one byte says what happens, the next one how much."""

    def __init__(self, shares: bool) -> None:
        self.talk = FuzzedConversation(shares)
        self.said = b""
        self.number = 0
        self.counted = True  # whether the replies can be counted
        self.ordered = True  # whether only the script's commands have numbers
        self.half_closed = False
        self.told_to_leave = False
        self.draining = False
        self.unsubscribed = 0  # subscriptions that a log-in as another tenant has ended

    def ended(self, subscriptions: Subscriptions) -> bytes:
        """Counts what `Subscriptions.ended` says: no command asked for that."""
        pushes, count = _ended(subscriptions), sum(subscriptions.counts())
        assert len(_measured(iter([pushes]), pushes=True).replies) == count, pushes
        self.unsubscribed += count
        return pushes

    def step(self, what: int, amount: int, data: bytes) -> int:
        """Does what happens next. Returns how many bytes of `data` were used."""
        talk, session = self.talk, self.talk.session
        upstream = self._upstream()
        if what < 110:
            self._say(CLIENT[amount % len(CLIENT)])
            if what >= 30:
                self._client(len(self.said) if what >= 50 else what)
        elif what < 120:
            self._client(amount + 1)
        elif what < 180:
            if upstream is not None:
                self._redis(upstream, len(upstream.model.pending) if what >= 140 else 1 + amount)
        elif what < 190:
            if upstream is not None:
                upstream.model.publishes()
        elif what < 200:
            if upstream is not None:
                upstream.fail = bool(amount & 1)
        elif what < 215:
            self._link(amount)
        elif what < 225:
            raw = data[: amount & 31]
            self.counted = self.ordered = False
            self._say(raw)
            self._client(len(self.said))
            return len(raw)
        elif what < 230:
            raw = data[: amount & 31]
            if upstream is not None:
                talk.wild, self.counted, self.ordered = True, False, False
                self._redis_says(upstream, raw)
            return len(raw)
        elif what < 234:
            session.client_slow(bool(amount & 1))
        elif what < 237:
            self.half_closed = self.told_to_leave = True
            session.ending.half_closed()
        elif what < 240:
            self.told_to_leave = True
            talk.recheck(Snapshot(None, ([], [GREEN], [BLUE, GREEN])[amount % 3]))
        elif what < 242:
            if upstream is not None:
                self._lose(upstream)
        elif what < 244:
            talk.gone = True
            self.counted = False
            session.ending.at_once()
        elif what < 247:
            self.draining = self.told_to_leave = True
            session.ending.drain()
        elif what < 248:
            self.told_to_leave = True
            session.ending.hurry()
        elif what < 252:
            self._say(BLOCKING)
            self._client(len(self.said))
        elif what < 254:
            talk.has_left = self.half_closed = self.told_to_leave = True
            session.ending.half_closed()
        return 0

    def _upstream(self) -> FuzzedUpstream | None:
        """Returns the session's own newest connection to Redis, if it still has one, or else the
        shared one.
        """
        upstream = self.talk.upstreams[-1] if self.talk.upstreams else None
        if upstream is not None and upstream.released is None and not upstream.lost:
            return upstream
        tenant_pool = self.talk.pools[-1] if self.talk.pools else None
        if tenant_pool is None or not tenant_pool.users or isinstance(tenant_pool.upstream, Unavailable):
            return None
        return tenant_pool.upstream

    def _say(self, words: bytes) -> None:
        if b"######" in words:
            words = words.replace(b"######", b"%06d" % self.number)
            self.number += 1
        elif any(word.replace(b" ", b"\r\n$1\r\n") in words for word in _UNCOUNTED):
            self.counted = False
        self.said += words

    def _client(self, size: int) -> None:
        piece, self.said = self.said[:size], self.said[size:]
        if piece and not (self.half_closed or self.talk.gone):
            self.talk.bytes_received += len(piece)
            self.talk.session.received(piece)

    def _redis(self, upstream: FuzzedUpstream, size: int) -> None:
        piece, upstream.model.pending = upstream.model.pending[:size], upstream.model.pending[size:]
        self._redis_says(upstream, piece)

    def _redis_says(self, upstream: FuzzedUpstream, data: bytes) -> None:
        if not data:
            return
        try:
            upstream.pending.received(data)
        except ProtocolError:
            assert self.talk.wild, "what Redis says was not understood"
            # A connection that was released while it was read belongs to nobody any more.
            if upstream.released is None:
                self._lose(upstream)

    def _lose(self, upstream: FuzzedUpstream) -> None:
        upstream.lost = True
        batches = upstream.pending.abandon()
        if not upstream.shared:
            self.counted = False
            self.talk.session.upstream_lost()
            return
        # Like `upstream.multiplexed`: a session with a command in flight is closed.
        self.talk.pools[-1].upstream = Unavailable(busy=True)
        for receiver in dict.fromkeys(batch.receiver for batch in batches):
            self.counted = False
            receiver.upstream_lost(batches[0])

    def _link(self, amount: int) -> None:
        """Finishes what the session asked for, with success or failure, or lets time pass."""
        talk = self.talk
        if talk.steps["acquire"]:
            if amount & 1 or (talk.gone and amount & 2):
                talk.steps["acquire"].pop(0).finish(Unavailable("ERR no upstream connection"))
            else:
                talk.open_upstream()
        elif talk.steps["join"]:
            if amount & 1:
                talk.steps["join"].pop(0).finish(Unavailable("ERR no upstream connection"))
            else:
                talk.join_pool()
        elif talk.pools:
            self._change_pool(amount)
        if talk.steps["permit"]:
            talk.step = talk.steps["permit"].pop(0)
            talk.finish(None if amount & 4 else Unavailable("ERR no"))
        elif talk.steps["query"]:
            commands = talk.questions.pop(0)
            result = Unavailable("ERR no") if amount & 8 else list(map(_answer, commands))
            talk.steps["query"].pop(0).finish(result)
        if talk.session.deadline is not None:
            talk.now += 0.5 if amount & 16 else 1
            talk.session.time_is(talk.now)

    def _change_pool(self, amount: int) -> None:
        """Changes the state of the session's pool."""
        tenant_pool = self.talk.pools[-1]
        upstream = tenant_pool.upstream
        if isinstance(upstream, Unavailable):
            if amount & 32:
                tenant_pool.upstream = Unavailable("ERR away")
            else:
                tenant_pool.open()
        elif amount & 64 and not upstream.pending.batches:
            tenant_pool.open()  # the pool left the one before for it
        else:
            upstream.busy = bool(amount & 128)
        tenant_pool.ready()

    def settle(self) -> None:
        """Lets everything happen that can still happen."""
        talk, session = self.talk, self.talk.session
        self._client(len(self.said))
        session.client_slow(False)
        for _ in range(10000):
            upstream = self._upstream()
            tenant_pool = talk.pools[-1] if talk.pools else None
            if talk.busy:
                self._link(4)
            elif tenant_pool is not None and (tenant_pool.upstream.busy or isinstance(tenant_pool.upstream, Unavailable)):
                self._change_pool(0)
            elif upstream is not None and upstream.model.pending:
                upstream.model.pending, data = b"", upstream.model.pending
                self._redis_says(upstream, data)
            else:
                break
        else:
            raise AssertionError("it does not come to an end")
        if self.draining and not talk.gone:
            transaction = session.multi or session.watching
            assert session.ended or transaction or session.scanner.buffered or session.scanner.within, "it is kept"
            session.ending.hurry()
            self._client(len(self.said))
            assert session.ended

    def judge(self) -> None:
        """Checks what the client received."""
        talk, session = self.talk, self.talk.session
        if self.ordered:
            numbers = list(map(int, _NUMBERED.findall(talk.told)))
            assert numbers == sorted(set(numbers)), f"not in order, or twice: {talk.told!r}"
        if talk.wild:
            return
        heard = _measured(iter([talk.told]), pushes=True)
        assert heard.error is None, f"the client heard {talk.told!r}: {heard.error}"
        answers, messages = len(heard.replies), talk.told.count(b"message\r\n!\r\n") - heard.inner
        messages += talk.told.count(b"invalidate\r\n_\r\n") + self.unsubscribed  # after AUTH as another tenant
        if self.counted and talk.closed != "moved-within-a-message":
            assert not heard.rest, "a reply was cut off"
            # A command that was passed on in part when the conversation ended gets no reply.
            few = session.commands - (session.ended and self.told_to_leave)
            assert few <= answers - messages <= session.commands, (answers, messages, session.commands, talk.told)
            if not (session.ended or talk.held):
                assert not session.gates, session
                assert session.replies.drained and not session.replies.pending and not session.replies._answers_size, session
        if session.ended and not talk.gone and not (upstream := self._upstream()) and self.counted:
            assert talk.closed is not None, "it ended, and its client was not told"
        upstream = self._upstream()
        assert upstream is None or not (session.ended and not upstream.model.unread and not upstream.model.pending), (
            "it ended, and keeps its upstream connection"
        )
        if not (session.ended or talk.gone or session.replies._items):
            known = {(kind + b"SUBSCRIBE", channel) for kind in KINDS for channel in _subscribed(session, kind)}
            known |= {(b"PSUBSCRIBE", pattern) for pattern in _subscribed(session, HIDDEN)}
            assert known == (upstream.model.subscribed if upstream else set()), "it is subscribed to something else"
            patterns = {channel for name, channel in known if name == b"PSUBSCRIBE"}
            assert talk.in_use == dict.fromkeys(patterns, 1), "it uses other patterns"
        assert not (session.ended and talk.in_use and session.ending.phase is Phase.CLOSED), (
            "it ended, and has not left its patterns"
        )
        used = session.route.pool
        assert used is None or used is talk.pools[-1]
        assert all(tenant_pool.users == (tenant_pool is used) for tenant_pool in talk.pools), "a pool was not left"
        assert bool(session.gates & Gate.STEP) == (session.step is not None) or session.ended, session


def _subscribed(session: Session, kind: bytes) -> frozenset[bytes]:
    return frozenset() if session.subscriptions is None else session.subscriptions.of(kind)


def session(data: bytes) -> None:
    """Checks a whole conversation: each command has at most one reply, in order, and no connection
    to Redis is used after it was given back.
    """
    with mock.patch.object(bounds, "WHOLE_COMMAND_BYTES", 128), mock.patch.object(commands, "dispatch", _dispatch_checked):
        _session(data)


def _session(data: bytes) -> None:
    play = Play(shares=bool(data[:1] < b"\x80"))
    with mock.patch.object(Subscriptions, "ended", lambda subscriptions: play.ended(subscriptions)):
        _play(play, data)


def _play(play: Play, data: bytes) -> None:
    if (data[:1] or b"\0")[0] & 0x40:  # half of the conversations begin with a log-in
        play.talk.command(b"AUTH", b"blue")
        play._link(0)
    pos = 1
    while pos + 1 < len(data):
        pos += 2 + play.step(data[pos], data[pos + 1], data[pos + 2 :])
    play.settle()
    play.judge()
    if not play.talk.gone:
        play.talk.session.ending.at_once()
        assert play._upstream() is None, "the client is gone, and its upstream connection is kept"
