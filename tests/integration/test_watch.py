"""Tests that changes in the cluster take effect at once: a real process watches the small
Kubernetes API server over HTTP.

The interval of reloads is the longest that the proxy takes, so only the watch can cause these
effects. One test does the same with manifests in files.
"""

from __future__ import annotations

import time
import unittest
from collections.abc import Callable

import redis

from ..support.apiserver import ANY, NAMESPACES, ApiServer, refusal
from ..support.proxy import Installation, ProxyProcess, has_ended, master, namespace, secret, tenant
from ..support.servers import RedisServer
from ..support.status import metrics
from ..support.waiting import LIMIT, until

BLUE, GREEN = "blue-password", "green-password"
WATCHED = "namespaces and secrets are watched"
ALL_SECRETS = "/api/v1/secrets"


class WatchCase(unittest.TestCase):
    tls = False

    def setUp(self) -> None:
        self.server = RedisServer().start()
        self.addCleanup(self.server.stop)
        documents = [master(self.server.url), *tenant("team-blue", 3, BLUE), *tenant("team-green", 5, GREEN)]
        self.api = ApiServer(*documents, tls=self.tls)
        self.addCleanup(self.api.remove)
        self.api.start()

    def start(self, *options: str, watched: bool = True) -> ProxyProcess:
        environ = {"KUBECONFIG": str(self.api.kubeconfig)}
        self.proxy = ProxyProcess("--refresh", "86400", *options, environ=environ)
        self.addCleanup(self.check_log)
        self.addCleanup(self.proxy.stop)
        self.proxy.ready()
        if watched:
            self.settled()
        return self.proxy

    def settled(self) -> None:
        """Waits until the proxy watches and reads nothing more: later effects come from later
        changes.
        """
        self.proxy.logged(WATCHED)
        quiet = [0, 0]

        def probe() -> bool:
            # The proxy answered a client between two checks, so it was not just kept from running.
            time.sleep(0.05)
            self.proxy.answers()
            asked = len(self.api.requests)
            quiet[:] = asked, quiet[1] + 1 if asked == quiet[0] else 0
            return quiet[1] >= 8

        until(probe, "nothing is asked any more")

    def check_log(self) -> None:
        self.assertNotIn("Traceback", self.proxy.log)
        self.assertNotIn("-password", self.proxy.log)
        self.assertNotIn(self.server.password, self.proxy.log)

    def client(self, password: str, index: int) -> redis.Redis:
        client = self.proxy.client(password, index, single_connection_client=True)
        self.addCleanup(client.close)
        self.assertTrue(client.ping())
        return client

    def works(self, password: str) -> bool:
        """Returns whether the proxy accepts a password. The answer to a wrong one is delayed more
        each time, up to 5 s.
        """
        try:
            with self.proxy.client(password, single_connection_client=True, socket_timeout=LIMIT) as client:
                return client.ping()
        except redis.RedisError:
            return False

    ended = staticmethod(has_ended)

    def at_once(self, change: Callable[[], object], probe: Callable[[], object], what: str) -> None:
        """A change takes effect without a reload, of which there is one a day. Tests with their own
        clock, and benchmarks/refresh.py --watch, check how soon.
        """
        change()
        until(probe, what)


