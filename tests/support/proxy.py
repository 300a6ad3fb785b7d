"""Runs the proxy as a real `twistd` process, and writes manifests for it."""

from __future__ import annotations

import atexit
import functools
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import redis
import yaml

from .clients import client_once
from .fork_server import ForkedProcess, can_fork
from .raw import RawClient
from .servers import RedisServer
from .waiting import LIMIT, until

#: The prefix of the tests' namespaces.
PREFIX = "team-"


def secret(namespace: str, name: str, created: str | None = None, **values: str) -> dict:
    """Returns a Secret. values: by key, with _ for - in the keys except valid_hours."""
    metadata = {"name": name, "namespace": namespace}
    if created is not None:
        metadata["creationTimestamp"] = created
    data = {key if key == "valid_hours" else key.replace("_", "-"): value for key, value in values.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}


def namespace(name: str, created: str = "2026-01-01T00:00:00Z", annotations: Mapping[str, str] | None = None) -> dict:
    metadata = {"name": name, "creationTimestamp": created}
    if annotations is not None:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def tenant(name: str, index: int, password: str, created: str = "2026-01-01T00:00:00Z") -> list[dict]:
    """Returns an enrolled namespace: the Namespace and its client secret."""
    url = f"redis://:{password}@redisproxy:6379/{index}"
    return [namespace(name, created), secret(name, "redis-secret-master", created, redis_connection_string=url)]


def master(url: str, **more: str) -> dict:
    return secret("kube-system", "redis-secret-master", redis_connection_string=url, **more)


#: The value of --connections, ``multiplexed`` or ``dedicated``, for each proxy whose test does not
#: set that option. Empty: the proxy's default.
CONNECTIONS = os.environ.get("TEST_CONNECTIONS", "")
#: The value of --processes for each proxy whose test does not set that option. Empty: the proxy's
#: default.
PROCESSES = os.environ.get("TEST_PROCESSES", "")


class Manifests:
    """A directory of manifests that a test can rewrite."""

    def __init__(self, documents: Iterable[dict] = ()) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="redisproxy-test-")
        self.path = Path(self._temporary.name)
        self.write(documents)

    def write(self, documents: Iterable[dict], name: str = "all.yaml") -> None:
        new = self.path / f".{name}.new"
        new.write_text(yaml.safe_dump_all(list(documents)))
        new.rename(self.path / name)

    def remove(self) -> None:
        self._temporary.cleanup()


class ProxyProcess:
    """`twistd -n redisproxy` in a process of its own, on a free port of 127.0.0.1."""

    def __init__(
        self,
        *options: str,
        environ: Mapping[str, str] | None = None,
        listen: str = "tcp:0:interface=127.0.0.1",
        python: str = sys.executable,
        directory: Path | None = None,
        twistd: Iterable[str] = (),
        fresh: bool = False,
    ) -> None:
        """Starts the process.

        - twistd: options of twistd itself.
        - directory: where the process starts, and where it looks for modules first.
        - python: the interpreter of another checkout, whose path is then `directory`.
        - fresh: start the program as an operator does, which takes half a second of processor time.

        Without twistd, directory, python and fresh, the process is a copy of one that has already
        imported the proxy: see `fork_server`.
        """
        if CONNECTIONS and "--connections" not in options:
            options = ("--connections", CONNECTIONS, *options)
        if PROCESSES and "--processes" not in options:
            options = ("--processes", PROCESSES, *options)
        self.processes = int(options[options.index("--processes") + 1]) if "--processes" in options else 1
        # A test whose clients are still busy does not wait long for the drain, unless it sets the
        # time itself.
        environ = {"REDISPROXY_DRAIN_SECONDS": "2", **plain_environment(), **(environ or {})}
        arguments = ["-n", "--pidfile=", *twistd, "redisproxy", "--ns-prefix", PREFIX, "--listen", listen, *options]
        copied = not (fresh or twistd or directory or python != sys.executable) and can_fork(environ)
        output, written = os.pipe()
        self._output = open(output)  # noqa: PTH123, SIM115 - a pipe, which the reading thread closes
        try:
            if copied:
                imports = () if "--manifests" in options else ("redisproxy.sources.kubernetes",)
                self.process = ForkedProcess("twistd", ["-c", *arguments], environ, written, written, imports)
            else:
                self.process = subprocess.Popen(
                    [python, "-c", "from twisted.scripts.twistd import run; run()", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=written,
                    stderr=written,
                    cwd=directory,
                    env=environ,
                )
        finally:
            os.close(written)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self._output:
            for line in self._output:
                self.lines.append(line.rstrip("\n"))

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def logged(self, pattern: str, limit: float = LIMIT) -> re.Match[str]:
        """Waits for a line of the log that matches, at most `limit` seconds, and returns the match.
        Raises AssertionError if there is none, or if the process ends.
        """

        def probe() -> re.Match[str] | None:
            found = re.search(pattern, self.log)
            if found is None and self.process.poll() is not None:
                self._reader.join(LIMIT)
                found = re.search(pattern, self.log)
                if found is None:
                    raise AssertionError(f"twistd ended with {self.process.returncode}:\n{self.log}")
            return found

        try:
            return until(probe, f"a log line like {pattern!r}", limit)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log}") from None

    @property
    def port(self) -> int:
        return int(self.logged(r"listening on \S+:(\d+)")[1])

    def ready(self, limit: float = 4 * LIMIT) -> ProxyProcess:
        """Waits until the proxy listens and knows its tenants and its Redis. If that fails, kills
        the process, because the test has no object yet that it could stop.
        """
        try:
            self._until_ready(limit)
        except BaseException:
            self.process.kill()
            raise
        return self

    def _until_ready(self, limit: float) -> None:
        self.logged(r"listening on", limit)
        self.logged(r"tenants with \d+ credentials", limit)
        self.logged(r"Redis is at ", limit)
        if self.processes > 1:
            for number in range(1, self.processes + 1):
                self.logged(rf"worker {number} \(\d+\) serves", limit)
                self.logged(rf"worker-{number}/\d+/.*Redis is at |\"worker\": {number}", limit)

    @property
    def workers(self) -> dict[int, int]:
        """The process id of each worker that serves, by the worker's number."""
        return {int(number): int(pid) for number, pid in re.findall(r"worker (\d+) \((\d+)\) serves", self.log)}

    def client(self, password: str, index: int = 0, **options: object) -> redis.Redis:
        """Returns a redis-py client of the proxy that does not retry: tests check the first
        answer.
        """
        options.setdefault("socket_timeout", LIMIT)
        return client_once(port=self.port, db=index, password=password, **options)

    def answers(self) -> None:
        """Waits until the proxy has answered a client without a log-in, which shows that it
        runs.
        """
        with RawClient(self.port) as client:
            assert client.ask(b"PING\r\n").startswith(b"-NOAUTH")

    def refresh(self) -> None:
        """Sends SIGUSR1: the proxy reads the credentials again."""
        self.process.send_signal(signal.SIGUSR1)

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def resident(self) -> int:
        """Returns the resident memory in bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def peak(self) -> int:
        """Returns the highest resident memory in bytes since reset_peak()."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    def reset_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends the signal, waits for the end, and returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            status = self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"twistd did not end within {LIMIT} s of signal {number}:\n{self.log}") from None
        self._reader.join(LIMIT)
        return status


