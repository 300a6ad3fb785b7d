"""Two tenants in the small API server, and what reads them."""

from __future__ import annotations

from twisted.trial import unittest

from redisproxy.sources.hints import ChangeQueue
from redisproxy.sources.kubernetes import ClusterSource

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
        self.source = ClusterSource(
            PREFIX, CLIENT, MASTER, 443, {"KUBECONFIG": str(self.api.kubeconfig)}, timeout=(LIMIT, LIMIT)
        )
        self.queue = ChangeQueue()

    def put(self, name: str, password: str, index: int = 3) -> None:
        self.api.put(secret(name, CLIENT, redis_connection_string=f"redis://:{password}@redis:6379/{index}"))

    def lists(self) -> int:
        """How many times everything was read."""
        return len([r for r in self.api.requests if r.path == NAMESPACES and not {"fieldSelector", "watch"} & set(r.query)])
