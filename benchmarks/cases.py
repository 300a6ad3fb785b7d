"""The cases that are measured, and their goals."""

from __future__ import annotations

from dataclasses import dataclass

from .load import SIZE, ClosedLoop, PubSub, RedisBenchmark

#: Peers that the proxy is compared with, in the order of the tables.
HAPROXY, TWEMPROXY, STRAIGHT = "haproxy", "twemproxy", "straight"
#: Keys of GET and SET, elements of the list.
KEYS, ELEMENTS = 10_000, 100
LIST_KEY, LARGE_KEY, LARGE = "bench:list", "bench:large", 1 << 20


@dataclass(frozen=True)
class Goal:
    """A goal for the ratio of two medians, the proxy's to a peer's: at least this much of the
    peer's rate, or at most this many times its p50.
    """

    peer: str
    ratio: float
    of_p50: bool = False

    def met(self, ratio: float) -> bool:
        return ratio <= self.ratio if self.of_p50 else ratio >= self.ratio

    def __str__(self) -> str:
        return f"p50 at most {self.ratio:g} of {self.peer}'s" if self.of_p50 else f"at least {self.ratio:g} of {self.peer}"


@dataclass(frozen=True)
class Case:
    """One row of measurements: the same load for each peer.

    - case: the name that CASES= selects.
    - without: the peers that cannot serve it, and the reason.
    - guess: requests of the first, short try.
    - longer: how many times as long as others it is measured, because its start takes a part of the
      time.
    """

    case: str
    title: str
    load: RedisBenchmark | ClosedLoop | PubSub
    goals: tuple[Goal, ...] = ()
    without: str = ""
    guess: int = 4_000
    longer: float = 1.0


def _get_set(case: str, title: str, *arguments: str, goals: tuple[Goal, ...]) -> list[Case]:
    return [
        Case(
            case,
            f"{name.upper()} {SIZE} B, {title}",
            RedisBenchmark(("-t", name, "-d", str(SIZE), "-r", str(KEYS), *arguments)),
            goals,
        )
        for name in ("get", "set")
    ]


def _transaction(pairs: int) -> ClosedLoop:
    """Returns MULTI, this many pairs of SET and GET, and EXEC, in one write: client libraries send
    a pipeline like that.
    """
    value = b"x" * SIZE
    bulk = b"$%d\r\n%s\r\n" % (SIZE, value)
    commands = b"*3\r\n$3\r\nSET\r\n$11\r\nbench:multi\r\n" + bulk + b"*2\r\n$3\r\nGET\r\n$11\r\nbench:multi\r\n"
    request = b"*1\r\n$5\r\nMULTI\r\n" + commands * pairs + b"*1\r\n$4\r\nEXEC\r\n"
    reply = b"+OK\r\n" + b"+QUEUED\r\n" * 2 * pairs + b"*%d\r\n" % (2 * pairs) + (b"+OK\r\n" + bulk) * pairs
    return ClosedLoop(request, reply, 2 * pairs + 2, 50)


CASES = (
    *_get_set(
        "p1-50",
        "P=1, 50 connections",
        *("-P", "1", "-c", "50"),
        goals=(Goal(HAPROXY, 1.1), Goal(TWEMPROXY, 0.75)),
    ),
    *_get_set(
        "p16-50",
        "P=16, 50 connections",
        *("-P", "16", "-c", "50"),
        goals=(Goal(TWEMPROXY, 1.2), Goal(STRAIGHT, 0.6)),
    ),
    Case(
        "p1-1",
        f"GET {SIZE} B, P=1, 1 connection",
        RedisBenchmark(("-t", "get", "-d", str(SIZE), "-r", str(KEYS), "-c", "1")),
        (Goal(HAPROXY, 1.3, of_p50=True),),
    ),
    Case(
        "p1-1000",
        f"GET {SIZE} B, P=1, 1,000 connections",
        RedisBenchmark(("-t", "get", "-d", str(SIZE), "-r", str(KEYS), "-c", "1000")),
        (Goal(HAPROXY, 1.2), Goal(TWEMPROXY, 1.0)),
        guess=8_000,
        longer=2.0,
    ),
    Case(
        "multi",
        "MULTI, 10 SET, 10 GET, EXEC at once, 50 connections",
        _transaction(10),
        without="twemproxy knows no transactions",
        guess=20_000,
    ),
    Case(
        "lrange",
        f"LRANGE of {ELEMENTS} elements of {SIZE} B, P=1, 50 connections",
        RedisBenchmark(("-c", "50", "lrange", LIST_KEY, "0", str(ELEMENTS - 1))),
    ),
    Case(
        "1mb",
        "GET 1 MiB, 10 connections",
        RedisBenchmark(("-c", "10", "get", LARGE_KEY)),
        (Goal(STRAIGHT, 0.6),),
        guess=200,
    ),
    Case(
        "1mb",
        "SET 1 MiB, 10 connections",
        RedisBenchmark(("-c", "10", "-t", "set", "-d", str(LARGE))),
        (Goal(STRAIGHT, 0.6),),
        guess=200,
    ),
    Case(
        "tls",
        f"GET {SIZE} B over TLS, P=1, 50 connections",
        RedisBenchmark(("-t", "get", "-d", str(SIZE), "-r", str(KEYS), "-c", "50"), tls=True),
        without="twemproxy knows no TLS",
    ),
    Case(
        "churn",
        "connect, AUTH, PING, close; 50 at a time",
        RedisBenchmark(("-k", "0", "-c", "50", "ping")),
        (Goal(STRAIGHT, 0.35), Goal(HAPROXY, 0.7)),
        without="twemproxy answers AUTH and PING itself",
        guess=1_000,
    ),
    Case(
        "sub",
        f"SUBSCRIBE, PUBLISH {SIZE} B, UNSUBSCRIBE; 25 subscribers and 25 publishers",
        PubSub(25),
        without="twemproxy knows no channels",
        guess=3_000,
    ),
)

#: The cases without a rate: see `run`.
IDLE, REFRESH = "idle", "refresh"
NAMES = (*dict.fromkeys(case.case for case in CASES), IDLE, REFRESH)

IDLE_SESSIONS = 5_000
#: The most bytes of resident memory per idle session, and the most connections to Redis for its
#: tenant.
IDLE_MEMORY, IDLE_CONNECTIONS = 12 * 1024, 10

REFRESH_TENANTS = 2_000
#: The most ms by which reloads may raise the clients' p99.
REFRESH_GROWTH = 5.0
