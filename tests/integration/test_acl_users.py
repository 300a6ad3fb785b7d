"""The proxy's ACL users in a real Redis: what becomes of them when the master password is rotated, and when tenants leave."""

from __future__ import annotations

import unittest
from collections.abc import Callable

import redis

from redisproxy.core import acl
from redisproxy.core.tenants import Tenant

from ..support.proxy import Installation, Manifests, ProxyProcess, master, tenant
from ..support.servers import MASTER_PASSWORD, RedisServer, redis_6, valkey
from ..support.waiting import until

OLD, NEW = MASTER_PASSWORD, "another-master-password"
#: Seconds between two reads of the manifests, the shortest that there is.
INTERVAL = 1.0


class UsersCase(unittest.TestCase):
    """server: the Redis; each test starts the proxies that it needs."""

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
        """Whether a user's password that follows from a master password opens Redis."""
        try:
            with self.client_as(name, master_password):
                return True
        except redis.AuthenticationError:
            return False

    def client_as(self, name: str, master_password: str) -> redis.Redis:
        """A client straight to Redis, which has logged in as one of the proxy's users."""
        secret = acl.password(master_password.encode(), name).decode()
        return redis.Redis(port=self.server.port, username=name, password=secret, protocol=2, single_connection_client=True)

    def make_user(self, name: str, *passwords: bytes) -> None:
        """A user as the proxy makes it, with these passwords."""
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
        """In Redis both are good from now on."""
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
        # Their connections keep them from being removed: what is removed is the password.
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
        # Sessions that were open stay, the proxy's and others.
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
