"""Two tenants in the small API server, and the objects that read them."""

from __future__ import annotations

from pathlib import Path

from twisted.trial import unittest

from redisproxy.sources.hints import ChangeQueue
from redisproxy.sources.kubernetes import ClusterSource
from redisproxy.sources.kubernetes_api import KubernetesApi
from redisproxy.sources.kubernetes_watch import ClusterWatches
from redisproxy.tenants.documents import FullRead, ReadFailure
from redisproxy.tenants.enrolment import Enrolment

from .apiserver import NAMESPACES, ApiServer
from .proxy import PREFIX, master, secret, tenant
from .waiting import LIMIT

MASTER = ("kube-system", "redis-secret-master")
CLIENT = "redis-secret-master"
BLUE = ("team-blue", CLIENT)


class SourceCase(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.api = ApiServer(
            master("redis://:master-password@redis:6379/0"),
            *tenant("team-blue", 3, "blue-password"),
            *tenant("team-green", 5, "green-password"),
        ).start()
        self.addCleanup(self.api.remove)
        api = KubernetesApi(443, {"KUBECONFIG": str(self.api.kubeconfig)}, timeout=(LIMIT, LIMIT))
        self.source = ClusterSource(PREFIX, CLIENT, MASTER, api)
        self.watches = ClusterWatches(api, PREFIX, CLIENT, MASTER)
        self.queue = ChangeQueue()

    def put(self, name: str, password: str, index: int = 3) -> None:
        self.api.put(secret(name, CLIENT, redis_connection_string=f"redis://:{password}@redis:6379/{index}"))

    def lists(self) -> int:
        """Returns how many times all namespaces were listed."""
        return len([r for r in self.api.requests if r.path == NAMESPACES and not {"fieldSelector", "watch"} & set(r.query)])


class ClusterCase(unittest.SynchronousTestCase):
    """An API server with two tenants, and the objects that read it."""

    tls = False

    def setUp(self) -> None:
        self.api = ApiServer(
            master("redis://:master-password@redis:6379/0"),
            *tenant("team-blue", 3, "blue-password"),
            *tenant("team-green", 5, "green-password"),
            tls=self.tls,
        ).start()
        self.addCleanup(self.api.remove)
        self.enrolment = Enrolment(CLIENT, MASTER)
        self.source = self.kubeconfig_source()

    def make_source(self, environ: dict[str, str], **options: object) -> ClusterSource:
        options = {"port": 443, "timeout": (2.0, 10.0), "service_account": Path("/nonexistent"), **options}
        return ClusterSource(PREFIX, CLIENT, MASTER, KubernetesApi(environ=environ, **options))

    def kubeconfig_source(self, **options: object) -> ClusterSource:
        return self.make_source({"KUBECONFIG": str(self.api.kubeconfig)}, **options)

    def read(self) -> FullRead:
        """Reads everything, and gives it to self.enrolment. self.asked has the requested paths."""
        self.api.requests.clear()
        reading = self.source.read()
        self.asked = [request.path for request in self.api.requests]
        self.enrolment.use_full_read(reading)
        return reading

    def served(self) -> dict[str, int]:
        snapshot, self.problems = self.enrolment.resolve()
        return {tenant.namespace: tenant.index for tenant in snapshot.tenants}

    def assertUnreachable(self, pattern: str) -> ReadFailure:
        """Asserts that nothing could be read, and that the reason matches."""
        reading = self.read()
        self.assertIsInstance(reading.namespaces, ReadFailure)
        self.assertRegex(reading.namespaces.reason, pattern)
        self.assertEqual(dict(reading.secrets), {})
        return reading.namespaces

    def assertGood(self, served: dict[str, int] | None = None) -> None:
        self.assertEqual(self.read().failures(), [])
        self.assertEqual(self.served(), served or {"team-blue": 3, "team-green": 5})
