"""When a drain asks the clients of a process to leave, and what happens to those that are there at
its end.
"""

from __future__ import annotations

from types import SimpleNamespace

from twisted.internet import task
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.trial import unittest

from redisproxy import bounds
from redisproxy.clients.admission import Admission
from redisproxy.clients.drain import Drain
from redisproxy.clients.factory import ClientFactory, Timeouts
from redisproxy.ops.access_log import AccessLog
from redisproxy.policy import acl
from redisproxy.tenants.model import Snapshot, Tenant
from redisproxy.upstream.client import ControlError
from redisproxy.upstream.session_backend import SessionBackend

BLUE = Tenant("team-blue", 3)

#: No session in these tests needs a Redis.
NO_REDIS = SessionBackend(None, None, None, None, None, True, clock=task.Clock())


class Client:
    """Records what it is asked to do, and when."""

    def __init__(self, clock: task.Clock, state: str = "multiplexed", upstream: object = None) -> None:
        self.state = state
        self.session = SimpleNamespace(outstanding=0)
        self.asked: list[tuple[str, float]] = []
        self._clock = clock
        self._upstream = upstream
        self.blocked = False

    def _ask(self, what: str) -> None:
        self.asked.append((what, round(self._clock.seconds(), 6)))

    def drain(self) -> None:
        self._ask("drain")

    def unblock(self) -> object:
        return self._upstream if self.blocked else None

    def hurry(self) -> object:
        self._ask("hurry")
        return self._upstream

    def cut_off(self) -> None:
        self._ask("cut_off")


class Upstream:
    """A connection to Redis with a pending reply."""

    def __init__(self, local_address: str, has_acl_user: bool = True) -> None:
        self.local_address = local_address
        self.has_acl_user = has_acl_user
        self.tenant = BLUE
        self.waits = True
        self.given_up = False

    def give_up(self, blocked: bool) -> None:
        self.given_up = blocked


class Control:
    """The control connection to a Redis whose CLIENT LIST has these lines."""

    connected = True

    def __init__(self, *lines: str, refuses: str = "") -> None:
        self._lines = lines
        self._refuses = refuses
        self.lists = 0
        self.asked: list[tuple[str, ...]] = []

    async def ask(self, *words: str) -> object:
        if words[1] == self._refuses:
            raise ControlError("NOPERM")
        if words[1] == "LIST":
            self.lists += 1
            return "\n".join(self._lines).encode() + b"\n"
        self.asked.append(words)
        return 1


