"""Tests how real processes probe Redis: one that is busy, that refuses, or that hides its
commands.
"""

from __future__ import annotations

import threading
import time
import unittest
from collections.abc import Callable

import redis

from ..support.faults import FaultyRedis
from ..support.proxy import Installation, Manifests, ProxyProcess, master, tenant
from ..support.sentinels import NAME, SentinelProcess
from ..support.servers import RedisServer, on_every_server, valkey
from ..support.status import ask, status_port
from ..support.waiting import until

#: The beginning of the probe's question whether scripts are sealed. Tenants' scripts begin
#: differently.
UNSEALED = "EVAL \n"
ODD = "ERR this plan does not include administrative commands"


class Behind(Installation):
    """An installation whose proxy reaches Redis through a server that refuses the given
    commands.
    """

    def __init__(self, *options: str, faults: dict[str, str | None], server: RedisServer | None = None) -> None:
        server = (server or RedisServer()).start()
        self.faulty = FaultyRedis(server.port)
        self.faulty.faults = dict(faults)
        server.start = lambda: server
        super().__init__(*options, server=server)

    def documents(self) -> list[dict]:
        return [
            master(self.faulty.url(self.server.password)),
            *tenant("team-blue", 3, self.BLUE),
            *tenant("team-green", 5, self.GREEN),
        ]

    def stop(self) -> None:
        self.faulty.stop()
        super().stop()


class WithFar(Installation):
    """An installation with a tenant whose database Redis does not have."""

    FAR = "far-password"

    def documents(self) -> list[dict]:
        return [*super().documents(), *tenant("team-far", 99, self.FAR)]


class ProbingCase(unittest.TestCase):
    def users(self, server: RedisServer) -> set[tuple[str, str]]:
        """Returns (database, user) of each connection to Redis whose database is not 0."""
        return {(client["db"], client["user"]) for client in server.client().client_list() if client["db"] != "0"}

    def ready(self, installation: Installation) -> str:
        """Returns the text of /readyz, or an empty string if the proxy is ready."""
        status, _, text = ask(status_port(installation), "/readyz")
        return "" if status == 200 else text.strip()

    def assertTwoLayers(self, proxy: ProxyProcess) -> None:
        self.assertNotIn("one isolation layer", proxy.log)
        self.assertIn("two isolation layers: ", proxy.log)
        self.assertNotIn("Traceback", proxy.log)


class BusyTests(ProbingCase):
    """A tenant runs script after script. Each runs longer than the time after which Redis answers
    others with BUSY.
    """

    SCRIPT = """
        local function now() local time = redis.call('TIME') return time[1] * 1000000 + time[2] end
        local till = now() + 30000
        while now() < till do end
    """

    def attack(self, installation: Installation) -> Callable[[], None]:
        ended = threading.Event()

        def run() -> None:
            with installation.green() as green:
                while not ended.is_set():
                    try:
                        green.eval(self.SCRIPT, 0)
                    except redis.RedisError:
                        pass
                    # In these moments Redis answers some commands of the probe, and not the others.
                    time.sleep(0.01)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def end() -> None:
            ended.set()
            thread.join()

        return end

    def test_nobody_has_the_masters_rights_after_it(self) -> None:
        installation = WithFar("--status", "tcp:0", server=RedisServer(valkey, "lua-time-limit 5"))
        self.addCleanup(installation.stop)
        straight = installation.server.client()
        self.assertTrue(installation.blue().set("a", 1))
        end = self.attack(installation)
        ending = time.monotonic() + 6
        while time.monotonic() < ending:
            # The control connection is opened again a second later, while Redis is busy.
            try:
                for client in straight.client_list():
                    if client["name"] == "redisproxy-control":
                        straight.client_kill_filter(_id=client["id"])
            except redis.RedisError:
                pass
            for client in (installation.blue(), installation.proxy.client(installation.FAR, 99)):
                with client:
                    try:
                        client.ping()
                        self.assertNotEqual(client.connection_pool.connection_kwargs["db"], 99)
                    except redis.RedisError:
                        pass
            time.sleep(0.1)
        end()
        until(lambda: not self.ready(installation), "ready again")
        blue = installation.blue()
        self.assertEqual(blue.get("a"), b"1")
        self.assertEqual(blue.eval("return 1", 0), 1)
        self.assertEqual(
            {user for _, user in self.users(installation.server)} - {"redisproxy:team-blue:3", "redisproxy:team-green:5"},
            set(),
        )
        self.assertTwoLayers(installation.proxy)
        with self.assertRaises(redis.AuthenticationError):
            installation.proxy.client(installation.FAR, 99).ping()

    def test_one_error_at_the_question_for_acls(self) -> None:
        """The same fault without chance: INFO is answered, and ACL SETUSER is not."""
        busy = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."
        installation = Behind("--status", "tcp:0", faults={"ACL SETUSER": busy, "CONFIG": busy, "COMMAND": busy})
        self.addCleanup(installation.stop)
        until(lambda: any(command.startswith("ACL SETUSER") for command in installation.faulty.refused), "it asked")
        with installation.blue(socket_timeout=1) as blue, self.assertRaises(redis.RedisError):
            blue.ping()
        self.assertEqual(self.users(installation.server), set())
        installation.proxy.logged(
            r"did not report its version and settings, and is asked again: CONFIG GET databases, COMMAND, ACL SETUSER.*: BUSY"
        )
        self.assertEqual(self.ready(installation), "Redis has not reported its version and settings yet")
        installation.faulty.faults.clear()
        until(lambda: not self.ready(installation), "ready")
        self.assertTrue(installation.blue().set("a", 1))
        self.assertEqual(self.users(installation.server), {("3", "redisproxy:team-blue:3")})
        self.assertTwoLayers(installation.proxy)


