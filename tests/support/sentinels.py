"""A master, a replica and three sentinels as child processes, which fail over within a few
seconds.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import redis

from .servers import MASTER_PASSWORD, RedisServer, free_port, listens, release, valkey
from .waiting import until

#: The sentinels' name for the master.
NAME = "tenants-1"


class SentinelProcess:
    """One sentinel on a port of 127.0.0.1. `valkey-server --sentinel` is the same program.

    - master: host and port, separated by a space.
    - settings: further lines of its configuration, before those about the master.
    - more: lines after those.
    """

    def __init__(
        self,
        binary: Callable[[], str],
        master: str,
        password: str = "",
        settings: Sequence[str] = (),
        more: Sequence[str] = (),
    ) -> None:
        self.port = free_port()
        self.password = password
        self._binary = binary()
        self._directory = tempfile.TemporaryDirectory(prefix="redisproxy-test-")
        self._configuration = Path(self._directory.name) / "sentinel.conf"
        self._configuration.write_text(
            "\n".join(
                [
                    "bind 127.0.0.1",
                    f"port {self.port}",
                    f"dir {self._directory.name}",
                    *([f"requirepass {password}", f"sentinel sentinel-pass {password}"] if password else []),
                    *settings,
                    f"sentinel monitor {NAME} {master} 2",
                    f"sentinel auth-pass {NAME} {MASTER_PASSWORD}",
                    f"sentinel down-after-milliseconds {NAME} 2000",
                    f"sentinel failover-timeout {NAME} 3000",
                    *more,
                    "",
                ]
            )
        )
        self._process: subprocess.Popen | None = None

    def start(self) -> SentinelProcess:
        """Starts the sentinel. After a kill it has its old state, from its configuration file."""
        self._process = subprocess.Popen(
            [self._binary, str(self._configuration), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(self._listens, f"a sentinel listens on port {self.port}")
        return self

    def hurry(self) -> None:
        """Makes the sentinel find the others, and a replica that returned, within 1 s instead of 10
        s.
        """
        periods = {"PUBLISH-PERIOD": 200, "INFO-PERIOD": 500, "ASK-PERIOD": 200, "PING-PERIOD": 200}
        for name, milliseconds in periods.items():
            self.client().execute_command("SENTINEL", "DEBUG", name, milliseconds)

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"the sentinel ended with status {self._process.returncode}")
        return listens(self.port)

    def client(self) -> redis.Redis:
        return redis.Redis(host="127.0.0.1", port=self.port, password=self.password or None, decode_responses=True)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None:
            self.kill()
        release(self.port)
        self._directory.cleanup()


def sentinel_url(*sentinels: SentinelProcess) -> str:
    addresses = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
    return f"redis+sentinel://:{MASTER_PASSWORD}@{addresses}/{NAME}/0"


class Sentinels:
    """A master, servers[0] at first, with its replica and three sentinels. Call until_replicated()
    before a failover.
    """

    def __init__(self, binary: Callable[[], str] = valkey, password: str = "") -> None:
        first = RedisServer(binary, *self._settings())
        second = RedisServer(binary, *self._settings(), f"replicaof 127.0.0.1 {first.port}")
        self.servers = [first, second]
        self.sentinels = [SentinelProcess(binary, f"127.0.0.1 {first.port}", password) for _ in range(3)]

    def _settings(self) -> list[str]:
        return [f"masterauth {MASTER_PASSWORD}", "repl-diskless-sync-delay 0", "repl-ping-replica-period 1"]

    def start(self) -> Sentinels:
        for server in self.servers:
            server.start()
        for sentinel in self.sentinels:
            sentinel.start().hurry()
        return self

    def until_replicated(self) -> None:
        """Waits until the sentinels know each other, and a replica that they could promote."""
        until(lambda: all(map(self._complete, self.sentinels)), "the sentinels know each other and a good replica")

    def _complete(self, sentinel: SentinelProcess) -> bool:
        client = sentinel.client()
        state = client.execute_command("SENTINEL", "MASTER", NAME)
        if isinstance(state, list):
            state = dict(zip(state[::2], state[1::2], strict=True))
        if (int(state["num-other-sentinels"]), int(state["num-slaves"]), state["flags"]) != (2, 1, "master"):
            return False
        replica = client.execute_command("SENTINEL", "REPLICAS", NAME)[0]
        if isinstance(replica, list):
            replica = dict(zip(replica[::2], replica[1::2], strict=True))
        return (replica["flags"], replica["master-link-status"]) == ("slave", "ok")

    @property
    def url(self) -> str:
        return sentinel_url(*self.sentinels)

    def stop(self) -> None:
        for process in (*self.sentinels, *self.servers):
            process.stop()
