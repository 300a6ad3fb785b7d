"""Starts what is compared: variants of the proxy, HAProxy in TCP mode, twemproxy, and Redis itself,
as processes on loopback.

Owns their configuration, their start and end, and the kernel's numbers about them (CPU time,
memory). Each of them serves database 0 of the same Redis, so that all are asked for the same keys.
"""

from __future__ import annotations

import os
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.support.certificates import Authority
from tests.support.proxy import PREFIX, Manifests, ProxyProcess, master, tenant
from tests.support.servers import MASTER_PASSWORD, RedisServer, debian, free_port, redis_7
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[1]
#: Debian's packages, by the program that they contain.
PROGRAMS = {
    "redis-server": "redis-server",
    "redis-benchmark": "redis-tools",
    "haproxy": "haproxy",
    "nutcracker": "nutcracker",
}
#: The tenant under load, with database 0.
TENANT, TENANT_PASSWORD = f"{PREFIX}bench", "password-of-the-tenant"
#: Client connections that every proxy here must accept, and connections that Redis must accept.
MOST_CONNECTIONS, REDIS_CONNECTIONS = 6_000, 15_000
#: The image's settings for the C library: docs/decisions/free-memory.md.
IMAGE_ENVIRON = {"MALLOC_MMAP_THRESHOLD_": "8388608", "MALLOC_TRIM_THRESHOLD_": "8388608"}
#: More than the tenants of the refresh case.
DATABASES = 2_100
#: Seconds for a proxy to read its 2,000 tenants on a busy machine.
START_LIMIT = 120.0
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def install_programs() -> None:
    """Installs missing programs from Debian. Raises SystemExit, which names the packages, if it may
    not.
    """
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if not missing:
        return
    if os.geteuid() or shutil.which("apt-get") is None:
        raise SystemExit(f"the benchmark needs: apt-get install {' '.join(missing)}")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "-q", "update"], env=environ, check=True)
    subprocess.run(["apt-get", "-q", "install", "-y", "--no-install-recommends", *missing], env=environ, check=True)


@dataclass(frozen=True)
class Variant:
    """One kind of the proxy to measure: a checkout, options, and a name for the tables."""

    name: str
    checkout: Path = ROOT
    options: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Reads ``NAME=[CHECKOUT] [OPTION …]``. Raises ValueError."""
        name, sign, rest = text.partition("=")
        words = shlex.split(rest)
        if not sign or not name:
            raise ValueError(f"{text!r} is not NAME=[CHECKOUT] [OPTION …]")
        checkout = ROOT
        if words and not words[0].startswith("-"):
            checkout = Path(words.pop(0)).resolve()
            if not (checkout / "redisproxy").is_dir():
                raise ValueError(f"{checkout} is no checkout of the proxy")
        return cls(name, checkout, tuple(words))

    @property
    def python(self) -> str:
        """The checkout's own interpreter, if it has one: the compiled framing is compiled for
        it.
        """
        own = self.checkout / ".venv" / "bin" / "python"
        return str(own) if own.is_file() else sys.executable

    def describe(self) -> str:
        """Returns commit and options, without the checkout's path."""
        commit = _output("git", "-C", str(self.checkout), "rev-parse", "--short", "HEAD") or "no commit"
        changed = _output("git", "-C", str(self.checkout), "status", "--porcelain", "--", "redisproxy")
        return " ".join([commit + (" with changes" if changed else ""), *self.options])