class DrainCase(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = task.Clock()
        snapshot = SimpleNamespace(listeners=[], snapshot=Snapshot(None, []))
        self.factory = ClientFactory(
            self.clock, snapshot, NO_REDIS, Admission(10_000, 0), AccessLog(self.clock), Timeouts(60.0)
        )
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def clients(self, count: int, **options: object) -> list[Client]:
        clients = [Client(self.clock, **options) for _ in range(count)]
        self.factory.clients.update(clients)
        return clients

    def start(self, seconds: float, control: object = None) -> None:
        self.over = Drain(self.clock, self.factory, control or Control(), seconds).start()

    def leave(self, clients: list[Client]) -> None:
        for client in clients:
            self.factory.client_disconnected(client)


class TimesTests(DrainCase):
    def test_few_leave_at_once(self) -> None:
        clients = self.clients(10)
        self.start(8.0)
        self.assertTrue(all(client.asked == [("drain", 0.0)] for client in clients))
        self.leave(clients)
        self.successResultOf(self.over)

    def test_many_leave_at_a_rate_and_in_half_of_the_time_at_most(self) -> None:
        for count, seconds, last in ((100, 8.0, 0.5), (1000, 60.0, 5.0), (1000, 8.0, 4.0), (1000, 1.0, 0.5)):
            with self.subTest(count=count, seconds=seconds):
                began = self.clock.seconds()
                self.factory.drained = None
                clients = self.clients(count)
                self.start(seconds)
                while not all(client.asked for client in clients):
                    self.clock.advance(bounds.DRAIN_TURN_SECONDS)
                times = sorted(client.asked[0][1] - began for client in clients)
                self.assertApproximates(times[-1], last, 5 * bounds.DRAIN_TURN_SECONDS)
                at_once = max(times.count(time) for time in times)
                self.assertLessEqual(at_once, 1.1 * count * bounds.DRAIN_TURN_SECONDS / last)
                self.leave(clients)
                self.successResultOf(self.over)
        self.assertEqual(bounds.DRAINED_PER_SECOND, 200)

    def test_who_has_not_logged_in_leaves_first(self) -> None:
        clients = self.clients(500)
        others = self.clients(50, state="unauthenticated") + self.clients(50, state="waiting")
        self.start(8.0)
        self.assertTrue(all(client.asked == [("drain", 0.0)] for client in others))
        self.assertFalse(all(client.asked for client in clients))
        self.leave(clients + others)
        self.successResultOf(self.over)

    def test_one_that_left_before_its_turn_is_not_asked(self) -> None:
        clients = self.clients(500)
        self.start(8.0)
        gone = [client for client in clients if not client.asked]
        self.leave(gone)
        self.clock.advance(bounds.DRAIN_TURN_SECONDS)
        self.assertFalse(any(client.asked for client in gone))
        self.leave([client for client in clients if client.asked])
        self.successResultOf(self.over)

    def test_who_stays_is_hurried_and_then_cut_off(self) -> None:
        for seconds, hurried in ((8.0, 8.0 - bounds.DRAIN_MARGIN_SECONDS), (1.0, 0.75)):
            began = self.clock.seconds()
            self.factory.drained = None
            (client,) = self.clients(1)
            self.start(seconds)
            self.clock.pump([bounds.DRAIN_TURN_SECONDS] * int(seconds / bounds.DRAIN_TURN_SECONDS + 1))
            asked = [(what, round(when - began, 6)) for what, when in client.asked]
            self.assertEqual([what for what, _ in asked], ["drain", "hurry", "cut_off"])
            for (_, when), wanted in zip(asked, (0.0, hurried, seconds), strict=True):
                self.assertApproximates(when, wanted, 2 * bounds.DRAIN_TURN_SECONDS)
            self.assertNoResult(self.over)
            self.leave([client])
            self.successResultOf(self.over)

    def test_without_clients_it_is_over_at_once_and_none_comes_any_more(self) -> None:
        self.start(8.0)
        self.successResultOf(self.over)
        self.assertIsNone(self.factory.buildProtocol(None))

    def test_it_is_told(self) -> None:
        clients = self.clients(3)
        clients[0].session.outstanding = 2
        with capturedLogs() as events:
            self.start(8.0)
            self.clock.advance(2.5)
            self.factory.counts.ended["cut-off"] = 1
            self.leave(clients)
        self.assertEqual(
            [formatEvent(event) for event in events],
            [
                "draining: 3 sessions have 8 s to finish; 1 of them wait for Redis",
                "drained: 3 sessions ended in 2.5 s, 1 of them were cut off",
            ],
        )

    def test_a_real_one_that_says_nothing_more_is_closed_after_a_moment(self) -> None:
        client = self.factory.buildProtocol(None)
        transport = StringTransport()
        closed: list[float] = []
        transport.loseWriteConnection = lambda: client.writeConnectionLost()
        transport.loseConnection = lambda: closed.append(self.clock.seconds())
        client.makeConnection(transport)
        self.start(8.0)
        self.clock.advance(bounds.IDLE_LINGER_SECONDS)
        self.assertEqual(closed, [bounds.IDLE_LINGER_SECONDS])
        client.connectionLost()
        self.successResultOf(self.over)
        self.factory.log_ins.stop()  # as when the last port closes


class UnblockTests(DrainCase):
    ADDRESS = "10.0.0.7:4711"
    OURS = f"id=17 addr=10.0.0.7:4711 laddr=10.0.0.1:6379 name= flags=b db=3 cmd=blpop user={acl.username(BLUE)}"

    def hurry(self, control: Control, *upstreams: Upstream) -> None:
        clients = [client for upstream in upstreams for client in self.clients(1, upstream=upstream)]
        self.start(4.0, control)
        self.clock.advance(3.0)
        self.leave(clients)
        self.successResultOf(self.over)

    def test_it_is_found_by_its_address(self) -> None:
        upstream = Upstream(self.ADDRESS)
        control = Control(self.OURS.replace("4711", "4712").replace("17", "16"), self.OURS)
        self.hurry(control, upstream)
        self.assertEqual(control.asked, [("CLIENT", "UNBLOCK", "17", "ERROR")])
        self.assertFalse(upstream.given_up)

    def test_it_is_unblocked_in_its_turn(self) -> None:
        control = Control(self.OURS, self.OURS.replace("4711", "4712").replace("id=17", "id=18"))
        clients = [self.clients(1, upstream=Upstream(f"10.0.0.7:{port}"))[0] for port in (4711, 4712)]
        for client in clients:
            client.blocked = True
        self.start(8.0, control)
        self.assertEqual(sorted(control.asked), [("CLIENT", "UNBLOCK", id_, "ERROR") for id_ in ("17", "18")])
        self.leave(clients)
        self.successResultOf(self.over)

    def test_those_of_later_turns_are_unblocked_together(self) -> None:
        clients = self.clients(2 * bounds.DRAINED_PER_SECOND)
        control = Control()
        self.start(60.0, control)
        lists = control.lists
        for client in clients:
            client.blocked, client._upstream = True, Upstream(self.ADDRESS)
        self.clock.pump([bounds.DRAIN_TURN_SECONDS] * int(1.9 / bounds.DRAIN_TURN_SECONDS))
        self.assertLessEqual(control.lists - lists, 1 + 1.9 / bounds.DRAIN_UNBLOCK_SECONDS)
        self.assertGreater(control.lists, lists)
        self.leave(clients)
        self.successResultOf(self.over)

    def test_one_that_is_gone_by_then_keeps_no_others(self) -> None:
        class Gone(Upstream):
            @property
            def local_address(self) -> str:
                raise AttributeError("a socket that is closed has no address")

            @local_address.setter
            def local_address(self, _: str) -> None:
                pass

        gone = Gone("")
        gone.waits = False
        control = Control(self.OURS)
        self.hurry(control, gone, Upstream(self.ADDRESS))
        self.assertEqual(control.asked, [("CLIENT", "UNBLOCK", "17", "ERROR")])
        self.assertFalse(gone.given_up)

    def test_by_one_of_ipv6(self) -> None:
        control = Control(self.OURS.replace("10.0.0.7:", "[fd00::7]:"))
        self.hurry(control, Upstream("[fd00::7]:4711"))
        self.assertEqual(control.asked, [("CLIENT", "UNBLOCK", "17", "ERROR")])

    def test_where_there_are_no_users(self) -> None:
        control = Control(self.OURS.partition(" user=")[0])
        self.hurry(control, Upstream(self.ADDRESS, has_acl_user=False))
        self.assertEqual(control.asked, [("CLIENT", "UNBLOCK", "17", "ERROR")])

    def test_another_tenants_at_the_same_address_is_not_it(self) -> None:
        upstream = Upstream(self.ADDRESS)
        control = Control(self.OURS.replace("blue", "green"))
        self.hurry(control, upstream)
        self.assertEqual(control.asked, [])
        self.assertTrue(upstream.given_up)

    def test_where_it_cannot_be_told_it_is_half_closed(self) -> None:
        away = Control(self.OURS)
        away.connected = False
        for control, local_address in (
            (Control(), self.ADDRESS),
            (Control(self.OURS, refuses="LIST"), self.ADDRESS),
            (Control(self.OURS, refuses="UNBLOCK"), self.ADDRESS),
            (away, self.ADDRESS),
            (Control(self.OURS.replace("10.0.0.7:4711", "/run/redis.sock:0")), ""),
        ):
            self.factory.drained = None
            upstream = Upstream(local_address)
            self.hurry(control, upstream)
            self.assertEqual((control.asked, upstream.given_up), ([], True))
