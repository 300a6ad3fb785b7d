"""Tests a directory of manifests as people leave it: files that are no manifests, a half-written
file, secrets with odd values.

A real `twistd` and a real Redis show which tenants are served, and what the log reports.
"""

from __future__ import annotations

import unittest

import redis
import yaml

from ..support.proxy import Manifests, ProxyProcess, has_ended, secret, tenant
from ..support.servers import RedisServer
from ..support.waiting import until

#: YAML would read this number as 83, which is another password.
OCTAL = "0123"


class ManifestsTests(unittest.TestCase):
    def setUp(self) -> None:
        self.server = RedisServer(password=OCTAL).start()
        self.addCleanup(self.server.stop)
        self.manifests = Manifests([*tenant("team-blue", 3, "blue-password"), *tenant("team-green", 12, "green-password")])
        self.addCleanup(self.manifests.remove)
        self.put("master.yaml", self.master(OCTAL))

    def master(self, password: str) -> str:
        return (
            "kind: Secret\nmetadata: {name: redis-secret-master, namespace: kube-system}\nstringData:\n"
            f"  redis-connection-string: redis://127.0.0.1:{self.server.port}/0\n  redis-password: {password}\n"
        )

    def put(self, name: str, text: str) -> None:
        """Writes the file in place, as an editor does."""
        (self.manifests.path / name).write_text(text)

    def start(self) -> ProxyProcess:
        proxy = ProxyProcess("--manifests", str(self.manifests.path))
        self.addCleanup(proxy.stop)
        return proxy.ready()

    def works(self, proxy: ProxyProcess, password: str) -> bool:
        try:
            with proxy.client(password, single_connection_client=True) as client:
                return client.ping()
        except redis.RedisError:
            return False

    def test_what_fails_at_the_start_costs_itself_alone(self) -> None:
        self.put("._all.yaml", "\0\5\26\7\t:")
        self.put("bad.yaml", "kind: Secret\nstringData:\n\tredis-password: hunter2secret\n")
        self.put(
            "odd.yaml",
            "kind: Secret\nmetadata: {name: !x y, note: =, <<: 3}\nstringData: {redis-password: !!bool hunter2}\n",
        )
        # The namespace claims database 3, which has an owner, with a URL that cannot be read.
        self.put("claims.yaml", yaml.safe_dump_all(tenant("team-red", 3, "red-hunter2/x", "2026-02-01T00:00:00Z")))
        proxy = self.start()
        for password in ("blue-password", "green-password"):
            self.assertTrue(self.works(proxy, password))
        self.assertFalse(self.works(proxy, "red-hunter2/x"))
        proxy.logged(r"bad.yaml: it is not YAML or JSON \(line 3, column 1\): nothing in it is in force")
        proxy.logged(r"team-red/redis-secret-master: redis-connection-string has an @ after a / \? or #")
        self.put("master.yaml", self.master("!!bool hunter2secret"))
        self.put("bad.yaml", "")
        proxy.logged("fixed: bad.yaml")
        self.assertNotIn("hunter2", proxy.log)
        self.assertNotIn("Traceback", proxy.log)
        self.assertNotIn("._all", proxy.log)

    def test_one_that_is_half_written_gives_and_takes_nothing(self) -> None:
        path = self.manifests.path / "all.yaml"
        whole = path.read_text()
        self.assertIn("/12\n", whole)
        proxy = self.start()
        with proxy.client("green-password", 12, single_connection_client=True) as green:
            green.set("mine", "12")
            end = whole.index("/12\n") + len("/1")
            # The writer stops here for longer than the time between two reads.
            path.write_text(whole[:end])
            for _ in range(8):
                proxy.refresh()
                self.assertEqual(green.get("mine"), b"12")
                until(lambda: self.works(proxy, "green-password"), "new sessions, too")
            path.write_text(whole)
            self.assertEqual(green.get("mine"), b"12")
            # A change that lasts is accepted.
            path.write_text(yaml.safe_dump_all(tenant("team-blue", 3, "blue-password")))
            until(lambda: has_ended(green), "the session of what was taken away ends")
        self.assertFalse(self.works(proxy, "green-password"))
        self.assertTrue(self.works(proxy, "blue-password"))

    def test_a_temporary_password_is_not_revived_by_touching_its_file(self) -> None:
        url = "redis://:temp-password@redis:6379/3"
        self.put(
            "temp.yaml",
            yaml.safe_dump(secret("team-blue", "redis-secret-temp-x", redis_connection_string=url, valid_hours="1")),
        )
        proxy = self.start()
        proxy.logged("team-blue/redis-secret-temp-x: it has valid_hours, but no metadata.creationTimestamp")
        (self.manifests.path / "temp.yaml").touch()
        proxy.refresh()
        self.assertFalse(self.works(proxy, "temp-password"))
        self.assertTrue(self.works(proxy, "blue-password"))