class Peer:
    """One server that clients can connect to. tls_port: None if it has no TLS; stop: ends it, and
    may be called twice.
    """

    def __init__(
        self, name: str, pid: int, stop: Callable[[], object], port: int, password: str, tls_port: int | None = None
    ) -> None:
        self.name = name
        self.stop = stop
        self.pid = pid
        self.port = port
        self.password = password
        self.tls_port = tls_port

    def cpu(self) -> float:
        """Returns the seconds of CPU time of the server and its child processes."""
        return sum(_cpu(pid) for pid in _family(self.pid))

    def resident(self) -> int:
        """Returns the bytes of resident memory of the server and its child processes."""
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE for pid in _family(self.pid))

    def end(self) -> None:
        """Ends the server and its child processes at once."""
        for pid in _family(self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class ProxyPeer(Peer):
    """The proxy, as `twistd -n redisproxy`."""

    def __init__(self, variant: Variant, process: ProxyProcess) -> None:
        process.ready(START_LIMIT)
        plain, tls = re.findall(r"listening on \S+:(\d+)", process.log)[:2]
        super().__init__(variant.name, process.process.pid, process.stop, int(plain), TENANT_PASSWORD, int(tls))
        self.refresh = process.refresh
        self._process = process

    @property
    def logged(self) -> int:
        """The bytes of its log."""
        return sum(len(line) + 1 for line in self._process.lines)

    @property
    def status_port(self) -> int:
        """The port of the status endpoint, if the variant has one."""
        return int(self._process.logged(r"the status page is at \S+:(\d+)")[1])


class Bench:
    """Redis, a scratch directory, and the peers that are started. All of them end with the
    context.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Bench:
        # 5,000 idle sessions need twice as many descriptors in a proxy that opens a connection to
        # Redis for each of them.
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        with ExitStack() as stack:
            self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="redisproxy-bench-")))
            self.authority = Authority(self.directory)
            self._certificate, self._key = self.authority.issue("bench", "127.0.0.1", "localhost")
            tls = free_port()
            self.redis = RedisServer(
                redis_7,
                "bind 127.0.0.1",
                f"databases {DATABASES}",
                f"maxclients {REDIS_CONNECTIONS}",
                f"tls-port {tls}",
                f"tls-cert-file {self._certificate}",
                f"tls-key-file {self._key}",
                "tls-auth-clients no",
            )
            stack.callback(self.redis.stop)
            self.redis.start()
            self.straight = Peer("straight", self.redis.pid, lambda: None, self.redis.port, MASTER_PASSWORD, tls)
            manifests = Manifests([master(self.redis.url), *tenant(TENANT, 0, TENANT_PASSWORD)])
            stack.callback(manifests.remove)
            self._manifests = str(manifests.path)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def callback(self, call: Callable[[], object]) -> None:
        """Registers a call for the end of the context."""
        self._stack.callback(call)

    def proxy(
        self,
        variant: Variant,
        source: Iterable[str] | None = None,
        environ: Mapping[str, str] | None = None,
        options: Iterable[str] = ("--max-workers", str(MOST_CONNECTIONS)),
    ) -> ProxyPeer:
        """Starts a proxy. source: options for the source of its tenants; default: manifests with
        one tenant. options: those that all variants have.
        """
        ssl = f"ssl:0:interface=127.0.0.1:privateKey={self._key}:certKey={self._certificate}"
        process = ProxyProcess(
            *("--manifests", self._manifests) if source is None else source,
            *("--listen", ssl, "--log-level", "info"),
            *options,
            *variant.options,
            environ={**IMAGE_ENVIRON, **(environ or {})},
            python=variant.python,
            directory=variant.checkout,
            fresh=True,
        )
        self._stack.callback(process.stop)
        return ProxyPeer(variant, process)

    def haproxy(self) -> Peer:
        """Starts HAProxy in TCP mode with one thread. It terminates TLS on a second port."""
        pem = self.directory / "haproxy.pem"
        pem.write_bytes(self._certificate.read_bytes() + self._key.read_bytes())
        plain, tls = free_port(), free_port()
        server = f"    server redis 127.0.0.1:{self.redis.port}\n"
        configuration = self.directory / "haproxy.cfg"
        configuration.write_text(
            f"global\n    nbthread 1\n    maxconn {MOST_CONNECTIONS}\n"
            "defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n"
            f"listen plain\n    bind 127.0.0.1:{plain}\n{server}"
            f"listen tls\n    bind 127.0.0.1:{tls} ssl crt {pem}\n{server}"
        )
        process = self._start(plain, "haproxy", "-db", "-f", str(configuration))
        return Peer("haproxy", process.pid, partial(_end, process), plain, MASTER_PASSWORD, tls)

    def twemproxy(self) -> Peer:
        """Starts twemproxy as it is commonly deployed: one connection to Redis, opened at the
        start.
        """
        port, statistics = free_port(), free_port()
        configuration = self.directory / f"nutcracker-{port}.yml"
        configuration.write_text(
            f"bench:\n  listen: 127.0.0.1:{port}\n  redis: true\n  redis_auth: {MASTER_PASSWORD}\n"
            "  hash: fnv1a_64\n  distribution: ketama\n  preconnect: true\n  server_connections: 1\n"
            f"  servers:\n   - 127.0.0.1:{self.redis.port}:1\n"
        )
        process = self._start(
            port, "nutcracker", "-c", str(configuration), "-a", "127.0.0.1", "-s", str(statistics), "-v", "0"
        )
        return Peer("twemproxy", process.pid, partial(_end, process), port, MASTER_PASSWORD)

    def _start(self, port: int, *command: str) -> subprocess.Popen:
        program = debian(command[0])
        process = subprocess.Popen(
            [program, *command[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._stack.callback(_end, process)

        def listens() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"{command[0]} ended with status {process.returncode}")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(listens, f"{command[0]} listens on port {port}")
        return process

    def connections(self) -> int:
        """Returns the number of connections to Redis."""
        with self.redis.client() as client:
            return len(client.client_list())


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _family(pid: int) -> list[int]:
    """Returns the ids of a process and its descendants."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


def _cpu(pid: int) -> float:
    # The program's name, in parentheses, may contain spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


@dataclass(frozen=True)
class Moment:
    """CPU time of the machine so far, in seconds. own: of this process and its descendants."""

    busy: float
    total: float
    own: float

    @classmethod
    def now(cls) -> Moment:
        user, nice, system, idle, iowait, *others = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
        busy = user + nice + system + sum(others)
        ended = os.times()
        own = sum(map(_cpu, _family(os.getpid()))) + ended.children_user + ended.children_system
        return cls(busy / _TICK, (busy + idle + iowait) / _TICK, own)

    def others_since(self, before: Moment) -> float:
        """Returns the share of the machine's CPU time that other processes used."""
        busy, own = self.busy - before.busy, self.own - before.own
        return max(0.0, (busy - own) / (self.total - before.total))


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return (done.stdout or done.stderr).strip()


def versions(variant: Variant) -> dict[str, str]:
    """Returns the versions of the compared programs, by name."""
    wanted = {
        "Redis": _output("redis-server", "--version"),
        "HAProxy": _output("haproxy", "-v"),
        "twemproxy": _output("nutcracker", "-V"),
    }
    numbers = {name: re.search(r"\d+(\.\d+)+", text) for name, text in wanted.items()}
    found = {name: number[0] if number else "unknown" for name, number in numbers.items()}
    script = "import platform, twisted; print(platform.python_version(), twisted.__version__)"
    found["Python"], found["Twisted"] = _output(variant.python, "-c", script).split()
    return found


def machine() -> str:
    """Describes the machine in one line, without its name."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.M)
    return (
        f"{model[1] if model else os.uname().machine}, {os.cpu_count()} cores, {int(memory[1]) / 2**20:.0f} GiB, "
        f"Linux {os.uname().release}"
    )
