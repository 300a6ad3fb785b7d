"""Tests the proxy's ACL users in a real Redis: after a rotation of the master password, and after
tenants leave.
"""

from __future__ import annotations

import time
import unittest
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import redis

from redisproxy.policy import acl
from redisproxy.tenants.model import Tenant

from ..support.clients import client_once
from ..support.proxy import Installation, Manifests, ProxyProcess, master, tenant
from ..support.servers import MASTER_PASSWORD, RedisServer, redis_6, valkey
from ..support.waiting import until

OLD, NEW = MASTER_PASSWORD, "another-master-password"
#: Seconds between two reads of the manifests: the shortest interval that the proxy takes.
INTERVAL = 1.0


class UsersCase(unittest.TestCase):
    """server: the Redis. Each test starts the proxies that it needs."""

    def start_redis(self, binary: Callable[[], str] = valkey) -> RedisServer:
        self.server = RedisServer(binary).start()
        self.addCleanup(self.server.stop)
        self.admin = self.server.client()
        self.addCleanup(self.admin.close)
        return self.server

    def url(self, password: str) -> str:
        return f"redis://:{password}@127.0.0.1:{self.server.port}/0"

    def start_proxy(self, documents: list[dict], *options: str) -> tuple[ProxyProcess, Manifests]:
        manifests = Manifests(documents)
        self.addCleanup(manifests.remove)
        proxy = ProxyProcess("--manifests", str(manifests.path), "--refresh", f"{INTERVAL:g}", *options)
        self.addCleanup(proxy.stop)
        return proxy.ready(), manifests

    def logs_in(self, name: str, master_password: str) -> bool:
        """Returns whether a user's password, derived from this master password, opens Redis."""
        try:
            with self.client_as(name, master_password):
                return True
        except redis.AuthenticationError:
            return False

    def client_as(self, name: str, master_password: str) -> redis.Redis:
        """Returns a client that connects directly to Redis and has logged in as one of the proxy's
        users.
        """
        secret = acl.password(master_password.encode(), name).decode()
        return client_once(port=self.server.port, username=name, password=secret, protocol=2, single_connection_client=True)

    def make_user(self, name: str, *passwords: bytes) -> None:
        """Creates a user as the proxy does, with these passwords."""
        self.admin.execute_command("ACL", "SETUSER", name, "on", "~*", "+ping", *(b">" + each for each in passwords))

    def make_old_user(self, name: str) -> str:
        self.make_user(name, acl.password(OLD.encode(), name))
        return name

    def users(self) -> set[str]:
        return {name.decode() for name in self.admin.execute_command("ACL", "USERS")}


BLUE, GREEN, GONE, OLD_INDEX, OTHER = (
    acl.username(Tenant(*each))
    for each in (("team-blue", 3), ("team-green", 5), ("team-gone", 7), ("team-blue", 9), ("other-team-x", 4))
)


class RotationTests(UsersCase):
    def documents(self, password: str) -> list[dict]:
        return [
            master(self.url(password)),
            *tenant("team-blue", 3, Installation.BLUE),
            *tenant("team-green", 5, Installation.GREEN),
        ]

    def rotate(self) -> None:
        """Redis accepts both passwords from now on."""
        self.admin.execute_command("ACL", "SETUSER", "default", f">{NEW}")

    def assert_rotates(self, *options: str, binary: Callable[[], str] = valkey) -> None:
        self.start_redis(binary)
        proxy, manifests = self.start_proxy(self.documents(OLD), *options)
        blue = proxy.client(Installation.BLUE, 3, single_connection_client=True)
        self.addCleanup(blue.close)
        session = blue.client_id()
        blue.set("key", "value")
        with proxy.client(Installation.GREEN, 5) as green:
            green.ping()
        self.make_old_user(OTHER)
        # Open connections keep these users from being removed: only the old password is removed.
        held = []
        for name in (GREEN, self.make_old_user(GONE), OTHER):
            held.append(self.client_as(name, OLD))
            self.addCleanup(held[-1].close)
            held[-1].ping()
        self.rotate()
        manifests.write(self.documents(NEW))
        until(lambda: self.logs_in(GREEN, NEW) and self.logs_in(GONE, NEW), "idle and left over users have the new password")
        until(lambda: not self.logs_in(GREEN, OLD) and not self.logs_in(GONE, OLD), "… and it alone")
        until(lambda: not self.logs_in(BLUE, OLD), "the one in use, too")
        self.assertTrue(self.logs_in(GREEN, NEW))
        self.assertTrue(self.logs_in(BLUE, NEW))
        self.assertTrue(self.logs_in(OTHER, OLD), "that of another prefix is somebody else's")
        # Open sessions stay, those of the proxy and others.
        self.assertEqual((blue.get("key"), blue.client_id()), (b"value", session))
        for client in held:
            self.assertTrue(client.ping())
        self.assertIn(OTHER, self.users())
        self.assertNotIn(acl.password(NEW.encode(), GREEN).decode(), proxy.log)

    def test_old_passwords_of_all_users_end(self) -> None:
        self.assert_rotates()

    def test_old_passwords_of_all_users_end_redis_6(self) -> None:
        self.assert_rotates(binary=redis_6)

    def test_old_passwords_of_all_users_end_with_several_processes(self) -> None:
        self.assert_rotates("--processes", "2")

    def test_a_proxy_that_learns_of_it_later(self) -> None:
        """No log-in fails at any moment: some proxies know the new password, some still the old
        one, and proxies start meanwhile with either.
        """
        self.start_redis()
        options = ("--connections", "dedicated")  # each session logs in to Redis
        proxies = [self.start_proxy(self.documents(OLD), *options) for _ in range(2)]
        threads = ThreadPoolExecutor(16)
        self.addCleanup(threads.shutdown)
        sessions: list[redis.Redis] = []
        self.addCleanup(lambda: [session.close() for session in sessions])

        def at(proxy: ProxyProcess) -> None:
            # The sessions stay open, so that there is no idle connection to Redis to use again.
            sessions.append(proxy.client(Installation.BLUE, 3, single_connection_client=True))

        def log_in(seconds: float) -> None:
            """Logs in at all proxies, several clients at once, repeatedly."""
            for _ in range(int(seconds / 0.1)):
                for logging_in in [threads.submit(at, proxy) for _ in range(5) for proxy, _ in proxies]:
                    logging_in.result()
                time.sleep(0.05)

        log_in(0.5 * INTERVAL)
        self.rotate()
        proxies[0][1].write(self.documents(NEW))
        log_in(0.5 * INTERVAL)
        proxies.append(self.start_proxy(self.documents(NEW), *options))
        proxies.append(self.start_proxy(self.documents(OLD), *options))
        log_in(2 * INTERVAL)
        for _, manifests in proxies:
            manifests.write(self.documents(NEW))
        log_in(1.5 * INTERVAL)
        until(lambda: not self.logs_in(BLUE, OLD), "the old one ends")
        self.assertTrue(self.logs_in(BLUE, NEW))
        for session in sessions:
            self.assertTrue(session.ping())
        for proxy, _ in proxies:
            self.assertNotIn("does not know the user", proxy.log)

    def test_a_restart_before_it_is_over(self) -> None:
        """After a restart no proxy remembers the old password, and it still ends. The same is so
        for a password that Redis restored from its configuration.
        """
        self.start_redis()
        for name in (GREEN, GONE):
            self.make_user(name, *(acl.password(each.encode(), name) for each in (OLD, NEW)))
        held = self.client_as(GONE, OLD)
        self.addCleanup(held.close)
        self.rotate()
        self.start_proxy(self.documents(NEW))
        until(lambda: not self.logs_in(GREEN, OLD) and not self.logs_in(GONE, OLD), "it has the new one alone")
        self.assertTrue(self.logs_in(GREEN, NEW) and held.ping())