@on_every_server
class HiddenCommandTests(ProbingCase):
    def serves(self, installation: Installation) -> None:
        self.addCleanup(installation.stop)
        until(lambda: not self.ready(installation), "ready")
        blue = installation.blue(protocol=2)
        self.addCleanup(blue.close)
        self.assertTrue(blue.set("a", 1))
        self.assertEqual(blue.get("a"), b"1")
        self.assertEqual(blue.object("encoding", "a"), b"int")
        with self.assertRaises(redis.ResponseError):
            blue.execute_command("CONFIG", "SET", "maxmemory", "1")
        self.assertEqual(self.users(installation.server), {("3", "redisproxy:team-blue:3")})
        self.assertTwoLayers(installation.proxy)

    def each_command_renamed_away(self, binary: Callable[[], str]) -> None:
        server = RedisServer(binary, 'rename-command COMMAND ""')
        self.serves(Installation("--status", "tcp:0", server=server))

    def each_command_forbidden_to_the_master(self, binary: Callable[[], str]) -> None:
        """The master has no CONFIG either: then the number of databases is unknown, and Redis
        itself refuses an index that it does not have.
        """

        class Weak(Installation):
            def documents(self) -> list[dict]:
                self.server.client().execute_command(
                    "ACL", "SETUSER", "proxy", "on", ">weak", "+@all", "-command", "-config", "~*", "&*"
                )
                url = f"redis://proxy:weak@127.0.0.1:{self.server.port}/0"
                return [master(url), *tenant("team-blue", 3, self.BLUE), *tenant("team-green", 5, self.GREEN)]

        installation = Weak("--status", "tcp:0", server=RedisServer(binary))
        self.serves(installation)
        installation.proxy.logged("with an unknown number of databases")


class SealedTests(ProbingCase):
    def seen_later(self, *options: str) -> None:
        """Open sessions may run scripts as soon as the probe succeeds, over the connections that
        they have.
        """
        oom = "OOM command not allowed when used memory > 'maxmemory'."
        installation = Behind(*options, faults={UNSEALED: oom})
        self.addCleanup(installation.stop)
        blue = installation.blue(single_connection_client=True)
        self.addCleanup(blue.close)
        self.assertTrue(blue.set("a", 1))
        opened = {client["id"] for client in installation.server.client().client_list() if client["db"] == "3"}
        with self.assertRaises(redis.exceptions.NoPermissionError):
            blue.eval("return redis.call('GET', KEYS[1])", 1, "a")
        installation.faulty.faults.clear()

        def runs() -> bool:
            try:
                return blue.eval("return redis.call('GET', KEYS[1])", 1, "a") == b"1"
            except redis.exceptions.NoPermissionError as error:
                # Redis has the new rights before the session does.
                self.assertIn("is not available here", str(error))
                return False

        until(runs, "it may run scripts")
        still = {client["id"] for client in installation.server.client().client_list() if client["db"] == "3"}
        # Scripts have a connection of their own, which is opened at the first one.
        self.assertLessEqual(opened, still)
        self.assertTwoLayers(installation.proxy)

    def test_over_a_shared_connection(self) -> None:
        self.seen_later("--connections", "multiplexed")

    def test_over_a_connection_of_its_own(self) -> None:
        self.seen_later("--connections", "dedicated")