def plain_environment() -> dict[str, str]:
    """Returns this process's environment without the variables that would configure the proxy."""
    ours = {
        "NS_PREFIX",
        "REDIS_SECRET",
        "KUBERNETES_PORT",
        "KUBERNETES_SERVICE_HOST",
        "KUBECONFIG",
        "MAX_WORKERS",
        "WORK_QUEUE_SIZE",
        "BASE_WORKERS",
        "WORKER_IDLE_TIMEOUT_SEC",
    }
    return {k: v for k, v in os.environ.items() if k not in ours and not k.startswith("REDISPROXY_")}


def has_ended(client: redis.Redis) -> bool:
    """Returns whether the proxy has closed the one connection that this client keeps."""
    try:
        client.connection.send_command("PING")
        client.connection.read_response()
    except redis.ConnectionError:
        return True
    return False


class Installation:
    """A Redis, the manifests of two tenants (databases 3 and 5), and a proxy between them."""

    BLUE = "blue-password"
    GREEN = "green-password"

    def __init__(
        self,
        *options: str,
        server: RedisServer | None = None,
        environ: Mapping[str, str] | None = None,
        twistd: Iterable[str] = (),
        fresh: bool = False,
    ) -> None:
        self.server = (server or RedisServer()).start()
        self.manifests = Manifests(self.documents())
        try:
            self.proxy = ProxyProcess(
                "--manifests", str(self.manifests.path), *options, environ=environ, twistd=twistd, fresh=fresh
            ).ready()
        except BaseException:
            self.server.stop()
            self.manifests.remove()
            raise

    def documents(self) -> list[dict]:
        return [
            master(self.server.url),
            *tenant("team-blue", 3, self.BLUE),
            *tenant("team-green", 5, self.GREEN),
        ]

    def blue(self, **options: object) -> redis.Redis:
        return self.proxy.client(self.BLUE, 3, **options)

    def green(self, **options: object) -> redis.Redis:
        return self.proxy.client(self.GREEN, 5, **options)

    def stop(self) -> None:
        self.proxy.stop()
        self.server.stop()
        self.manifests.remove()


@functools.cache
def shared(*options: str) -> Installation:
    """Returns an installation that many tests share. The first test starts it, and it stops at the
    end of the process.

    trial has no fixtures for a whole class. A test that breaks something uses an Installation of
    its own.
    """
    installation = Installation(*options)
    atexit.register(installation.stop)
    return installation
