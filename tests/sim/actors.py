"""The simulated clients. The seed decides what they do, and each reply is checked.

Owns what a client may expect. A client that sees something wrong reports it to the simulation,
which knows whether Redis was well at that time.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from redisproxy import bounds

from .kernel import Event, Socket
from .replies import Error, Push, Status, command, parse

if TYPE_CHECKING:
    from .simulation import Simulation

#: Returns whether a reply is right.
Check = Callable[[object], bool]
OK = Status(b"OK")
#: The error where Redis was replaced while a large command waited.
_REPLACED = b"ERR Redis was replaced"
#: Errors of a Redis that a script keeps busy.
_BUSY = (b"BUSY", b"EXECABORT Transaction discarded because of: BUSY")
#: The last that a client is told which holds the most of the proxy's memory.
_OUT_OF_MEMORY = Error(b"ERR out of memory for this tenant's clients; send less at once")
#: Errors of a Redis that does not serve now. No client gets one: its command waits instead.
_AWAY = (b"ERR Redis cannot be reached", b"LOADING", b"ERR max number of clients")


def equals(expected: object) -> Check:
    """Returns a check that accepts only this reply."""
    return lambda reply: type(reply) is type(expected) and reply == expected


def any_error(reply: object) -> bool:
    """Accepts an error that the client itself caused."""
    return isinstance(reply, Error) and not reply.startswith((_REPLACED, *_AWAY))


def is_number(reply: object) -> bool:
    """Accepts an integer."""
    return isinstance(reply, int)


@dataclass
class Expected:
    """A pending reply.

    name: of its command; check: whether the reply is right; failed: called if it does not come, or
    is an error because Redis was not well; epoch: of the client. After a failed command, the
    commands that were sent behind it may find anything. sent: when the command was sent.
    """

    name: bytes
    check: Check
    failed: Callable[[], object] | None
    epoch: int
    sent: float


#: Stands for a reply that does not come: the client does nothing else until it removes this.
NOTHING = Expected(b"", lambda _: False, None, 0, 0.0)


class Actor:
    """One client.

    tenant: whose password it has; kinds: names of what it may do; steps: how many of these it does.
    """

    def __init__(self, simulation: Simulation, tenant: str, kinds: list[str], steps: int) -> None:
        self.simulation = simulation
        self.world = simulation.world
        self.rng = simulation.world.rng
        self.tenant = tenant
        self.kinds = kinds
        self.steps = steps
        simulation.serial += 1
        self.number = simulation.serial
        self.name = b"%b%d" % (tenant.encode(), self.number)
        self.end: Socket | None = None
        #: when bytes last came or went, in the world's seconds
        self.progress = self.world.now
        #: when it connected last
        self.opened = self.world.now
        #: whether it has done all its steps
        self.done = False
        self.expected: deque[Expected] = deque()
        self._outgoing = bytearray()
        self._incoming = bytearray()
        self._password = b""
        # How many wrong passwords it sent on its connection. The proxy closes it at
        # WRONG_PASSWORDS.
        self._wrong_passwords = 0
        self._was_answered = False
        # The command of the last reply on its connection; and what was pending when its tenant was
        # paused, if a blocked command was.
        self._answered_last: Expected | None = None
        self._pending_at_pause: list[Expected] = []
        self._protocol = 2
        self._subscribed: set[bytes] = set()
        self._heard: dict[bytes, int] = {}
        self._closing = False
        # Whether it sent its end of file while a command blocks: it gets no more replies.
        self._given_up = False
        # When it sent its end of file. The proxy then waits HALF_CLOSED_SECONDS for pending
        # replies, no longer.
        self._shut_at: float | None = None
        # Which key it set before that, and how often Redis has set that if all of it has run.
        self._set_last = b"", 0
        self._writes_first = False
        # Whether what it sends is gathered, to be written at once.
        self._gathers = False
        self._rate = 0
        self._resting: Event | None = None
        # From when on it reads late, and until when: see `_learnt`.
        self._late = (0.0, 0.0)
        # How often it changed to new keys, because a lost command may still run.
        self._epoch = 0
        self._values: dict[bytes, bytes] = {}
        # Whether nothing is left on its connection of commands that were refused.
        self._clean = True
        self._serial = 0
        self._published = 0

    def __repr__(self) -> str:
        return self.name.decode()

    @property
    def waits_for_log_in(self) -> bool:
        """Whether its log-in has no reply yet."""
        return bool(self.expected) and self.expected[0].name in (b"AUTH", b"HELLO")

    # The connection.

    def open(self) -> None:
        """Connects and logs in."""
        if self.done:
            return
        self.end = self.simulation.connect(self)
        self.end.changed = self._changed
        self.opened = self.progress = self.world.now
        self._incoming.clear()
        self._outgoing.clear()
        self._subscribed.clear()
        self._heard.clear()
        self._closing = self._given_up = self._writes_first = False
        self._shut_at = None
        self._set_last = b"", 0
        self._wrong_passwords = self._rate = 0
        self._protocol = 2
        self._was_answered = False
        self._answered_last, self._pending_at_pause = None, []
        self._clean = True
        self._before_log_in()
        self._log_in()
        self._behind_log_in()

    def _before_log_in(self) -> None:
        """Sends commands before the log-in: see `rare_actors`."""

    def _behind_log_in(self) -> None:
        """Sends commands behind the log-in, before its reply: see `rare_actors`."""

    def _log_in(self) -> None:
        password = self._password = self.simulation.password(self.tenant)
        if self.rng.random() < 0.3:
            self._protocol = self.rng.choice([2, 3])
            self._say(
                [b"HELLO", b"%d" % self._protocol, b"AUTH", b"default", password], lambda reply: isinstance(reply, list)
            )
        else:
            self._say([b"AUTH", password], equals(OK))

    def _say(self, words: list[bytes], check: Check, failed: Callable[[], object] | None = None) -> None:
        self.expected.append(Expected(words[0], check, failed, self._epoch, self.world.now))
        self._send(command(*words))

    def _send(self, data: bytes) -> None:
        self._outgoing += data
        if not self._gathers:
            self._write()

    def _write(self) -> None:
        try:
            while self._outgoing:
                size = self.end.send(self._outgoing)
                self.progress = self.world.now
                del self._outgoing[:size]
        except BlockingIOError:
            pass
        except OSError:
            self._outgoing.clear()
        if self._writes_first and not self._outgoing:
            self._writes_first = False
            self._read()

    def _changed(self) -> None:
        if self.end is None:
            return
        if self._outgoing:
            self._write()
        self._read()

    def _read(self) -> None:
        if self.end is None or self._writes_first or self._resting is not None:
            return
        try:
            while data := self.end.recv(self._rate or 65536):
                self.progress = self.world.now
                self._incoming += data
                self._take_replies()
                if self.end is None:
                    return
                if self._rate:
                    self._resting = self.world.after(len(data) / self._rate, self._rested)
                    return
        except BlockingIOError:
            return
        except OSError:
            self._lost("reset")
            return
        self._lost("closed")

    def _rested(self) -> None:
        self._resting = None
        self._read()

    def _lost(self, how: str) -> None:
        """Called when the other side ended the connection."""
        gave_up = self._shut_at is not None and self.world.now - self._shut_at >= bounds.HALF_CLOSED_SECONDS
        if self._incoming and not gave_up:
            self.simulation.wrong(
                "half-reply", f"{self} was {how} within {bytes(self._incoming[:60])!r}", self.tenant, self._learnt
            )
        short = len(self.expected)
        if not (gave_up or self._given_up or (self._closing and not short)):
            names = b" ".join(each.name for each in list(self.expected)[:4]).decode()
            kind = "closed"
            if self._held_at_end:
                kind = "held"
            elif short and not self._was_answered and self.expected[0].name == b"AUTH":  # a HELLO may be in flight
                kind = "closed-log-in"
            elif not (short or self._subscribed) and self._clean and self.simulation.multiplexed:
                kind = "given-up" if self._was_given_up else "closed-idle"
            text = f"{self} was {how}, {short} replies short: {names}"
            if not (kind == "closed-log-in" and self._outdated):
                self.simulation.wrong(kind, text, self.tenant, self._learnt, self.opened)
        self._forget()
        self.world.after(self.rng.uniform(0, 0.5), self.open)

    @property
    def _outdated(self) -> bool:
        """Whether its tenant's password has changed since its log-in, which may have waited: for a
        slot, or for the answer to a wrong password.
        """
        return self._password != self.simulation.password(self.tenant)

    def tenant_paused(self) -> None:
        """Called when its tenant is paused."""
        pending = list(self.expected)
        self._pending_at_pause = pending if any(each.name == b"BLPOP" for each in pending) else []

    @property
    def _was_given_up(self) -> bool:
        """Whether a pause may have ended its connection for a blocked command, though that was
        answered before Redis gave it up: nothing was answered that it sent since.
        """
        return any(each is self._answered_last for each in self._pending_at_pause)

    @property
    def _held_at_end(self) -> bool:
        """Whether Redis was away when the client sent its end of file, and has run nothing that has
        no reply: the proxy does not run that later, and closes the client.
        """
        redis, (key, count) = self.simulation.redis, self._set_last
        if self._shut_at is None or not redis.was_unwell(self._shut_at - 1):
            return False
        return redis.times_set[key] + sum(each.name == b"SET" for each in self.expected) == count

    def _reads_late(self) -> None:
        """From now on it may learn late that it was closed: perhaps it was before already."""
        self._late = self._learnt, inf

    @property
    def _learnt(self) -> float:
        """Since when it may be closed, if it learns that now: a client that reads slowly, or writes
        first, reads all replies before.
        """
        began, until = self._late
        return began if self.world.now < until else self.world.now

    def _forget(self) -> None:
        """Forgets the connection and its pending replies."""
        end, self.end = self.end, None
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        if end is not None:
            end.changed = lambda: None
            end.close()
        expected, self.expected = self.expected, deque()
        for each in expected:
            if each.failed is not None:
                each.failed()
        if expected:
            self.give_up_keys()

    def leave(self, abruptly: bool) -> None:
        """Leaves, whatever is pending. abruptly: with a RST."""
        end = self.end
        if end is None:
            return
        if abruptly:
            end.reset_peer()
        self._forget()

    def stop(self) -> None:
        """Leaves, and does not come again."""
        self.done = True
        self.leave(abruptly=True)

    def give_up_keys(self) -> None:
        """Changes to new keys: some commands may have run, or not, or may still run."""
        self._epoch += 1
        self._values.clear()

    # Replies and messages.

    def _take_replies(self) -> None:
        position = 0
        while self.end is not None and (found := parse(self._incoming, position, pushes := [])) is not None:
            reply, position = found
            for message in pushes:
                self._hear(message)
            if self._is_message(reply):
                self._hear(reply)
            elif reply == _OUT_OF_MEMORY and self.simulation.options.memory is not None:
                self._given_up = True  # the proxy closes it
            elif not self.expected:
                self.simulation.wrong("unasked", f"{self} was told {reply!r:.80}", self.tenant)
            else:
                self._take(reply)
        del self._incoming[:position]
        if self.end is not None and not self.expected and not self._closing:
            self.world.after(self.rng.uniform(0, 0.3), self._step, self.end)

    def _take(self, reply: object) -> None:
        due = self._answered_last = self.expected.popleft()
        self._was_answered = True
        replaced = isinstance(reply, Error) and reply.startswith(_REPLACED)
        away = isinstance(reply, Error) and reply.startswith(_AWAY) and not self.simulation.straight
        if isinstance(reply, Error) and reply.startswith(_BUSY) and self.simulation.slow_scripts:
            # Nothing has run. But its WATCH is left.
            self._clean = False
            if due.failed is not None:
                due.failed()
            self.give_up_keys()
            if due.name == b"UNSUBSCRIBE":
                self.do_come_again()  # it still hears messages
            return
        refused = isinstance(reply, Error) and due.name in (b"AUTH", b"HELLO")
        if not (replaced or away) and (due.check(reply) or (due.epoch != self._epoch and not refused)):
            return
        kind = "away" if away else "replaced" if replaced else "refused" if refused else "wrong-reply"
        if not (refused and self._outdated):
            since = due.sent if replaced else self._learnt
            self.simulation.wrong(kind, f"{self} {due.name.decode()}: {reply!r:.100}", self.tenant, since)
        if due.failed is not None:
            due.failed()
        self.give_up_keys()
        if refused:
            self.leave(True)
            self.world.after(self.rng.uniform(0.5, 1), self.open)

    def _is_message(self, reply: object) -> bool:
        return (
            isinstance(reply, list)
            and bool(reply)
            and reply[0] == b"message"
            and isinstance(reply, Push) == (self._protocol == 3)
        )

    def _hear(self, message: list) -> None:
        _, channel, text = message
        tenant, publisher, number = text.split(b".")[:3]
        if tenant != self.tenant.encode():
            self.simulation.wrong("foreign", f"{self} heard {text[:40]!r}", self.tenant)
        if channel not in self._subscribed:
            self.simulation.wrong("unasked", f"{self} heard {text[:40]!r} on {channel!r}", self.tenant)
        last = self._heard.get(publisher)
        # Redis may refuse some of a pipeline, while a script takes too long.
        if last is not None and (int(number) <= last if self.simulation.slow_scripts else int(number) != last + 1):
            self.simulation.wrong("message-lost", f"{self} heard {text[:40]!r} after {last}", self.tenant)
        self._heard[publisher] = int(number)

    # Steps.

    def _step(self, end: Socket) -> None:
        if end is not self.end or self.expected or self.done:
            return
        self._rate = 0
        self._late = self._late[0], min(self._late[1], self.world.now + 1.0)
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        if self.steps <= 0:
            self._finish()
            return
        if not self._clean:
            self._clean = True
            self._say([b"UNWATCH"], lambda _: True)
            return
        self.steps -= 1
        kind = self.rng.choice(self.kinds)
        getattr(self, f"do_{kind}")()

    def _finish(self) -> None:
        self.done = True
        if self.rng.random() < 0.5:
            self.leave(self.rng.random() < 0.5)
        else:
            self._closing = True
            self._say([b"QUIT"], equals(OK))

    def _key(self, name: bytes = b"") -> bytes:
        return b"%b-%d-%b" % (self.name, self._epoch, name)

    def _set(self, key: bytes, value: bytes) -> None:
        self._values[key] = value
        self._say([b"SET", key, value], equals(OK))

    def _get(self, key: bytes) -> None:
        self._say([b"GET", key], equals(self._values.get(key)))

    def do_strings(self) -> None:
        """Sets and gets a key of its own, in turn or in a pipeline."""
        value = (b"%b-%d-" % (self.name, self.steps)) * self.rng.choice([1, 50, 400])
        for _ in range(self.rng.choice([1, 1, 2, 20])):
            self._set(self._key(), value)
            self._get(self._key())

    def do_pipeline(self) -> None:
        """Sends many commands at once, and reads the replies meanwhile."""
        value = b"x" * self.rng.choice([10, 100, 4096])
        self._set(self._key(b"big"), value)
        for _ in range(self.rng.choice([20, 100])):
            self._get(self._key(b"big"))

    def do_large(self) -> None:
        """Sets and gets a value that is too large to be forwarded as one piece."""
        self._set(self._key(b"large"), b"L" * self.rng.choice([70_000, 300_000]))
        self._get(self._key(b"large"))

    def do_push(self) -> None:
        """Appends items to the tenant's list."""
        for _ in range(self.rng.choice([1, 1, 5])):
            self._serial += 1
            item = b"%b.%d" % (self.name, self._serial)
            self.simulation.sent[item] = self.world.now
            self._say([b"RPUSH", b"q", item], partial(self._pushed, item))

    def _pushed(self, item: bytes, reply: object) -> bool:
        self.simulation.pushed.add(item)
        return isinstance(reply, int)

    def do_pop(self) -> None:
        """Waits for an item of the tenant's list."""
        self._say([b"BLPOP", b"q", b"%.2f" % self.rng.choice([0.2, 0.5, 2, 5])], self._popped)

    def _popped(self, reply: object) -> bool:
        if reply is None:
            return True
        if not (isinstance(reply, list) and len(reply) == 2 and reply[0] == b"q"):
            return False
        self.simulation.got_item(self, reply[1])
        return True

    def do_transaction(self) -> None:
        """Runs a transaction: MULTI and EXEC, or DISCARD."""
        key = self._key(b"multi")
        value = b"%d" % self.steps
        self._say([b"MULTI"], equals(OK))
        self._say([b"SET", key, value], equals(Status(b"QUEUED")))
        self._say([b"GET", key], equals(Status(b"QUEUED")))
        if self.rng.random() < 0.2:
            self._say([b"DISCARD"], equals(OK))
        else:
            self._say([b"EXEC"], equals([OK, value]))

    def do_watch(self) -> None:
        """Adds one to the tenant's counter, unless somebody else changes it meanwhile."""
        self._say([b"WATCH", b"counter"], equals(OK))
        self._say([b"GET", b"counter"], self._add_one)

    def _add_one(self, reply: object) -> bool:
        simulation, tenant = self.simulation, self.tenant
        if isinstance(reply, Error):
            return False

        def added(outcome: object) -> bool:
            if outcome is not None:
                simulation.counted(tenant, 1, 1)
            return outcome is None or outcome == [OK]

        self._say([b"MULTI"], equals(OK))
        self._say([b"SET", b"counter", b"%d" % (int(reply or b"0") + 1)], equals(Status(b"QUEUED")))
        self._say([b"EXEC"], added, lambda: simulation.counted(tenant, 0, 1))
        return reply is None or isinstance(reply, bytes)

    def do_increase(self) -> None:
        """Adds to the tenant's other counter."""
        simulation, tenant = self.simulation, self.tenant

        def added(reply: object) -> bool:
            simulation.counted(tenant + "-increased", 1, 1)
            return isinstance(reply, int)

        for _ in range(self.rng.choice([1, 10])):
            self._say([b"INCR", b"increased"], added, lambda: simulation.counted(tenant + "-increased", 0, 1))

    def do_subscribe(self) -> None:
        """Subscribes to the tenant's channel for a while."""
        channel = self.simulation.channel(self.tenant)
        self._subscribed.add(channel)

        def subscribed(reply: object) -> bool:
            self.world.after(self.rng.uniform(0, 2), self._unsubscribe, self.end, channel)
            self.expected.append(NOTHING)  # the client does nothing else until then
            return isinstance(reply, list) and reply[:2] == [b"subscribe", channel]

        self._say([b"SUBSCRIBE", channel], subscribed)

    def _unsubscribe(self, end: Socket, channel: bytes) -> None:
        if end is not self.end:
            return
        if self.expected and self.expected[0] is NOTHING:
            self.expected.popleft()

        def unsubscribed(reply: object) -> bool:
            self._subscribed.discard(channel)
            self._heard.clear()
            return isinstance(reply, list) and reply[:2] == [b"unsubscribe", channel]

        self._say([b"UNSUBSCRIBE", channel], unsubscribed)

    def do_publish(self) -> None:
        """Publishes messages on the tenant's channel."""
        padding = b"p" * self.rng.choice([0, 0, 0, 50_000])
        for _ in range(self.rng.choice([1, 10])):
            self._say([b"PUBLISH", self.simulation.channel(self.tenant), self._news(padding)], is_number)

    def _news(self, padding: bytes) -> bytes:
        """Returns the next message."""
        self._published += 1
        return b"%b.%b.%d.%b" % (self.tenant.encode(), self._publisher, self._published, padding)

    @property
    def _publisher(self) -> bytes:
        return b"%b-%d" % (self.name, self._epoch)

    def do_hear_itself(self) -> None:
        """Publishes to itself in a transaction: in RESP3 the message comes within EXEC's reply."""
        if self._protocol == 2:
            self.do_publish()
            return
        channel, number = self.simulation.channel(self.tenant), self._published + 1
        publisher = self._publisher
        self._subscribed.add(channel)
        self._say([b"SUBSCRIBE", channel], lambda reply: isinstance(reply, Push))
        self._say([b"MULTI"], equals(OK))
        padding = b"p" * self.rng.choice([0, 100, 50_000])
        for words in ([b"ECHO", b"x"], [b"PUBLISH", channel, self._news(padding)], [b"ECHO", b"y"]):
            self._say(words, equals(Status(b"QUEUED")))

        def heard(reply: object) -> bool:
            whole = isinstance(reply, list) and len(reply) == 3 and is_number(reply[1])
            return whole and reply[::2] == [b"x", b"y"] and self._heard.get(publisher) == number

        self._say([b"EXEC"], heard)
        self._unsubscribe(self.end, channel)

    def do_scripts(self) -> None:
        """Increases a key of its own by commands and by scripts, in one pipeline."""
        key = self._key(b"by-scripts-%d" % self.steps)
        for number in range(1, self.rng.choice([1, 3, 30, 300]) + 1):
            words = self.rng.choice(([b"INCR", key], [b"EVAL", b"increase", b"1", key]))
            self._say(words, equals(number))
        if self.rng.random() < 0.3:
            self._say([b"MULTI"], equals(OK))
            for words in ([b"INCR", key], [b"EVAL", b"increase", b"1", key]):
                self._say(words, equals(Status(b"QUEUED")))
            self._say([b"EXEC"], equals([number + 1, number + 2]))

    def do_slow_scripts(self) -> None:
        """Runs scripts that take a while, and sends other commands behind them."""
        key = self._key(b"by-slow-scripts-%d" % self.steps)
        for number in range(1, self.rng.choice([1, 1, 3, 10]) + 1):
            seconds = self.rng.choice([b"0", b"0.02", b"0.06", b"0.2", b"0.8"]) if self.rng.random() < 0.3 else b"0"
            words = self.rng.choice(([b"INCR", key], [b"EVAL", b"slow %b" % seconds, b"1", key]))
            self._say(words, equals(number))
        what = self.rng.randrange(6)
        if what == 0:
            self._say([b"BLPOP", self._key(b"nothing"), b"0.1"], lambda reply: reply is None)
        elif what == 1:
            self.do_subscribe()
        elif what == 2:
            self.do_transaction()
        elif what == 3:
            self.world.after(self.rng.uniform(0, 0.3), self._leave_scripts, self.end, self.steps)

    def _leave_scripts(self, end: Socket, steps: int) -> None:
        if steps == self.steps and self.expected:
            self._leave_now(end)

    def do_large_scripts(self) -> None:
        """Reads what scripts reply slowly, or late, behind other replies."""
        value = b"z" * self.rng.choice([4096, 100_000])
        key = self._key(b"large-%d" % self.steps)
        self._writes_first = self._gathers = True
        self._reads_late()
        self._set(key, value)
        script = [b"EVAL", b"get", b"1", key]
        for _ in range(self.rng.choice([1, 5])):
            for words in ([b"GET", key], script, *self.rng.choice(([], [script] * 3, [[b"GET", key]] * 3))):
                self._say(words, equals(value))
        if self.rng.random() < 0.3:
            self._say([b"BLPOP", self._key(b"nothing"), b"0.1"], lambda reply: reply is None)
        self._gathers = False
        self._rate = self.rng.choice([0, 100_000])
        self._write()

    def do_inspected(self) -> None:
        """Sends commands that the proxy answers or inspects."""
        straight = self.simulation.straight
        for _ in range(self.rng.choice([1, 1, 30])):
            what = self.rng.randrange(2 if straight else 7)
            if what == 0:
                self._say([b"NOSUCHCOMMAND", b"x"], any_error)
            elif what == 1:
                self._say([b"ECHO", self.name], equals(self.name))
            elif what == 2:
                self._say([b"CLIENT", b"SETNAME", self.name], equals(OK))
                self._say([b"CLIENT", b"GETNAME"], equals(self.name))
            elif what == 3:
                self._say([b"SELECT", b"%d" % self.simulation.other_index(self.tenant)], any_error)
            elif what == 4:
                self._say([b"CLIENT", b"ID"], lambda reply: isinstance(reply, int))
            elif what == 5:
                self._say([b"CONFIG", b"SET", b"x", b"y"], any_error)
            else:
                self._say([b"GET"], any_error)

    def do_mixture(self) -> None:
        """Sends a mixture of these in one pipeline."""
        key, items = self._key(b"mixed"), self._key(b"items")
        ready = 0
        for number in range(self.rng.choice([5, 20, 60])):
            what = self.rng.randrange(7)
            if what == 0:
                self._set(key, b"%d" % number)
            elif what == 1:
                self._get(key)
            elif what == 2:
                self._say([b"NOSUCHCOMMAND", b"x"], any_error)
            elif what == 3:
                ready += 1
                self._say([b"RPUSH", items, b"%d" % number], lambda reply: isinstance(reply, int))
            elif what == 4 and ready:
                ready -= 1
                self._say([b"BLPOP", items, b"1"], lambda reply: isinstance(reply, list) and len(reply) == 2)
            elif what == 5:
                self._say([b"WATCH", key], equals(OK))
                self._say([b"UNWATCH"], equals(OK))
            else:
                self.do_transaction()

    def do_info(self) -> None:
        """Sends INFO."""
        self._say([b"INFO", b"server"], lambda reply: isinstance(reply, bytes))

    def do_unheard(self) -> None:
        """Sends commands with CLIENT REPLY OFF and SKIP, which get no reply."""
        if self.simulation.straight or self.simulation.slow_scripts:
            return self.do_strings()  # without a proxy there is no CLIENT; nor would it hear of BUSY
        key, value = self._key(b"unheard"), b"%d" % self.steps
        self._send(command(b"CLIENT", b"REPLY", b"OFF"))
        for number in range(3):
            self._send(command(b"SET", key, value if number == 2 else b"before"))
        self._send(command(b"SELECT", b"%d" % self.simulation.other_index(self.tenant)))
        self._values[key] = value
        self._say([b"CLIENT", b"REPLY", b"ON"], equals(OK))
        self._send(command(b"CLIENT", b"REPLY", b"SKIP"))
        self._send(command(b"GET", key))
        self._get(key)
        return None

    def do_wrong_password(self) -> None:
        """Sends a wrong password; the client stays logged in."""
        self._wrong_passwords += 1
        # One more may be wrong: its own password may have been replaced a moment ago.
        if self._wrong_passwords > bounds.WRONG_PASSWORDS - 2:
            self.do_come_again()
            return
        self._say([b"AUTH", b"wrong"], any_error)
        self.do_strings()

    def do_come_again(self) -> None:
        """Leaves while nothing is pending, and connects again."""
        self.leave(self.rng.random() < 0.5)
        self.world.after(self.rng.uniform(0, 0.5), self.open)

    def do_leave_soon(self) -> None:
        """Sends a command whose reply does not matter, and leaves before the reply."""
        self._say([b"BLPOP", self._key(b"nothing"), b"5"], lambda _: False)
        self.world.after(self.rng.choice([4, 40]) * self.rng.random() * self.world.latency, self._leave_now, self.end)

    def _leave_now(self, end: Socket) -> None:
        if end is self.end:
            self.do_come_again()

    def do_half_close(self) -> None:
        """Sends its last commands and its end of file at once, and reads the replies."""
        self.do_strings()
        if self.simulation.straight:
            return  # Redis itself sends no reply after an end of file
        sets = sum(each.name == b"SET" for each in self.expected)
        self._set_last = self._key(), self.simulation.redis.times_set[self._key()] + sets
        self._closing = True
        self._shut_when_written(self.end)

    def _shut_when_written(self, end: Socket) -> None:
        if end is not self.end:
            return
        if self._outgoing:
            self.world.after(0.001, self._shut_when_written, end)
        else:
            with contextlib.suppress(OSError):  # the connection was reset meanwhile
                end.shutdown(socket.SHUT_WR)
            self._shut_at = self.world.now

    def do_leave_blocked(self) -> None:
        """Leaves while it waits for an item, perhaps with commands behind."""
        late, soon = b"", 1.5
        if self.rng.random() < 0.5:
            self.do_pop()
        else:
            self._say([b"BLPOP", self._key(b"nothing"), b"0.5"], lambda reply: reply is None)
            soon = 0.2  # long before that time is over
            late = self._key(b"late-%d" % self.steps)
            for words in [*self.rng.choice([[], [[b"INFO"]]]), [b"SET", late, b"1"], [b"GET", late]]:
                self._say(words, lambda _: True)
        self.world.after(self.rng.uniform(0, soon), self._leave_if_blocked, self.end, late)

    def _leave_if_blocked(self, end: Socket, late: bytes) -> None:
        if end is not self.end or not self.expected or self.expected[0].name != b"BLPOP":
            return
        self.simulation.left.append((self.world.now, self.tenant))
        if late:
            self.simulation.behind.append((self.world.now, self.tenant, late))
        if self.rng.random() < 0.3:
            self._closing = self._given_up = True
            self._shut_when_written(end)
        else:
            self.leave(self.rng.random() < 0.5)
            self.world.after(self.rng.uniform(0, 0.5), self.open)

    def do_write_first(self) -> None:
        """Writes a whole pipeline before it reads any reply."""
        value = b"x" * self.rng.choice([100, 4096])
        self._writes_first = self._gathers = True
        self._reads_late()
        self._set(self._key(b"big"), value)
        for _ in range(self.rng.choice([20, 300])):
            self._set(self._key(b"next"), value)
            self._get(self._key(b"big"))
        self._gathers = False
        self._write()

    def do_read_slowly(self) -> None:
        """Reads a large reply at 40,000 bytes a second."""
        self._set(self._key(b"slow"), b"y" * 200_000)
        self._get(self._key(b"slow"))
        self._rate = 40_000
        self._reads_late()


