"""What a row of the table is: an attack, what the proxy promises beside it, and the proof that the
attack happened.
"""

from __future__ import annotations

import json
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from redisproxy.resp.framing import encode

if TYPE_CHECKING:
    import redis

    from tests.support.apiserver import ApiServer

#: A word of a command that stands for the password of the attacker.
PASSWORD = "\0password"
#: Bytes of a MiB.
MIB = 1 << 20


def words(*given: str | bytes) -> bytes:
    """Returns one command in RESP."""
    return encode(word.encode() if isinstance(word, str) else word for word in given)


@dataclass(frozen=True)
class Target:
    """What an attacker knows of the server that it attacks.

    password: the attacker's; index: its database; redis_port, redis_password: of the Redis behind
    the proxy, for preparations; pid: of the proxy; straight: whether the server is Redis itself.
    """

    port: int
    tls_port: int
    status_port: int
    password: str
    index: int
    redis_port: int
    redis_password: str
    pid: int
    straight: bool

    def log_in(self) -> bytes:
        """Returns the commands of a log-in. Each is answered by +OK."""
        select = words("SELECT", str(self.index)) if self.straight else b""
        return words("AUTH", self.password) + select

    def redis(self) -> redis.Redis:
        """Returns a client of Redis itself, in the attacker's database, for preparations."""
        import redis  # an attacker starts sooner without what only some of them need

        return redis.Redis(port=self.redis_port, password=self.redis_password, db=self.index, socket_timeout=30)

    def hello(self) -> bytes:
        """Returns the bytes of a ClientHello."""
        sent = ssl.MemoryBIO()
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            context.wrap_bio(ssl.MemoryBIO(), sent).do_handshake()
        except ssl.SSLWantReadError:
            pass
        return sent.read()


@dataclass
class Counters:
    """What an attacker did so far. now, open: connections now, and at the same time at most;
    connected, closed: connections in all, and those that the server ended; refused: log-ins; sent,
    received: bytes; rounds: times that all commands were sent.
    """

    now: int = 0
    open: int = 0
    connected: int = 0
    closed: int = 0
    refused: int = 0
    sent: int = 0
    received: int = 0
    rounds: int = 0

    def report(self) -> Callable[[], None]:
        """Prints the counters as JSON, four times a second. Returns what ends that."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(0.25):
                print(json.dumps(asdict(self)), flush=True)

        threading.Thread(target=run, daemon=True).start()
        return ended.set


#: An attack is a generator. It prepares itself up to its first yield, and attacks from then on.
#: Each further yield lets other attacks of the same row go on. It ends with its process.
Attack = Callable[[Target, Counters], Iterator[None]]


class Together:
    """An attack of several, which take turns."""

    def __init__(self, *attacks: Attack) -> None:
        self.attacks = attacks

    def __call__(self, target: Target, counters: Counters) -> Iterator[None]:
        running = [each(target, counters) for each in self.attacks]
        while True:
            for each in running:
                next(each)
            yield


def prepared(prepare: Callable[[redis.Redis], object], attack: Attack) -> Attack:
    """Returns an attack that first fills the attacker's database, straight in Redis."""

    def whole(target: Target, counters: Counters) -> Iterator[None]:
        with target.redis() as client:
            prepare(client)
        yield from attack(target, counters)

    return whole


@dataclass(frozen=True)
class Held:
    """The proxy can hold this attack up: the quiet tenant's PINGs take less than so many ms, and
    their p99 is at most doubled.
    """

    ms: float = 50.0

    def __str__(self) -> str:
        return f"{self.ms:g} ms"


@dataclass(frozen=True)
class NoProxyCan:
    """No proxy can hold the quiet tenant's p99, for a reason. ms: what a proxy still can promise of
    the slowest PING, if anything.
    """

    reason: str
    ms: float | None = None

    def __str__(self) -> str:
        return "no proxy can" + (f", {self.ms:g} ms" if self.ms else "")


@dataclass(frozen=True)
class Row:
    """One row.

    - kind: is decided before the row is measured.
    - least: what proves that the attack happened: by name the least of a counter of the attacker,
      of `worst` (ms of the quiet tenant), or of `resident` and `kernel` (MiB of the server). It is
      asked of Redis without a proxy, or of the proxy if the row has no such side.
    - straight: whether the attack makes sense without a proxy.
    - api: whether the attacker is the Kubernetes API server of the tenants.
    - annotations: of the attacker's namespace.
    - needs: MiB of memory that the machine must have free.
    - why: for a row that the list of known attacks does not have.
    """

    title: str
    attack: Attack
    kind: Held | NoProxyCan = Held()
    least: Mapping[str, float] = field(default_factory=dict)
    straight: bool = True
    api: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)
    needs: int = 1000
    why: str = ""


def run(row: Row, redis_url: str) -> None:
    """Runs an attacker as a process, which the table's program ends. Its standard input has the
    target as a line of JSON, and then a line when the attack is to begin.
    """
    from .kubernetes import api_server

    api: ApiServer | None = None
    if row.api:
        api = api_server(redis_url, row.annotations)
        print(api.kubeconfig, flush=True)
    try:
        target = Target(**json.loads(sys.stdin.readline()))
        counters = Counters()
        attack = row.attack(target, counters)
        next(attack)
        print("begun", flush=True)
        sys.stdin.readline()
        counters.report()
        for _ in attack:
            pass
        threading.Event().wait()
    finally:
        if api is not None:
            api.remove()
