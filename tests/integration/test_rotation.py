"""Tests the rotation of the master password by the steps of docs/operate.md, on a real Redis with a
configuration file, a replica and a sentinel: each step survives a restart of Redis.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import unittest
from collections.abc import Callable
from pathlib import Path

import redis

from redisproxy.policy import acl
from redisproxy.tenants.model import Tenant

from ..support.clients import client_once
from ..support.proxy import Installation, Manifests, ProxyProcess, master, tenant
from ..support.sentinels import NAME, SentinelProcess
from ..support.servers import MASTER_PASSWORD, ConfiguredServer, debian, redis_6, redis_7, valkey, valkey_8
from ..support.waiting import until

OLD, NEW = MASTER_PASSWORD, "another-master-password"
PAGE = Path(__file__).parents[2] / "docs/operate.md"
BLUE = acl.username(Tenant("team-blue", 3))


def documented() -> tuple[list[list[str]], list[list[str]]]:
    """Returns the arguments of `redis-cli` in the page's section, before and after the change of
    the master secret.
    """
    section = re.search(r"\n### The master password\n.*?\n### ", PAGE.read_text(), re.DOTALL)[0]
    before, after = re.split(r"\n +kubectl .*edit secret.*\n", section)
    values = {"NEW": NEW, "OLD": OLD, "MASTER-NAME": NAME}

    def calls(text: str) -> list[list[str]]:
        found = re.findall(r"^ +redis-cli (.*)$", text, re.MULTILINE)
        return [
            [re.sub("NEW|OLD|MASTER-NAME", lambda m: values[m[0]], word) for word in shlex.split(call)] for call in found
        ]

    return calls(before), calls(after)


class DocumentedRotationTests(unittest.TestCase):
    def setUp(self) -> None:
        self.cli = debian("redis-cli")

    def call(self, port: int, password: str, *arguments: str) -> None:
        """Calls `redis-cli` as an operator does."""
        command = [self.cli, "-p", str(port), *arguments]
        environ = {"REDISCLI_AUTH": password} if password else {}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=20, check=True)
        self.assertEqual(done.stdout.strip(), "OK", arguments)

    def do(self, calls: list[list[str]], password: str, aclfile: bool) -> None:
        """Runs one half of the page's commands, for each Redis and the sentinel."""
        for call in calls:
            if call[:2] == ["-p", "26379"]:
                self.call(self.sentinel.port, "", *call[2:])
                continue
            for server in (self.master, self.replica):
                self.call(server.port, password, *call)
                if aclfile and call == ["CONFIG", "REWRITE"]:
                    self.call(server.port, password, "ACL", "SAVE")

    def start_redis(self, binary: Callable[[], str], aclfile: bool) -> None:
        def make(*settings: str) -> ConfiguredServer:
            settings = (f"masterauth {OLD}", "repl-diskless-sync-delay 0", *settings)
            # With an ACL file Redis ignores requirepass.
            server = ConfiguredServer(binary, *settings, password="" if aclfile else OLD)
            self.addCleanup(server.stop)
            if aclfile:
                file = Path(server.directory) / "users.acl"
                file.write_text(f"user default on >{OLD} ~* &* +@all\n")
                server.change(*settings, f"aclfile {file}")
            return server.start()

        self.master = make()
        self.replica = make(f"replicaof 127.0.0.1 {self.master.port}")
        self.sentinel = SentinelProcess(binary, f"127.0.0.1 {self.master.port}").start()
        self.addCleanup(self.sentinel.stop)

    def opens(self, server: ConfiguredServer, password: str) -> bool | None:
        """Returns whether Redis accepts a master password; None if it does not answer."""
        try:
            with client_once(port=server.port, password=password, protocol=2, single_connection_client=True):
                return True
        except redis.AuthenticationError:
            return False
        except redis.RedisError:
            return None

    def assert_whole(self, password: str) -> None:
        """The replica replicates, the sentinel sees both servers, and tenants are served, in old
        and new sessions.
        """
        with redis.Redis(port=self.replica.port, password=password, protocol=2) as replica:
            until(lambda: replica.info("replication")["master_link_status"] == "up", "the replica replicates")
        for server in (self.master, self.replica):
            until(lambda: self.is_watched(server, password), "the sentinel is logged in")  # noqa: B023
        self.assertTrue(self.serves(), "tenants are served")

    def is_watched(self, server: ConfiguredServer, password: str) -> bool:
        """Returns whether the sentinel is connected and logged in there: otherwise it could not
        name its connection.
        """
        with redis.Redis(port=server.port, password=password, protocol=2, decode_responses=True) as client:
            return any(each["name"].startswith("sentinel-") for each in client.client_list())

    def serves(self) -> bool:
        """Returns whether the old session is served, and a new one."""
        try:
            with self.proxy.client(Installation.BLUE, 3) as other:
                return self.session.ping() and other.set("key", "value") and self.session.get("key") == b"value"
        except redis.ResponseError:
            return False

    def restart(self, password: str) -> None:
        """Restarts everything, as after a crash."""
        self.sentinel.kill()
        self.sentinel.start()
        for server in (self.master, self.replica):
            server.restart()
            until(lambda: self.opens(server, password) is not None, "Redis answers")  # noqa: B023
        until(self.serves, "tenants are served again")
        self.assert_whole(password)

    def rotate(self, binary: Callable[[], str], aclfile: bool = False) -> None:
        first, second = documented()
        self.start_redis(binary, aclfile)
        documents = tenant("team-blue", 3, Installation.BLUE)

        def url(password: str) -> str:
            return f"redis://:{password}@127.0.0.1:{self.master.port}/0"

        manifests = Manifests([master(url(OLD)), *documents])
        self.addCleanup(manifests.remove)
        self.proxy = ProxyProcess("--manifests", str(manifests.path), "--refresh", "1")
        self.addCleanup(self.proxy.stop)
        self.session = self.proxy.ready().client(Installation.BLUE, 3, single_connection_client=True)
        self.addCleanup(self.session.close)
        self.assert_whole(OLD)

        self.do(first, OLD, aclfile)
        self.assertTrue(self.serves())
        self.restart(OLD)
        for server in (self.master, self.replica):
            self.assertEqual((self.opens(server, OLD), self.opens(server, NEW)), (True, True))
        manifests.write([master(url(NEW)), *documents])
        self.proxy.logged("1 ACL users have only the password derived from the new master password")
        self.assertTrue(self.serves())
        self.restart(NEW)  # the users return as they were saved in the first half
        until(lambda: not self.user_opens(OLD), "the user's old password ends again")

        self.do(second, NEW, aclfile)
        self.assertTrue(self.serves())
        for _ in range(2):
            for server in (self.master, self.replica):
                self.assertEqual((self.opens(server, OLD), self.opens(server, NEW)), (False, True))
            self.assert_whole(NEW)
            self.assertEqual((self.user_opens(OLD), self.user_opens(NEW)), (False, True))
            self.restart(NEW)

    def user_opens(self, password: str) -> bool:
        """Returns whether the tenant's user has the password derived from this master password."""
        secret = acl.password(password.encode(), BLUE).decode()
        try:
            with client_once(
                port=self.master.port, username=BLUE, password=secret, protocol=2, single_connection_client=True
            ):
                return True
        except redis.AuthenticationError:
            return False

    def test_it_lasts_redis_6(self) -> None:
        self.rotate(redis_6)

    def test_it_lasts_redis_7(self) -> None:
        self.rotate(redis_7)

    def test_it_lasts_valkey_9(self) -> None:
        self.rotate(valkey)

    def test_it_lasts_with_an_acl_file(self) -> None:
        self.rotate(valkey_8, aclfile=True)