class Pinger(Actor):
    """Sends a PING again and again, and keeps the time of the slowest."""

    PAUSE = 0.004

    def __init__(self, simulation: Simulation, tenant: str) -> None:
        super().__init__(simulation, tenant, [], 0)
        self._slowest = 0.0
        self._sent: float | None = None

    def stop(self) -> None:
        self._slowest, self._sent = self.slowest, None
        super().stop()

    @property
    def slowest(self) -> float:
        """Seconds that the slowest PING took, or has taken so far."""
        return max(self._slowest, 0.0 if self._sent is None else self.world.now - self._sent)

    def _step(self, end: Socket) -> None:
        if end is self.end and not self.expected:
            self._sent = self.world.now
            self._say([b"PING"], self._answered)
            self.expected.append(NOTHING)
            self.world.after(self.PAUSE, self._again, end)

    def _take_replies(self) -> None:
        super()._take_replies()
        if self._sent is None and self.end is not None:
            self._step(self.end)  # does not rest behind its log-in

    def _answered(self, reply: object) -> bool:
        self._slowest, self._sent = self.slowest, None
        return reply == b"PONG"

    def _again(self, end: Socket) -> None:
        if self.expected and self.expected[0] is NOTHING:
            self.expected.popleft()
            self._step(end)
        elif end is self.end:
            self.world.after(self.PAUSE, self._again, end)
