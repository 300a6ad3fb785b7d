"""What client programs connect to: a Redis, or a master with its sentinels, directly or through one
or two proxies.

Owns the processes, and what a program must know to connect. Does not break anything: see `faults`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import venv
from collections.abc import Callable
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from unittest import SkipTest

import redis

from tests.support.haproxy import HAProxy
from tests.support.proxy import Manifests, ProxyProcess, master, tenant
from tests.support.sentinels import NAME, Sentinels
from tests.support.servers import RedisServer, free_port, release
from tests.support.status import ask
from tests.support.waiting import LIMIT, until

ROOT = Path(__file__).resolve().parents[3]
PASSWORD = "password-of-the-tenant"
INDEX = 3
#: Redis keeps what it has confirmed when it is killed.
PERSISTENT = ("appendonly yes", "enable-debug-command yes")
#: Seconds that an ending proxy serves on, until the balancer has noticed; and seconds for its
#: drain.
DRAIN = ("--drain-delay", "1.5", "--drain-seconds", "5")

#: Only one thread at a time starts a proxy: the first one starts the process that the others are
#: copies of.
_starting = threading.Lock()


class Deployment:
    """One Redis with a tenant's database. Programs connect to it directly.

    binary: which server.
    """

    way = "straight"

    def __init__(self, binary: Callable[[], str], with_sentinels: bool = False) -> None:
        self._stack = ExitStack()
        self.trouble = ""
        #: What the proxies logged, after `stop`.
        self.logs: list[str] = []
        self.sentinels: Sentinels | None = None
        try:
            if with_sentinels:
                self.sentinels = Sentinels(binary)
                self._stack.callback(self.sentinels.stop)
                self.sentinels.start().until_replicated()
                self.server = self.sentinels.servers[0]
            else:
                self.server = RedisServer(binary, *PERSISTENT)
                self._stack.callback(self.server.stop)
                self.server.start()
            self._prepare()
        except BaseException:
            self._stack.close()
            raise

    def _prepare(self) -> None:
        """Starts what stands before Redis: nothing."""

    def environ(self) -> dict[str, str]:
        """Returns the variables that say to a program where its Redis is."""
        found = self._at(self.server.port, self.server.password)
        if self.sentinels is not None:
            found["REDIS_SENTINELS"] = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels.sentinels)
            found["REDIS_MASTER"] = NAME
        return found

    @staticmethod
    def _at(port: int, password: str) -> dict[str, str]:
        return {"REDIS_PORT": str(port), "REDIS_PASSWORD": password, "REDIS_INDEX": str(INDEX)}

    def admin(self) -> redis.Redis:
        """Returns a client of Redis itself, with one connection, which is open."""
        client = self.server.client(single_connection_client=True, socket_timeout=LIMIT)
        client.ping()
        return client

    def stop(self) -> None:
        self._stack.close()


class Through(Deployment):
    """The same behind one proxy."""

    way = "through"

    def _prepare(self) -> None:
        url = self.server.url if self.sentinels is None else self.sentinels.url
        self._manifests = Manifests([master(url), *tenant("team-blue", INDEX, PASSWORD)])
        self._stack.callback(self._manifests.remove)
        self._start()

    def _start(self) -> None:
        self.port = self._proxy().port

    def _proxy(self, *options: str, listen: str = "tcp:0:interface=127.0.0.1", checkout: Path | None = None) -> ProxyProcess:
        """Starts another proxy. checkout: of another version, with an environment of its own."""
        where = {} if checkout is None else {"directory": checkout, "python": str(checkout / ".venv" / "bin" / "python")}
        ours = shlex.split(os.environ.get("PROXY_OPTIONS", "")) if checkout is None else []
        with _starting:
            proxy = ProxyProcess("--manifests", str(self._manifests.path), *options, *ours, listen=listen, **where)
        self._stack.callback(self._end, proxy)
        return proxy.ready()

    def _end(self, proxy: ProxyProcess) -> None:
        proxy.stop(signal.SIGKILL)  # a drain would take seconds
        self.logs += ["the log of a proxy:", *proxy.lines]
        if "Traceback" in proxy.log:
            self.trouble = "the proxy logged a traceback"
            print(proxy.log.partition("Traceback")[2][:2000], file=sys.stderr)  # --keep writes all of it

    def environ(self) -> dict[str, str]:
        return self._at(self.port, PASSWORD)


class Replicas(Through):
    """The same behind HAProxy and two proxies, as docs/load-balancers.md has it."""

    #: A rolling update starts a new replica before it ends an old one.
    SLOTS = 4

    def __init__(self, binary: Callable[[], str], checkout: Path | None = None) -> None:
        """checkout: the version of the first two proxies, if it is not this one."""
        self._checkout = checkout
        super().__init__(binary)

    def _start(self) -> None:
        self._ports = [(free_port(), free_port()) for _ in range(self.SLOTS)]
        for ports in self._ports:
            for port in ports:
                self._stack.callback(release, port)
        self.replicas = {slot: self._replica(slot, self._checkout) for slot in (0, 1)}
        servers = "\n".join(
            f"  server {slot} 127.0.0.1:{port} check port {status}" for slot, (port, status) in enumerate(self._ports)
        )
        # A connection to a proxy that has just gone is tried again at the other one.
        self._balancer = HAProxy(
            "listen redis\n  bind 127.0.0.1:PORT\n  balance leastconn\n  option httpchk GET /readyz\n"
            f"  option redispatch 1\n  default-server inter 200ms fall 2 rise 1\n{servers}\n"
        )
        self._stack.callback(self._balancer.stop)
        self.port = self._balancer.port
        until(lambda: self._serving() == {0, 1}, "HAProxy knows both proxies")

    def _replica(self, slot: int, checkout: Path | None = None) -> ProxyProcess:
        port, status = self._ports[slot]
        where = ("--status", f"tcp:{status}:interface=127.0.0.1")
        proxy = self._proxy(*where, *DRAIN, listen=f"tcp:{port}:interface=127.0.0.1", checkout=checkout)
        until(lambda: ask(status, "/readyz")[0] == 200, "the new proxy is ready")
        return proxy

    def _serving(self) -> set[int]:
        try:
            states = self._balancer.states()
        except OSError:  # its management socket may come later than its port
            return set()
        return {slot for slot in range(self.SLOTS) if states["redis", str(slot)][0].startswith("UP")}

    def replace(self, old: int, new: int) -> None:
        """Replaces the proxy of a slot by one of this version in another slot, as a Deployment does
        with maxSurge 1 and maxUnavailable 0.
        """
        self.replicas[new] = self._replica(new)
        until(lambda: new in self._serving(), "HAProxy knows the new proxy")
        process = self.replicas.pop(old).process
        process.send_signal(signal.SIGTERM)
        process.wait(LIMIT)

    def kill(self, slot: int) -> None:
        """Ends a proxy with SIGKILL."""
        process = self.replicas.pop(slot).process
        process.kill()
        process.wait()


def checkout(commit: str, cache: Path) -> Path:
    """Returns a directory with another version of the project and an environment of its own, which
    has the versions of the dependencies that are newest when it is made. Skips if git does not know
    the commit.
    """
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=False)
    if archive.returncode:
        raise SkipTest(f"git has no commit {commit}")
    found = subprocess.run(["git", "-C", str(ROOT), "rev-parse", commit], capture_output=True, check=True, text=True)
    path = cache / f"proxy-{found.stdout.strip()[:12]}"
    stamp = path / ".venv" / "installed"
    if not stamp.exists():
        shutil.rmtree(path, ignore_errors=True)
        with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
            tar.extractall(path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        venv.create(path / ".venv", with_pip=True)
        pip = [str(path / ".venv" / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        editable = ["--config-settings", "editable_mode=compat", "-e", "."]
        subprocess.run([*pip, *editable], cwd=path, check=True, stdout=sys.stderr)
        stamp.touch()
    return path
