"""What simulated clients do so that rare branches of the proxy are reached.

Owns these steps. `actors` has the usual ones, and what a client may expect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .actors import NOTHING, OK, Actor, any_error, equals, is_number
from .kernel import Socket
from .replies import Error, Push, Status

if TYPE_CHECKING:
    from .simulation import Simulation


class RareActor(Actor):
    """A client that may do all of `simulation.RARE`, too."""

    def __init__(self, simulation: Simulation, tenant: str, kinds: list[str], steps: int) -> None:
        super().__init__(simulation, tenant, kinds, steps)
        # What it does when it connects the next time: how many commands it sends before its log-in,
        # and whether it sends others behind its log-in at once.
        self._early = 0
        self._in_a_hurry = False
        # The tenant that it is about to be, and whether a message may keep it from that.
        self._changes_to = ""
        self._changes_while_subscribed = False
        # The step in which it sends much behind a blocked command.
        self._sends_much = -1
        # How often it reads slowly still: each takes up to a minute.
        self._slow = 1 if simulation.crowded else 3

    @property
    def waits_for_log_in(self) -> bool:
        """Whether its log-in has no reply yet, nor what it sent before."""
        return super().waits_for_log_in or (
            not self._was_answered and any(each.name in (b"AUTH", b"HELLO") for each in self.expected)
        )

    def do_much_behind_blocked(self) -> None:
        """Sends much behind a blocked command."""
        self._sends_much = self.steps
        self._say([b"BLPOP", self._key(b"nothing"), b"0.3"], lambda reply: reply is None)
        key, value = self._key(b"behind"), b"m" * 4096
        for _ in range(self.rng.choice([1, 20, 60])):
            self._set(key, value)
            self._get(key)
        if self.rng.random() < 0.3:
            self.world.after(self.rng.uniform(0, 0.5), self._leave_scripts, self.end, self.steps)

    def _leave_if_blocked(self, end: Socket, late: bytes) -> None:
        if self._sends_much != self.steps:  # else this is of an earlier step
            super()._leave_if_blocked(end, late)

    def _read_at(self, rate: int) -> None:
        """Reads so many bytes a second until its next step, unless it did so often."""
        self._slow -= 1
        if self._slow < 0:
            return
        self._rate = rate
        self._reads_late()

    def do_read_very_slowly(self) -> None:
        """Reads large replies at 10,000 bytes a second, and sends other commands behind them."""
        key = self._key(b"slow")
        self._set(key, b"y" * 100_000)
        for _ in range(4):
            self._get(key)
        self._read_at(10_000)
        for _ in range(3):
            self.world.after(self.rng.uniform(0.5, 15), self._ask_more, self.end, self.steps)

    def _ask_more(self, end: Socket, steps: int) -> None:
        # Nothing behind a QUIT is answered.
        if end is self.end and self.expected and steps == self.steps and not self._closing:
            self._get(self._key(b"nothing"))

    def do_read_scripts_slowly(self) -> None:
        """Reads a script's reply slowly, behind replies to plain commands."""
        value = b"s" * self.rng.choice([4096, 50_000])
        key, count = self._key(b"scripts"), self.rng.choice([1, 5])
        script = [b"EVAL", b"get", b"1", key]

        def stored(reply: object) -> bool:
            if reply == OK:
                self._values[key] = value
                self._gathers = True
                for words in [[b"GET", key]] * count + [script] * 2 + [[b"GET", key]] * count:
                    self._say(words, equals(value))
                self._gathers = False
                self._read_at(20_000)
                self._write()
            return reply == OK

        self._say([b"SET", key, value], stored)

    def do_close_slowly(self) -> None:
        """Asks for large replies, leaves in order, and reads them slowly."""
        key = self._key(b"slow")
        self._set(key, b"y" * 50_000)
        for _ in range(3):
            self._get(key)
        self._read_at(8000)
        self._closing = True
        if self.simulation.straight or self.rng.random() < 0.5:
            self._say([b"QUIT"], equals(OK))
        else:
            self._shut_when_written(self.end)

    def do_come_early(self) -> None:
        """Connects again, and sends commands before it logs in."""
        # While there are few slots, those that take long to log in are closed.
        self._early = 3 if self.simulation.crowded else self.rng.choice([3, 2000])
        self.do_come_again()

    def do_come_in_a_hurry(self) -> None:
        """Connects again, and sends commands behind its password at once."""
        self._in_a_hurry = True
        self.do_come_again()

    def _before_log_in(self) -> None:
        early, self._early = self._early, 0
        if early:
            self._gathers = True
            for _ in range(early):
                self._say([b"PING"], any_error)
            self._gathers = False
            self._rate = 40_000

    def _behind_log_in(self) -> None:
        in_a_hurry, self._in_a_hurry = self._in_a_hurry, False
        if in_a_hurry:
            for number in range(self.rng.choice([1, 3, 30])):
                self._set(self._key(b"hurry"), b"%d-" % number * 300)
                self._get(self._key(b"hurry"))

    def do_change_tenant(self) -> None:
        """Logs in as the other tenant, perhaps while it is subscribed."""
        if self.simulation.straight:
            return self.do_strings()  # Redis itself has no tenants
        self._changes_while_subscribed = self._protocol == 3 and self.rng.random() < 0.7
        if not self._changes_while_subscribed:
            return self._change_tenant(self.end)
        channel = self.simulation.channel(self.tenant)
        self._subscribed.add(channel)

        def subscribed(reply: object) -> bool:
            self.world.after(self.rng.uniform(0, 2), self._change_tenant, self.end)
            self.expected.append(NOTHING)
            return isinstance(reply, Push)

        self._say([b"SUBSCRIBE", channel], subscribed)
        return None

    def _change_tenant(self, end: Socket) -> None:
        if end is not self.end:
            return
        if self.expected and self.expected[0] is NOTHING:
            self.expected.popleft()
        other = self._changes_to = "green" if self.tenant == "blue" else "blue"
        password = self.simulation.password(other)

        def changed(reply: object) -> bool:
            self._changes_to = ""
            if reply == OK:
                self.tenant = other
                self.name = b"%b%d" % (other.encode(), self.number)
                self._subscribed.clear()
                self._heard.clear()
                self.give_up_keys()
                return True
            if isinstance(reply, Error) and self._subscribed:
                self.do_come_again()  # it is subscribed still
            # The password may have changed meanwhile.
            return isinstance(reply, Error) and (
                password != self.simulation.password(other) or self.simulation.forgives(other)
            )

        self._say([b"AUTH", password], changed)

    def _is_message(self, reply: object) -> bool:
        # As another tenant it is not subscribed any more, and told so.
        ended = isinstance(reply, Push) and reply[:1] == [b"unsubscribe"] and bool(self._changes_to)
        return ended or super()._is_message(reply)

    def _hear(self, message: list) -> None:
        if message[0] == b"unsubscribe":
            self._subscribed.discard(message[1])
        else:
            super()._hear(message)

    def _lost(self, how: str) -> None:
        changes_to, self._changes_to = self._changes_to, ""
        # A message in parts may begin before the connection changes: then the client is closed.
        if changes_to and (self._changes_while_subscribed or self.simulation.forgives(changes_to)):
            self.do_come_again()
        else:
            super()._lost(how)

    def do_nested_messages(self) -> None:
        """A script publishes to its own client: in RESP3 its message comes within the reply."""
        if self._protocol == 2:
            return self.do_publish()
        channel, number = self.simulation.channel(self.tenant), self._published + 1
        publisher, depth = self._publisher, self.rng.choice([0, 1, 2, 7])
        self._subscribed.add(channel)
        self._say([b"SUBSCRIBE", channel], lambda reply: isinstance(reply, Push))
        nested: list[object] = [b"before", b"behind"]
        for _ in range(depth):
            nested = [b"level", nested]
        text = b"nested %d" % depth
        words = [b"EVAL", text, b"0", self._news(b"p" * self.rng.choice([0, 100, 50_000]))]

        def heard(reply: object, whole: object = nested) -> bool:
            return reply == whole and self._heard.get(publisher) == number

        if self.rng.random() < 0.5:
            self._say(words, heard)
        else:
            self._say([b"MULTI"], equals(OK))
            self._say(words, equals(Status(b"QUEUED")))
            self._say([b"EXEC"], lambda reply: heard(reply, [nested]))
        self._unsubscribe(self.end, channel)
        return None

    def do_windows(self) -> None:
        """Sends commands that may keep Redis busy, and others between them. Some do keep it busy.
        Perhaps it leaves meanwhile, or reads slowly.
        """
        rng = self.rng
        items, key = self._key(b"items-%d" % self.steps), self._key(b"bits-%d" % self.steps)
        whole = [b"%d" % number * rng.choice([1, 1, 1, 500]) for number in range(rng.choice([0, 1, 5]))]
        long = rng.choice([0, 0, 0, 1, 5, 50])
        value = b"long %.3f" % rng.choice([0.011, 0.02, 0.05]) if long else b"short"
        self._gathers = rng.random() < 0.7
        for item in whole:
            self._say([b"RPUSH", items, item], is_number)
        self._set(key, value)
        kinds = rng.choice([range(8), range(8), (5,)])
        for _ in range(rng.choice([1, 3, 30, 100])):
            what = rng.choice(kinds)
            if what < 4:
                self._say([b"LRANGE", items, b"0", b"-1"], equals(whole))
            elif what == 4:
                self._get(key)
            elif what == 5:
                self._say([b"MULTI"], equals(OK))
                for words in ([b"LRANGE", items, b"0", b"-1"], [b"GET", key]):
                    self._say(words, equals(Status(b"QUEUED")))
                self._say([b"EXEC"], equals([whole, value]))
            elif what == 6:
                self._say([b"ECHO", self.name], equals(self.name))
            elif long:
                long -= 1
                self._say([b"BITCOUNT", key], equals(len(value)))
        for _ in range(long if rng.random() < 0.3 else 0):
            self._say([b"BITCOUNT", key], equals(len(value)))
        self._gathers = False
        self._write()
        if rng.random() < 0.2:
            self.world.after(rng.uniform(0, 0.1), self._leave_scripts, self.end, self.steps)
        elif rng.random() < 0.2:
            self._read_at(50_000)

    def do_large_windows(self) -> None:
        """Sends a large command that may keep Redis busy, perhaps behind one that blocks."""
        if self.rng.random() < 0.5:
            self._say([b"BLPOP", self._key(b"nothing"), b"0.1"], lambda reply: reply is None)
        for _ in range(self.rng.choice([0, 3])):
            self._say([b"LRANGE", self._key(b"nothing"), b"0", b"-1"], equals([]))
        self._say([b"BITCOUNT", self._key(b"n" * 70_000)], equals(0))

    def do_list_clients(self) -> None:
        """Sends CLIENT LIST."""
        if self.simulation.straight:
            return self.do_strings()  # without a proxy there is no CLIENT
        return self._say([b"CLIENT", b"LIST"], lambda reply: isinstance(reply, bytes) and b"addr=" in reply)

    def do_leave_within(self) -> None:
        """Leaves while it sends a large command."""
        self._say([b"SET", self._key(b"within"), b"W" * 300_000], equals(OK))
        self.world.after(self.rng.uniform(0, 20) * self.world.latency, self._leave_scripts, self.end, self.steps)

    def do_large_news(self) -> None:
        """Publishes a message that comes in many parts, or listens for those of others."""
        if self.rng.random() < 0.5:
            return self.do_subscribe()
        news = self._news(b"p" * 300_000)
        return self._say([b"PUBLISH", self.simulation.channel(self.tenant), news], lambda reply: isinstance(reply, int))
