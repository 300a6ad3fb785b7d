"""What fails while clients work. Each fault is the same for programs that connect directly and for
those behind the proxy.

The faults of the proxy itself do not exist directly. There Redis closes the connections at the same
time (CLIENT KILL): that is what a client must expect of any server that is updated.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.support.waiting import until

from .deployments import PERSISTENT, Deployment, Replicas, Through

#: Seconds without Redis.
GONE = 2.0
#: Seconds for which Redis stands still.
STOPPED = 7.0
#: Keys, and microseconds for loading each of them: LOADING for 4 s.
FILLER, LOAD_DELAY = 4000, 1000
#: A database of nobody.
FILLER_INDEX = 9


@dataclass(frozen=True)
class Fault:
    """A fault: how it is made, and on what. `make` returns when it is over."""

    text: str
    make: Callable[[Deployment], None]
    prepare: Callable[[Deployment], None] = lambda deployment: None
    with_sentinels: bool = False
    with_replicas: bool = False
    #: Seconds for which clients work after it.
    after: float = 6
    #: The two proxies are of an older version at first.
    older: bool = False

    def deploy(self, way: str, binary: Callable[[], str], older: Callable[[], Path]) -> Deployment:
        """Starts what this fault needs."""
        if way == "straight":
            return Deployment(binary, self.with_sentinels)
        if self.with_replicas:
            return Replicas(binary, older() if self.older else None)
        return Through(binary, self.with_sentinels)


def _nothing(_: Deployment) -> None:
    time.sleep(GONE)


def _restart(deployment: Deployment) -> None:
    deployment.server.kill()
    time.sleep(GONE)
    deployment.server.start()


def _fill(deployment: Deployment) -> None:
    """Writes keys, and has Redis write them into the part of its file that loads slowly."""
    client = deployment.server.client(FILLER_INDEX)
    client.mset({f"filler:{number}": number for number in range(FILLER)})
    client.bgrewriteaof()
    until(lambda: not any(map(client.info("persistence").get, _REWRITES)), "Redis has written the file")


_REWRITES = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")


def _loading(deployment: Deployment) -> None:
    server = deployment.server
    server.kill()
    # Redis answers its clients each so many bytes.
    server.change(*PERSISTENT, f"key-load-delay {LOAD_DELAY}", "loading-process-events-interval-bytes 1024")
    server.start()
    client = server.client(socket_timeout=30)

    def loaded() -> bool:
        with contextlib.suppress(redis.BusyLoadingError):
            return client.ping()
        return False

    until(loaded, "Redis has loaded")


def _failover(deployment: Deployment) -> None:
    first, second = deployment.sentinels.servers
    first.kill()
    client = second.client()
    until(lambda: client.info("replication")["role"] == "master", "the replica is promoted")
    deployment.server = second


def _stop(deployment: Deployment) -> None:
    os.kill(deployment.server.pid, signal.SIGSTOP)
    try:
        time.sleep(STOPPED)
    finally:
        os.kill(deployment.server.pid, signal.SIGCONT)


def _maxclients(deployment: Deployment) -> None:
    """Everybody has to connect again, while Redis accepts no connection."""
    with contextlib.closing(deployment.admin()) as admin:
        before = admin.config_get("maxclients")["maxclients"]
        admin.config_set("maxclients", 1)
        _close(admin)
        time.sleep(GONE)
        admin.config_set("maxclients", before)


def _close(admin: redis.Redis) -> None:
    for kind in ("normal", "pubsub"):
        admin.execute_command("CLIENT", "KILL", "TYPE", kind)


def _close_half(deployment: Deployment) -> None:
    with contextlib.closing(deployment.admin()) as admin:
        numbers = [client["id"] for kind in ("normal", "pubsub") for client in admin.client_list(_type=kind)]
        for number in numbers[::2]:
            if int(number) != admin.client_id():
                admin.client_kill_filter(_id=number)


def _roll(deployment: Deployment) -> None:
    if not isinstance(deployment, Replicas):
        with contextlib.closing(deployment.admin()) as admin:
            _close(admin)
        return
    deployment.replace(0, 2)
    deployment.replace(1, 3)


def _kill_proxy(deployment: Deployment) -> None:
    if isinstance(deployment, Replicas):
        deployment.kill(0)
    else:
        _close_half(deployment)


FAULTS = {
    "none": Fault("nothing", _nothing),
    "restart": Fault("Redis is killed and starts again after 2 s", _restart),
    "loading": Fault("Redis is killed, starts again and loads its data for 4 s", _loading, _fill),
    # node-redis asks the sentinels each 10 s.
    "failover": Fault("the master is killed, and sentinels promote its replica", _failover, with_sentinels=True, after=12),
    "stop": Fault("Redis stands still for 7 s (SIGSTOP)", _stop),
    "maxclients": Fault("Redis closes all connections and accepts none for 2 s", _maxclients),
    "rolling": Fault("both proxies are replaced; directly: Redis closes all connections", _roll, with_replicas=True),
    "kill-proxy": Fault(
        "one of two proxies is killed; directly: Redis closes half of the connections", _kill_proxy, with_replicas=True
    ),
    "upgrade": Fault(
        "two older proxies are replaced by this version; directly: as rolling", _roll, with_replicas=True, older=True
    ),
}
