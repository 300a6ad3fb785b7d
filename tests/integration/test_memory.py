"""The memory that one tenant's clients, or clients without a password, make the proxy use: at most
what the Deployment allows, and little when they have left.

The proxy has the settings as they are shipped. `python -m benchmarks.memory` has all rows, at their
full size.
"""

from __future__ import annotations

import resource
import sys
import time
import unittest
from pathlib import Path

import yaml

from redisproxy import bounds
from redisproxy.resp.framing import encode

from ..support.hoards import HOARDS, MIB, hoarding, image_settings, kernel_memory
from ..support.proxy import Installation
from ..support.raw import RawClient, raw_client
from ..support.waiting import until

#: The rows, and the part of their connections that takes a few seconds.
ROWS = {
    "half-subscribe": 1.0,
    "half-word": 1.0,
    "half-auth": 0.5,
    "half-inline": 0.3,
    "behind-runs": 0.5,
    "numsub-stay": 0.1,
    "subscriptions": 0.15,
    "long-names": 0.5,
    "skip": 0.5,
    "off": 0.5,
    "own": 0.3,
    "streams": 0.3,
    "deaf": 0.5,
    "deaf-nobody": 0.3,
}
#: What the process may have more than at its start when the clients have left: free memory between
#: objects that are in use, and what is free for the next large value.
LEFT = 60 * MIB
BASE = Path(__file__).parents[2] / "deploy/kubernetes/base/deployment.yaml"


def shipped_limit() -> int:
    """The memory limit of the base's Deployment, in bytes."""
    [container] = yaml.safe_load(BASE.read_text())["spec"]["template"]["spec"]["containers"]
    return int(container["resources"]["limits"]["memory"].removesuffix("Mi")) * MIB


@unittest.skipUnless(sys.platform == "linux", "reads /proc")
class MemoryTests(unittest.TestCase):
    def setUp(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        self.installation = Installation("--memory", "0", environ=image_settings())
        self.addCleanup(self.installation.stop)
        self.proxy = self.installation.proxy

    def used(self) -> int:
        return self.proxy.resident() + kernel_memory(self.proxy.port, self.installation.server.port)

    def test_the_limit_is_what_the_proxy_assumes(self) -> None:
        self.assertEqual(shipped_limit(), bounds.USUAL_MEMORY_BYTES)

    def test_an_attack_stays_below_the_limit_and_leaves_little(self) -> None:
        other = raw_client(self, self.proxy.port, b"AUTH", Installation.GREEN.encode())
        for name, scale in ROWS.items():
            with self.subTest(name):
                before, most = self.used(), [0]

                def watch(most: list[int] = most) -> None:
                    most[0] = max(most[0], self.used())

                with hoarding(HOARDS[name], self.proxy.port, Installation.BLUE, watch, 20, scale, idle=0.7):
                    watch()
                    self.assertEqual(other.ask([b"PING"]), b"+PONG\r\n")
                self.assertLess(most[0], shipped_limit())
                until(lambda limit=before + LEFT: self.used() < limit, f"memory comes back after {name}", 30)
        self.assertNotIn("Traceback", self.proxy.log)

    def test_the_largest_holder_learns_why_it_is_closed(self) -> None:
        half = encode([b"SUBSCRIBE", *[b"cc"] * 25_000])[:-1]
        clients = []
        for _ in range(250):
            client = raw_client(self, self.proxy.port, b"AUTH", Installation.BLUE.encode())
            client.send(half)
            clients.append(client)
        self.proxy.logged("out-of-memory")
        time.sleep(0.5)
        closed = [client for client in clients if not client.is_silent()]
        self.assertTrue(closed)
        self.assertTrue(self.rest(closed[0]).startswith(b"-ERR out of memory"))

    @staticmethod
    def rest(client: RawClient) -> bytes:
        return client.rest(or_reset=True)
