"""Several sessions of one tenant: their commands are sent in the order in which they came."""

from __future__ import annotations

import sys
import unittest

from twisted.internet import task

from redisproxy import bounds
from redisproxy.resp.framing import encode
from redisproxy.session.order import UNORDERED, Order
from redisproxy.session.ports import Unavailable
from redisproxy.session.state import Step
from redisproxy.session.tracking import Tracking
from redisproxy.tenants.model import Tenant
from redisproxy.upstream.order import TenantOrder

from ..support.conversations import BLUE, RecordingPool, RecordingUpstream, SharedConversation

PING = encode([b"PING"])


class OrderedUpstream(RecordingUpstream):
    """A connection that also records what was sent in all of the tenant's sessions' order."""

    overloaded = False

    def send(self, data: bytes, batch: object = None) -> None:
        super().send(data, batch)
        self._conversation.case.sent.append((self._conversation.name, data))

    def expect(self, batch: object) -> None:
        self.pending.batches.append(batch)


class OrderedPool(RecordingPool):
    """A tenant's pool that takes part in its order."""

    def __init__(self, conversation: OrderedConversation, protocol: int) -> None:
        super().__init__(conversation, protocol)
        self.upstream = OrderedUpstream(conversation, protocol)
        self.scripts.upstream = OrderedUpstream(conversation, protocol)
        self.case = conversation.case
        self.case.order_of_all.pools[self] = None

    @property
    def pending(self) -> bool:
        return self.case.loaded

    def order_changed(self) -> None:
        self.upstream.busy = self.case.order_of_all.closed or self.upstream.overloaded
        if not self.upstream.busy:
            self.ready()


class OrderedConversation(SharedConversation):
    """The session of one client."""

    def __init__(self, case: OrderCase, name: str) -> None:
        self.case = case
        self.name = name
        self.prepared = 0
        self.joins_at_once = True
        super().__init__(upstreams_at_once=False)

    def order(self, tenant: Tenant) -> Order:
        return self.case.order_of_all if tenant == BLUE.tenant else UNORDERED

    def prepare(self, tenant: Tenant, protocol: int) -> None:
        self.prepared += 1

    def join_at_once(self, tenant: Tenant, protocol: int) -> None:
        pass

    def join(self, tenant: Tenant, protocol: int, step: Step) -> None:
        self.step = step
        if self.joins_at_once:
            self.finish_join()

    def finish_join(self) -> None:
        self.pools.append(OrderedPool(self, self.asked_protocol))
        self.finish(self.pools[-1])

    def open_upstream(self) -> None:
        upstream = OrderedUpstream(self, self.asked_protocol)
        self.upstreams.append(upstream)
        if not self.finish(upstream):
            upstream.release(clean=True)

    def says(self, *lines: str) -> None:
        self.client(*(encode(line.encode().split()) for line in lines))