class ChangeTests(WatchCase):
    def setUp(self) -> None:
        super().setUp()
        self.start()

    def test_a_rotated_password(self) -> None:
        blue, green = self.client(BLUE, 3), self.client(GREEN, 5)
        before = len(self.api.requests)
        change = secret("team-blue", "redis-secret-master", redis_connection_string="redis://:rotated-password@redis:6379/3")
        self.at_once(
            lambda: self.api.put(change),
            lambda: self.ended(blue) and self.works("rotated-password"),
            "the new one alone works",
        )
        self.assertFalse(self.works(BLUE))
        self.assertTrue(green.ping())
        [request] = self.api.requests[before:]
        self.assertEqual(request.query["fieldSelector"], "metadata.name=redis-secret-master", "just this one was read")

    def test_secrets_and_namespaces_that_come_and_go(self) -> None:
        url = "redis://:temp-password@redis:6379/3"
        temporary = secret("team-blue", "redis-secret-temp-a", redis_connection_string=url, valid_hours="1")
        self.at_once(lambda: self.api.put(temporary), lambda: self.works("temp-password"), "a temporary credential")
        used, blue, green = self.client("temp-password", 3), self.client(BLUE, 3), self.client(GREEN, 5)
        self.at_once(
            lambda: self.api.delete("team-blue", "redis-secret-temp-a"), lambda: self.ended(used), "its session ends"
        )
        self.assertTrue(blue.ping())
        self.at_once(lambda: self.api.put(*tenant("team-red", 7, "red-password")), lambda: self.works("red-password"), "new")
        self.at_once(lambda: self.api.delete("team-blue", "redis-secret-master"), lambda: self.ended(blue), "no secret")
        self.at_once(lambda: self.api.delete("team-green"), lambda: self.ended(green), "no namespace")
        # The namespace is made again, without a secret: nothing of the old one returns.
        self.api.put(namespace("team-green"))
        self.at_once(lambda: self.api.delete("team-red"), lambda: not self.works("red-password"), "what came later is read")
        self.assertFalse(self.works(GREEN))

    def test_the_master_secret(self) -> None:
        other = RedisServer().start()
        self.addCleanup(other.stop)
        other.client(3).set("where", "other")
        url = f"redis://:{other.password}@127.0.0.1:{other.port}/0"

        def reached() -> bool:
            try:
                with self.proxy.client(BLUE, 3) as client:
                    return client.get("where") == b"other"
            except redis.RedisError:
                return False

        self.at_once(lambda: self.api.put(master(url)), reached, "the other Redis")
        # The log reports the missing secret, and the last good one stays in force.
        self.api.delete("kube-system", "redis-secret-master")
        self.proxy.logged("the master secret does not exist")
        self.assertTrue(reached())

    def test_what_does_not_matter_is_not_read(self) -> None:
        before = len(self.api.requests)
        self.api.put(namespace("other"), secret("other", "redis-secret-master", redis_connection_string="x"))
        self.api.put(secret("team-blue", "unrelated", redis_password="x"))
        self.at_once(
            lambda: self.api.put(*tenant("team-red", 7, "red-password")),
            lambda: self.works("red-password"),
            "what matters is",
        )
        self.assertEqual({r.path.removeprefix(NAMESPACES) for r in self.api.requests[before:]}, {"", "/team-red/secrets"})

    def test_limits_and_the_sessions_go_on(self) -> None:
        clients = [self.client(BLUE, 3) for _ in range(3)]
        before = len(self.api.requests)
        limited = namespace("team-blue", annotations={"redisproxy/max-connections": "2", "redisproxy/bytes-per-second": "x"})
        self.at_once(lambda: self.api.put(limited), lambda: not self.works(BLUE), "no more may come")
        self.assertEqual([client.ping() for client in clients], [True] * 3)
        [request] = self.api.requests[before:]
        self.assertEqual((request.path, request.query["fieldSelector"]), (NAMESPACES, "metadata.name=team-blue"))
        self.assertTrue(self.works(GREEN))
        self.proxy.logged("team-blue: annotation redisproxy/bytes-per-second is not a whole number from 0 to")
        self.at_once(lambda: self.api.put(namespace("team-blue")), lambda: self.works(BLUE), "as many as before")
        self.proxy.logged("fixed: team-blue: annotation redisproxy/bytes-per-second")
        self.assertEqual([client.ping() for client in clients], [True] * 3)

    def test_metadata_is_all_that_a_watch_is_asked_for(self) -> None:
        watches = [request for request in self.api.requests if request.watches]
        self.assertEqual(len(watches), 3)
        for request in watches:
            self.assertEqual(request.accept, "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
            self.assertTrue(request.says("allowWatchBookmarks"))
            self.assertTrue(60 <= int(request.query["timeoutSeconds"]) <= 75)


class TlsTests(WatchCase):
    tls = True

    def test_over_tls_and_a_prompt_end(self) -> None:
        self.start()
        change = tenant("team-blue", 3, "rotated-password")
        self.at_once(lambda: self.api.put(*change), lambda: self.works("rotated-password"), "the new password")
        # Within LIMIT, or `stop` raises. A watch lasts for a minute or more.
        self.assertEqual(self.proxy.stop(), 0)


class FaultTests(WatchCase):
    def test_a_watch_that_was_cut_misses_nothing(self) -> None:
        self.start()
        reads = self.lists()
        blue = self.client(BLUE, 3)
        self.api.fail_watches(ANY, refusal(503))
        self.api.cut_watches()
        self.proxy.logged("cannot be watched: 503 Service Unavailable")
        self.api.put(*tenant("team-blue", 3, "rotated-password"))
        self.assertFalse(self.ended(blue), "nobody told the proxy")
        self.api.fix()
        until(lambda: self.ended(blue) and self.works("rotated-password"), "what happened meanwhile is told after it")
        self.assertEqual(self.lists(), reads, "without reading everything again")

    def lists(self) -> int:
        """Returns how many times all namespaces were listed."""
        return len(
            [r for r in self.api.requests if r.path == NAMESPACES and "fieldSelector" not in r.query and not r.watches]
        )

    def test_too_old_to_go_on(self) -> None:
        self.start()
        for number, gone in enumerate((None, refusal(410))):
            blue = self.client(BLUE if not number else "rotated-password-0", 3)
            self.api.fail_watches(ANY, gone or refusal(503))
            self.api.cut_watches()
            before = len(self.api.requests)
            until(lambda before=before: len(self.api.requests) >= before + 3, "it has asked for the watches")
            self.api.put(*tenant("team-blue", 3, f"rotated-password-{number}"))
            self.api.compact()
            self.api.fix()
            until(lambda blue=blue: self.ended(blue), "all is read anew")
            self.assertTrue(self.works(f"rotated-password-{number}"))
            self.settled()

    def test_what_is_no_event(self) -> None:
        self.start()
        before = self.lists()
        self.api.say(b'{"type":"ADDED","object":"some-password"}\n')
        until(lambda: self.lists() > before, "all is read anew")
        until(lambda: len([request for request in self.api.requests if request.watches]) == 6, "they are open again")
        self.at_once(
            lambda: self.api.put(*tenant("team-red", 7, "red-password")), lambda: self.works("red-password"), "it goes on"
        )

    def test_the_api_server_is_away_for_a_while(self) -> None:
        self.start()
        blue = self.client(BLUE, 3)
        self.api.stop()
        self.proxy.logged(
            "cannot be watched: no answer from http://127.0.0.1:[0-9]+: NewConnectionError: Connection refused"
        )
        self.assertTrue(blue.ping())
        self.api.put(*tenant("team-blue", 3, "rotated-password"))
        self.api.start()
        until(lambda: self.ended(blue) and self.works("rotated-password"), "it takes effect after")
        until(lambda: self.proxy.log.count(WATCHED) == 2, "and is said to be watched again")
        self.assertEqual(self.proxy.log.count("cannot be watched"), 1, "one line, not one for each attempt or watch")

    def test_without_the_right_to_watch(self) -> None:
        self.api.fail_watches(ALL_SECRETS, refusal(403))
        self.start("--status", "tcp:0", watched=False)
        self.proxy.logged(
            "secrets cannot be watched: 403 Forbidden: the right to watch secrets in all namespaces is missing"
        )
        until(lambda: len(self.api.watches()) == 2, "the others are watched")
        self.at_once(
            lambda: self.api.put(*tenant("team-red", 7, "red-password")), lambda: self.works("red-password"), "a namespace"
        )
        blue = self.client(BLUE, 3)
        self.api.put(*tenant("team-blue", 3, "rotated-password"))
        self.proxy.refresh()
        until(lambda: self.ended(blue) and self.works("rotated-password"), "a refresh takes it up")
        self.assertEqual(self.proxy.log.count("cannot be watched"), 1)
        self.assertNotIn(WATCHED, self.proxy.log)
        found = metrics(int(self.proxy.logged(r"the status page is at \S+:(\d+)")[1]))
        self.assertEqual(found["redisproxy_watch_up", frozenset()], 0)
        self.assertEqual(found["redisproxy_watch_events_total", frozenset()], 3, "the master secret, and namespaces")

    def test_no_watch(self) -> None:
        self.start("--no-watch", watched=False)
        self.assertEqual([request for request in self.api.requests if request.watches], [])


class ManifestsTests(unittest.TestCase):
    """The same with files."""

    def test_a_file_that_is_replaced(self) -> None:
        installation = Installation("--refresh", "86400")
        self.addCleanup(installation.stop)
        with installation.blue(single_connection_client=True) as blue, installation.green() as green:
            self.assertTrue(blue.ping() and green.ping())
            documents = [master(installation.server.url), *tenant("team-green", 5, Installation.GREEN)]
            installation.manifests.write([*documents, *tenant("team-blue", 3, "rotated-password")])

            def ended() -> bool:
                try:
                    return not blue.ping()
                except (redis.ConnectionError, redis.AuthenticationError):
                    return True

            until(ended, "the session with the old password ends")
            with installation.proxy.client("rotated-password", 3) as rotated:
                self.assertTrue(rotated.ping() and green.ping())


class BurstTests(WatchCase):
    def test_many_changes_are_one_piece_of_work(self) -> None:
        """150 changes at once cost at most 150 requests, and no full read."""
        names = [f"team-{number:03}" for number in range(50)]
        for number, name in enumerate(names):
            self.api.put(*tenant(name, 10 + number, f"first-password-{number}"))
        self.start("--status", "tcp:0")
        before = len(self.api.requests)
        for turn in range(3):
            for number, name in enumerate(names):
                self.api.put(*tenant(name, 10 + number, f"turn-password-{turn}-{number}"))
        for number in range(50):
            until(lambda number=number: self.works(f"turn-password-2-{number}"), "the last of all is in force")
        self.settled()
        asked = self.api.requests[before:]
        self.assertEqual([request for request in asked if "fieldSelector" not in request.query], [])
        self.assertLessEqual(len(asked), 150)
        found = metrics(int(self.proxy.logged(r"the status page is at \S+:(\d+)")[1]))
        self.assertEqual(found["redisproxy_watch_up", frozenset()], 1)