class LostRightTests(ProbingCase):
    """The master's user loses the right to create users while the proxy runs."""

    def lost(self, *options: str) -> None:
        installation = Installation("--status", "tcp:0", *options)
        self.addCleanup(installation.stop)
        straight = installation.server.client()
        straight.execute_command("ACL", "SETUSER", "admin", "on", ">admin", "+@all", "~*", "&*")
        admin = redis.Redis(port=installation.server.port, username="admin", password="admin")
        self.addCleanup(admin.close)
        until(lambda: not self.ready(installation), "ready")
        blue = installation.blue()
        self.addCleanup(blue.close)
        self.assertTrue(blue.set("a", 1))
        straight.execute_command("ACL", "SETUSER", "default", "-acl")
        waiting: list[redis.Redis] = []
        self.addCleanup(lambda: [client.close() for client in waiting])

        def refused() -> bool:
            # Each opens another connection, so that all processes notice.
            client = installation.green()
            waiting.append(client)
            with self.assertRaises(redis.RedisError):
                client.ping()
            return self.ready(installation) == "Redis no longer lets the proxy create the tenants' ACL users"

        until(refused, "not ready")
        installation.proxy.logged(r"did not report its version and settings, and is asked again: .*ACL SETUSER.*: NOPERM ")
        self.assertEqual(blue.get("a"), b"1")
        self.assertTrue(all(client["user"] != "default" for client in admin.client_list() if client["db"] != "0"))
        admin.execute_command("ACL", "SETUSER", "default", "+acl")
        until(lambda: not self.ready(installation), "ready again")
        self.assertTrue(installation.green().set("b", 1))
        self.assertTwoLayers(installation.proxy)

    def test_one_process(self) -> None:
        self.lost("--processes", "1")

    def test_two_processes(self) -> None:
        self.lost("--processes", "2")


class NoConnectionsTests(ProbingCase):
    """The control connection stays open and Redis accepts no other: readiness must not depend on
    the control connection alone.
    """

    def test_too_many(self) -> None:
        installation = Installation("--status", "tcp:0", "--hold-seconds", "0.5")
        self.addCleanup(installation.stop)
        until(lambda: not self.ready(installation), "ready")
        straight = installation.server.client()
        straight.config_set("maxclients", 1)
        with installation.blue() as blue, self.assertRaises(redis.ConnectionError):
            # uses the connection that was opened at the start: its user is created, and another is
            # opened
            blue.ping()
            installation.green().ping()
        until(lambda: self.ready(installation) == "Redis refuses new connections of the proxy", "not ready")
        straight.config_set("maxclients", 1000)
        until(lambda: not self.ready(installation), "ready again, though nobody came")
        self.assertTrue(installation.green().set("a", 1))


class HostedTests(ProbingCase):
    def test_one_that_refuses_in_its_own_words(self) -> None:
        """A Redis that refuses with an unknown error is not served until the operator decides."""
        refused = dict.fromkeys(("ACL", "CONFIG", "COMMAND"), ODD)
        installation = Behind("--status", "tcp:0", faults=refused)
        self.addCleanup(installation.stop)
        installation.proxy.logged(
            "if a hosted Redis always answers like this, set --acl off: the proxy then creates no ACL users, and refuses "
            "scripts"
        )
        self.assertEqual(self.ready(installation), "Redis has not reported its version and settings yet")
        without = Behind("--acl", "off", "--status", "tcp:0", faults=refused)
        self.addCleanup(without.stop)
        until(lambda: not self.ready(without), "ready")
        self.assertTrue(without.blue().set("a", 1))
        without.proxy.logged("one isolation layer, the proxy's policy: .* scripts are refused")


class RoleTests(ProbingCase):
    """An error does not say whether a server is the master."""

    BUSY = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."

    def test_a_master_of_the_sentinels_that_does_not_tell(self) -> None:
        server = RedisServer().start()
        self.addCleanup(server.stop)
        faulty = FaultyRedis(server.port)
        self.addCleanup(faulty.stop)
        faulty.faults["INFO replication"] = self.BUSY
        sentinel = SentinelProcess(valkey, f"127.0.0.1 {faulty.port}").start()
        self.addCleanup(sentinel.stop)
        url = f"redis+sentinel://:{server.password}@127.0.0.1:{sentinel.port}/{NAME}"
        manifests = Manifests([master(url), *tenant("team-blue", 3, "blue-password")])
        self.addCleanup(manifests.remove)
        proxy = ProxyProcess("--manifests", str(manifests.path))
        self.addCleanup(proxy.stop)
        proxy.logged("no connection to Redis: the sentinels say .* which does not report whether it is a replica: BUSY ")
        self.assertNotIn("Redis is at", proxy.log)
        faulty.faults.clear()
        proxy.logged("Redis is at")
        blue = proxy.client("blue-password", 3)
        self.addCleanup(blue.close)
        until(lambda: set_at_last(blue), "it serves")

    def test_a_replica_that_does_not_tell(self) -> None:
        installation = Behind(faults={})
        self.addCleanup(installation.stop)
        blue = installation.blue()
        self.addCleanup(blue.close)
        self.assertTrue(blue.set("a", 1))
        installation.faulty.faults["INFO replication"] = self.BUSY
        installation.server.client().execute_command("REPLICAOF", "127.0.0.1", "1")
        with self.assertRaises(redis.ReadOnlyError):
            blue.set("a", 2)
        until(lambda: installation.faulty.refused, "it is asked")
        installation.faulty.faults.clear()
        installation.proxy.logged("reports that it is a replica, and refuses writes")


def set_at_last(client: redis.Redis) -> bool:
    try:
        return bool(client.set("a", 1))
    except redis.RedisError:
        return False