class RemovalTests(UsersCase):
    def documents(self, *tenants: list[dict]) -> list[dict]:
        return [master(self.url(OLD)), *(document for each in tenants for document in each)]

    def removed(self, *options: str) -> None:
        blue, green = tenant("team-blue", 3, Installation.BLUE), tenant("team-green", 5, Installation.GREEN)
        longer = tenant("team-green-2", 6, "another-password")
        self.start_redis()
        names = [GONE, OLD_INDEX, OTHER, "redisproxy:team:8", "somebody"]
        for name in names:
            self.make_old_user(name)
        used = self.client_as("redisproxy:team-used:11", OLD) if self.make_old_user("redisproxy:team-used:11") else None
        self.addCleanup(used.close)
        proxy, manifests = self.start_proxy(self.documents(blue, green, longer), *options)
        for password, index in ((Installation.BLUE, 3), (Installation.GREEN, 5), ("another-password", 6)):
            with proxy.client(password, index) as client:
                client.ping()
        until(lambda: not {GONE, OLD_INDEX} & self.users(), "those that nobody needs are removed")
        self.assertTrue(used.ping(), "one that a connection uses stays")
        # A tenant counts as deleted only after a successful read.
        (manifests.path / "all.yaml").write_text("{")
        proxy.logged("its last good content stays in force")
        time.sleep(3 * INTERVAL)
        self.assertTrue({BLUE, GREEN} <= self.users())
        held = self.client_as(GREEN, OLD)
        self.addCleanup(held.close)
        manifests.write(self.documents(blue, longer))
        until(lambda: GREEN not in self.users(), "the user of a namespace that is gone is removed")
        with self.assertRaises(redis.RedisError):
            held.ping()
        others = {
            BLUE,
            "redisproxy:team-green-2:6",
            OTHER,
            "redisproxy:team:8",
            "redisproxy:team-used:11",
            "somebody",
            "default",
        }
        self.assertEqual(self.users(), others)
        # The tenant moves to another database. The connection to Redis that was kept for it does
        # not keep its former user.
        manifests.write(self.documents(tenant("team-blue", 4, Installation.BLUE), longer))
        until(lambda: BLUE not in self.users(), "the user of its former database is removed", 60)
        with proxy.client(Installation.BLUE, 4) as client:
            self.assertTrue(client.set("key", "value"))

    def test_who_is_gone_is_removed(self) -> None:
        self.removed("--worker-idle-timeout", "1")

    def test_who_is_gone_is_removed_with_several_processes(self) -> None:
        self.removed("--worker-idle-timeout", "1", "--processes", "2")

    def test_two_proxies_with_prefixes_of_their_own_share_a_redis(self) -> None:
        self.start_redis()
        ours, _ = self.start_proxy(self.documents(tenant("team-blue", 3, Installation.BLUE)))
        theirs, _ = self.start_proxy(
            self.documents(tenant("other-team-x", 4, "password-of-theirs")), "--ns-prefix", "other-"
        )
        for proxy, password, index in ((ours, Installation.BLUE, 3), (theirs, "password-of-theirs", 4)):
            with proxy.client(password, index) as client:
                client.ping()
        for name in (self.make_old_user("redisproxy:team-gone:7"), self.make_old_user("redisproxy:other-gone:8")):
            until(lambda: name not in self.users(), "each removes its own")  # noqa: B023
        time.sleep(3 * INTERVAL)
        self.assertEqual(self.users(), {BLUE, OTHER, "default"})