class OrderCase(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        self.refused = False
        self.order_of_all = TenantOrder(self.clock, lambda: self.refused)
        #: whether replies are pending on the multiplexed connection
        self.loaded = False
        self.sent: list[tuple[str, bytes]] = []
        self.a, self.b, self.c = map(self.client, "abc")

    def client(self, name: str) -> OrderedConversation:
        conversation = OrderedConversation(self, name)
        conversation.command(b"AUTH", b"blue")
        return conversation

    def assertSent(self, *expected: tuple[str, str]) -> None:
        """Compares (who, commands) with what was sent since the last call."""
        sent, self.sent = self.sent, []
        joined: list[tuple[str, bytes]] = []
        for name, data in sent:
            if joined and joined[-1][0] == name:
                joined[-1] = name, joined[-1][1] + data
            else:
                joined.append((name, data))
        self.assertEqual(
            joined, [(name, b"".join(encode(each.encode().split()) for each in text.split("; "))) for name, text in expected]
        )

    def assertOver(self) -> None:
        self.assertFalse(self.order_of_all.closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual([each.session.gates & ~32 for each in (self.a, self.b, self.c)], [0, 0, 0])


class WaitTests(OrderCase):
    def test_others_wait_for_a_connection(self) -> None:
        self.a.says("BLPOP li 0")
        self.b.says("GET b")
        self.c.says("GET c")
        self.assertSent()
        self.a.open_upstream()
        self.assertSent(("a", "BLPOP li 0"), ("b", "GET b"), ("c", "GET c"))
        self.assertOver()

    def test_nobody_waits_where_nobody_sends(self) -> None:
        self.a.says("BLPOP li 0")
        self.a.open_upstream()
        self.b.says("GET b")
        self.assertSent(("a", "BLPOP li 0"), ("b", "GET b"))
        self.assertOver()

    def test_nobody_waits_while_redis_takes_no_connections(self) -> None:
        self.refused = True
        self.a.says("BLPOP li 0")
        self.b.says("GET b")
        self.assertSent(("b", "GET b"))
        self.assertOver()

    def test_what_stands_behind_it_goes_before_that_of_others(self) -> None:
        self.a.says("BLPOP li 0", "SET a 1")
        self.b.says("GET a")
        self.a.open_upstream()
        self.assertSent(("a", "BLPOP li 0; SET a 1"), ("b", "GET a"))

    def test_what_the_same_client_sent_later_goes_behind_that_of_others(self) -> None:
        self.a.says("BLPOP li 0")
        self.b.says("GET a")
        self.a.says("SET a 1")
        self.b.says("GET b")
        self.a.open_upstream()
        self.assertSent(("a", "BLPOP li 0"), ("b", "GET a"), ("a", "SET a 1"), ("b", "GET b"))
        self.assertOver()

    def test_several_that_wait_are_served_in_turn(self) -> None:
        self.a.says("BLPOP li 0")
        self.b.says("GET b", "BLPOP li 0", "GET b2")
        self.c.says("GET c")
        self.b.says("GET b3")
        self.a.open_upstream()
        self.b.shared_redis(b"$-1\r\n")
        self.assertSent(("a", "BLPOP li 0"), ("b", "GET b"))
        self.b.open_upstream()
        self.assertSent(("b", "BLPOP li 0; GET b2"), ("c", "GET c"), ("b", "GET b3"))
        self.assertOver()

    def test_a_connection_is_prepared_for_the_next(self) -> None:
        self.a.says("BLPOP li 0")
        self.b.says("GET b")
        self.c.says("multi")
        self.assertEqual((self.b.prepared, self.c.prepared), (0, 1))

    def test_a_command_that_came_in_parts(self) -> None:
        command = encode([b"SET", b"b", b"1"])
        self.a.says("BLPOP li 0")
        self.b.client(command[:9])
        self.c.says("GET b")
        self.b.client(command[9:])
        self.a.open_upstream()
        self.assertSent(("a", "BLPOP li 0"), ("c", "GET b"), ("b", "SET b 1"))
        self.assertOver()

    def test_replies_are_awaited_first(self) -> None:
        self.a.says("GET a")
        self.a.says("BLPOP li 0")
        self.b.says("GET b")
        self.assertSent(("a", "GET a"))
        self.a.shared_redis(b"$-1\r\n")
        self.b.says("GET b2")
        self.a.open_upstream()
        self.assertSent(("a", "BLPOP li 0"), ("b", "GET b; GET b2"))
        self.assertOver()

    def test_a_session_with_a_dedicated_connection_waits_too(self) -> None:
        self.b.says("BLPOP li 0")
        self.b.open_upstream()
        self.a.says("BLPOP li 0")
        self.b.says("GET b")
        self.assertSent(("b", "BLPOP li 0"))
        self.a.open_upstream()
        self.assertSent(("a", "BLPOP li 0"), ("b", "GET b"))
        self.assertOver()

    def test_the_patterns_of_a_psubscribe_are_awaited(self) -> None:
        self.a.permits_at_once = False
        self.a.says("PSUBSCRIBE n*")
        self.b.says("GET b")
        self.a.open_upstream()
        self.assertSent()
        self.a.finish(None)
        self.assertEqual([name for name, _ in self.sent], ["a", "b"])
        self.a.says("PSUBSCRIBE m*")
        self.b.says("GET b2")
        self.assertEqual(len(self.sent), 2)
        self.a.finish(None)
        self.assertEqual([name for name, _ in self.sent], ["a", "b", "a", "b"])
        self.assertOver()


class Sender:
    """A session that sends again and again, and only waits."""

    def close_gate(self, gate: int) -> None:
        pass

    def turn_came(self, later: int) -> None:
        pass


class CostTests(unittest.TestCase):
    def calls_for_each(self, entries: int) -> float:
        """Returns how many functions and generators run for each entry of a queue."""
        order, first, senders = TenantOrder(task.Clock()), Sender(), (Sender(), Sender())
        order.begin(first)
        for sender in senders:
            order.wait(sender, 1)
        for number in range(entries - 2):
            order.more(senders[number % 2], 1)
        count = 0

        def called(*_: object) -> None:
            nonlocal count
            count += 1

        before = sys.getprofile()
        sys.setprofile(called)
        try:
            order.settled(first)
        finally:
            sys.setprofile(before)
        self.assertFalse(order.closed)
        return count / entries

    def test_a_turn_costs_the_same_however_many_wait(self) -> None:
        """20,000 small reads of two clients kept the whole process for 8 s."""
        self.assertLess(self.calls_for_each(2000), 1.5 * self.calls_for_each(20))


class ScriptTests(OrderCase):
    """Scripts go over a connection of their own."""

    def test_they_wait_for_a_command_that_came_before(self) -> None:
        self.a.says("BLPOP li 0")
        self.b.says("EVAL b 0", "GET b")
        self.c.says("MULTI", "EVAL c 0", "EXEC")
        self.assertSent()
        self.a.open_upstream()
        self.assertSent(("a", "BLPOP li 0"), ("b", "EVAL b 0; GET b"), ("c", "MULTI; EVAL c 0; EXEC"))
        self.assertOver()

    def test_so_does_what_stands_behind_one(self) -> None:
        self.b.says("EVAL b 0")
        self.a.says("BLPOP li 0")
        self.b.says("GET b", "EVAL b2 0")
        self.c.says("GET c")
        self.assertSent(("b", "EVAL b 0"))
        self.a.open_upstream()
        self.assertSent(("a", "BLPOP li 0"), ("b", "GET b; EVAL b2 0"), ("c", "GET c"))
        self.assertEqual(self.b.scripts_gets().count(b"GET"), 1)
        self.assertOver()

    def test_so_do_those_of_a_session_with_a_dedicated_connection(self) -> None:
        self.b.says("WATCH b")
        self.b.open_upstream()
        self.a.says("BLPOP li 0")
        self.b.says("EVAL b 0")
        self.assertSent(("b", "WATCH b"))
        self.a.open_upstream()
        self.assertSent(("a", "BLPOP li 0"), ("b", "EVAL b 0"))
        self.assertOver()

    def test_others_wait_while_their_connection_is_opened(self) -> None:
        scripts = self.a.tenant_pool.scripts
        there, scripts.upstream = scripts.upstream, Unavailable(busy=True)
        self.a.says("EVAL a 0", "GET a")
        self.b.says("GET b")
        self.c.says("EVAL c 0")
        self.assertSent()
        scripts.upstream = there
        scripts.ready()
        self.assertSent(("a", "EVAL a 0; GET a"), ("b", "GET b"), ("c", "EVAL c 0"))
        self.assertOver()

    def test_and_while_one_waits_for_a_connection_of_its_own(self) -> None:
        self.a.tenant_pool.scripts.slow = True
        self.a.says("EVAL a 0", "GET a")
        self.b.says("GET b")
        self.a.open_upstream()
        self.assertSent(("a", "EVAL a 0; GET a"), ("b", "GET b"))
        self.assertOver()
        self.c.tenant_pool.scripts.slow = True
        self.c.says("EVAL c 0")
        self.b.says("GET b2")
        self.c.refuse_upstream("BUSY Redis is busy")
        self.assertSent(("b", "GET b2"))
        self.assertOver()

    def test_nobody_waits_while_one_waits_for_the_replies_before_it(self) -> None:
        self.a.says("GET a", "EVAL a 0")
        self.b.says("GET b")
        self.assertSent(("a", "GET a"), ("b", "GET b"))
        self.c.says("BLPOP li 0")
        self.b.says("GET b2")
        self.a.shared_redis(b"$-1\r\n")
        self.assertSent(("a", "EVAL a 0"))
        self.c.open_upstream()
        self.assertSent(("c", "BLPOP li 0"), ("b", "GET b2"))
        self.assertOver()

    def test_nobody_waits_for_a_command_behind_a_script_that_takes_long(self) -> None:
        self.a.says("EVAL a 0", "BLPOP li 0")
        self.b.says("GET b")
        self.assertSent(("a", "EVAL a 0"))
        self.order_of_all.give_up({self.b.session.replies})
        self.assertSent()
        self.order_of_all.give_up({self.a.session.replies, self.b.session.replies})
        self.assertSent(("b", "GET b"))
        self.assertOver()
        self.a.scripts_redis(b"+1\r\n")
        self.a.open_upstream()
        self.assertSent(("a", "BLPOP li 0"))
        self.assertOver()

    def test_nor_if_it_comes_when_that_is_known(self) -> None:
        for first in ("BLPOP li 0", "MULTI"):
            self.a.says("EVAL a 0")
            self.a.tenant_pool.scripts.slow = True
            self.a.says(first)
            self.b.says("GET b")
            self.assertSent(("a", "EVAL a 0"), ("b", "GET b"))
            self.assertOver()
            self.a.tenant_pool.scripts.slow = False
            self.a.scripts_redis(b"+1\r\n")
            self.a.open_upstream()
            self.assertSent(("a", first))
            self.a.redis(b"*-1\r\n")


class EndTests(OrderCase):
    """What ends the wait besides the connection."""

    def setUp(self) -> None:
        super().setUp()
        self.a.says("BLPOP li 0")
        self.b.says("GET b")

    def test_no_connection_can_be_had(self) -> None:
        self.a.refuse_upstream("ERR no")
        self.assertSent(("b", "GET b"))
        self.assertOver()

    def test_the_client_leaves(self) -> None:
        self.a.session.ending.at_once()
        self.assertSent(("b", "GET b"))
        self.assertFalse(self.order_of_all.closed)

    def test_one_that_waits_leaves(self) -> None:
        self.c.says("GET c")
        self.b.session.ending.at_once()
        self.a.open_upstream()
        self.assertSent(("a", "BLPOP li 0"), ("c", "GET c"))

    def test_too_late(self) -> None:
        self.clock.advance(bounds.ORDER_SECONDS - 0.1)
        self.c.says("BLPOP li 0")
        self.assertSent()
        self.clock.advance(0.1)
        self.assertSent(("b", "GET b"))
        # nobody waits any more until a connection can be had
        self.b.says("GET b2")
        self.assertSent(("b", "GET b2"))
        self.c.open_upstream()
        self.a.open_upstream()
        self.assertSent(("c", "BLPOP li 0"), ("a", "BLPOP li 0"))
        self.assertOver()
        d = self.client("d")
        d.says("BLPOP li 0")
        self.b.says("GET b3")
        self.assertSent()
        d.open_upstream()
        self.assertSent(("d", "BLPOP li 0"), ("b", "GET b3"))

    def test_no_command_waits_longer_because_others_came(self) -> None:
        self.clock.advance(0.6)
        self.c.says("GET c")
        self.a.open_upstream()
        self.assertSent(("a", "BLPOP li 0"), ("b", "GET b"), ("c", "GET c"))
        self.assertOver()

    def test_a_client_that_sent_its_end_of_file_gets_its_replies(self) -> None:
        self.c.says("GET c")
        self.b.says("GET b2")
        self.b.session.ending.half_closed()
        self.a.open_upstream()
        self.assertSent(("a", "BLPOP li 0"), ("b", "GET b; GET b2"), ("c", "GET c"))
        self.b.shared_redis(b"$-1\r\n$-1\r\n")
        self.assertEqual(self.b.hears(), b"+OK\r\n$-1\r\n$-1\r\n")
        self.assertEqual(self.b.closed, "client-left")

    def test_one_is_logged_out_in_its_turn(self) -> None:
        self.b.says("RESET")
        self.c.says("GET c")
        self.b.says("AUTH blue", "GET b2")
        self.a.open_upstream()
        self.b.shared_redis(b"$-1\r\n")
        self.assertEqual(self.b.hears(), b"+OK\r\n$-1\r\n+RESET\r\n+OK\r\n")
        self.assertEqual([name for name, _ in self.sent], ["a", "b", "c", "b"])
        self.assertOver()

    def test_a_log_in_of_one_that_waits_as_another_tenant(self) -> None:
        self.b.joins_at_once = False
        self.b.says("AUTH green")
        self.c.says("BLPOP li 0")
        self.b.says("GET b2")
        self.a.open_upstream()
        self.b.shared_redis(b"$-1\r\n")
        self.assertSent(("a", "BLPOP li 0"), ("b", "GET b"))
        self.b.finish_join()
        self.assertSent(("b", "GET b2"))
        self.c.open_upstream()
        self.assertSent(("c", "BLPOP li 0"))
        self.assertOver()

    def test_the_multiplexed_connection_takes_no_more(self) -> None:
        self.b.tenant_pool.upstream.overloaded = True
        self.a.open_upstream()
        self.assertSent(("a", "BLPOP li 0"))
        self.assertFalse(self.order_of_all.closed)

    def test_the_multiplexed_connection_breaks(self) -> None:
        self.b.tenant_pool.upstream = Unavailable("ERR away")
        self.a.open_upstream()
        self.assertEqual(self.b.hears(), b"+OK\r\n-ERR away\r\n")

    def test_a_client_with_a_blocked_command_that_sends_much_is_read(self) -> None:
        """What it sends is charged, runs in its turns, and is given back."""
        self.a.open_upstream()
        self.b.says("BLPOP li 0")
        self.b.shared_redis(b"$-1\r\n")
        self.b.open_upstream()
        memory = self.b.has_memory(1 << 20)
        self.sent.clear()
        self.c.says("BLPOP li 0")
        values = [f"{number}" * 50_000 for number in range(8)]
        for value in values:
            self.b.says(f"SET b {value}")
            self.a.says("GET a")
        self.assertEqual((self.b.held, memory.of("blue") // 100_000), (False, 4))
        self.c.open_upstream()
        expected = [("c", "BLPOP li 0")]
        for value in values:
            expected += [("b", f"SET b {value}"), ("a", "GET a")]
        self.assertSent(*expected)
        self.assertEqual(memory.size, 0)
        self.assertOver()

    def test_one_that_waits_with_much_ends(self) -> None:
        memory = self.b.has_memory(1 << 20)
        self.b.client(b"x" * 4 * bounds.BUFFERED_BYTES)
        self.assertGreater(memory.size, 4 * bounds.BUFFERED_BYTES)
        self.b.session.ending.begin("revoked")
        self.assertEqual(memory.size, 0)

    def test_no_two_connections_are_prepared_for_one_session(self) -> None:
        self.c.says("MULTI", "GET c", "EXEC")
        self.a.open_upstream()
        d = self.client("d")
        d.says("BLPOP li 0")
        self.c.says("MULTI", "GET c", "EXEC")
        self.assertEqual((d.prepared, self.c.prepared), (0, 1))

    def test_a_client_that_sends_much_is_not_read(self) -> None:
        self.b.client(b"x" * bounds.BUFFERED_BYTES)
        self.assertTrue(self.b.held)


class FenceTests(OrderCase):
    """Replies are pending on the multiplexed connection: Redis may read it first."""

    def setUp(self) -> None:
        super().setUp()
        self.loaded = True
        self.a.upstreams_at_once = True

    def test_others_wait_until_redis_has_read_it(self) -> None:
        self.a.says("XREAD BLOCK 0 STREAMS st $")
        self.b.says("GET b")
        self.assertSent(("a", "PING; XREAD BLOCK 0 STREAMS st $"))
        self.a.redis(b"+PONG\r\n")
        self.assertSent(("b", "GET b"))
        self.assertEqual(self.a.hears(), b"+OK\r\n")
        self.assertOver()

    def test_a_client_caching_yes_stays_in_force(self) -> None:
        """Redis forgets it after any command but CLIENT: the client would cache what goes stale."""
        self.a.session.tracking = Tracking(self.a.session.replies)
        self.a.session.tracking.ask(True)
        self.a.says("XREAD BLOCK 0 STREAMS st $")
        self.assertSent(("a", "CLIENT GETREDIR; XREAD BLOCK 0 STREAMS st $"))

    def test_not_for_what_may_come_later(self) -> None:
        self.a.says("XREAD BLOCK 0 STREAMS st 0")
        self.b.says("GET b")
        self.assertSent(("a", "XREAD BLOCK 0 STREAMS st 0"), ("b", "GET b"))

    def test_not_where_nothing_is_pending(self) -> None:
        self.loaded = False
        self.a.says("XREAD BLOCK 0 STREAMS st $")
        self.assertSent(("a", "XREAD BLOCK 0 STREAMS st $"))

    def test_not_for_a_client_that_does_not_read(self) -> None:
        self.a.says("SUBSCRIBE one")
        self.a.redis(b"+PONG\r\n*3\r\n$9\r\nsubscribe\r\n$8\r\nblue:one\r\n:1\r\n")
        self.sent.clear()
        self.a.session.client_slow(True)
        self.a.says("SUBSCRIBE two")
        self.assertNotIn(PING, self.sent[0][1])

    def test_what_had_to_wait_has_one(self) -> None:
        self.a.upstreams_at_once = False
        self.a.says("BLPOP li 0", "GET a")
        self.b.says("GET b")
        self.a.open_upstream()
        self.assertSent(("a", "PING; BLPOP li 0; GET a"))
        self.a.redis(b"+PONG\r\n")
        self.assertSent(("b", "GET b"))
        self.assertOver()

    def test_its_own_session_goes_on(self) -> None:
        self.a.says("SUBSCRIBE one")
        self.a.says("SUBSCRIBE two", "PING")
        self.assertEqual(b"".join(data for _, data in self.sent).count(PING), 3)
        self.b.says("GET b")
        self.a.says("PING")
        self.a.redis(b"+PONG\r\n")
        self.assertEqual([name for name, _ in self.sent], ["a", "a", "a"])
        self.a.redis(b"*3\r\n$9\r\nsubscribe\r\n$5\r\n" + self.sent[0][1][-5:] + b"\r\n:1\r\n")
        self.sent.clear()
        self.a.redis(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")
        self.assertSent(("b", "GET b"), ("a", "PING"))
        self.assertOver()

    def test_its_session_ends(self) -> None:
        self.a.says("SUBSCRIBE one")
        self.b.says("GET b")
        self.sent.clear()
        self.a.session.ending.at_once()
        self.assertSent(("b", "GET b"))
        self.assertFalse(self.order_of_all.closed)

    def test_redis_does_not_answer(self) -> None:
        self.a.says("SUBSCRIBE one")
        self.b.says("GET b")
        self.sent.clear()
        self.clock.advance(bounds.ORDER_SECONDS)
        self.assertSent(("b", "GET b"))
        self.a.says("SUBSCRIBE two")
        self.assertNotIn(PING, self.sent[0][1])
        self.a.redis(b"+PONG\r\n")
        self.a.says("SUBSCRIBE three")
        self.assertIn(PING, self.sent[1][1])
