"""Attacks on memory and slots: of the proxy, of the kernel for its sockets, and of Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .row import MIB, Held, NoProxyCan, Row, Together, prepared, words
from .streams import Renew, Streams

if TYPE_CHECKING:
    import redis

SUBSCRIBE_40000 = words("SUBSCRIBE", *("c" for _ in range(40_000)))
SUBSCRIBE_10000 = words("SUBSCRIBE", *(f"c{number}" for number in range(10_000)))
SET_1_MIB = words("SET", "a", b"x" * MIB)
#: A log-in that lacks its last bytes, as large as one may be before a log-in.
HALF_AUTH = b"*10\r\n$4\r\nAUTH\r\n" + (b"$16384\r\n" + b"x" * 16_384 + b"\r\n") * 8 + b"$16384\r\nx"


def set_value(name: str, mib: float):
    """Returns what prepares one value of so many MiB."""

    def prepare(client: redis.Redis) -> None:
        client.setrange(name, int(mib * MIB) - 1, b"x")

    return prepare


def hold(connections: int, log_in: bool) -> Streams:
    """Connections that are made again when they are closed, and do nothing."""
    return Streams(connections=connections, log_in=log_in, renew=Renew.CLOSED, rate=2_000)


MEMORY = {
    "numsub-leave": Row(
        "PUBSUB NUMSUB of 250 KB, then leaves, 100 at a time",
        Streams([("PUBSUB", "NUMSUB", *["c"] * 35_000)], 100, renew=Renew.SENT, rate=1_000),
        least={"sent": 20 * MIB},
    ),
    "half-subscribe": Row(
        "half a SUBSCRIBE of 270 KB, 450 connections",
        Streams(SUBSCRIBE_40000[:-3], 450, once=True),
        least={"open": 450, "sent": 100_000_000},
    ),
    "subscriptions": Row(
        "10,000 subscriptions on each of 143 sessions, and their end",
        Streams(SUBSCRIBE_10000, 143, once=True),
        least={"open": 143, "sent": 10_000_000, "worst": 500},
    ),
    "reply-skip": Row(
        "CLIENT REPLY OFF, ON, SKIP behind a BLPOP, 20 connections",
        Streams(
            [("CLIENT", "REPLY", "OFF"), ("CLIENT", "REPLY", "ON"), ("CLIENT", "REPLY", "SKIP"), ("PING",)],
            20,
            first=words("BLPOP", "nokey", "0"),
            most=200 * MIB,
        ),
        least={"sent": 10 * MIB},
    ),
    "logged-in-2000": Row("2,000 connections that log in", hold(2_000, True), least={"open": 2_000}),
    "nobody-2200": Row("2,200 connections without a password", hold(2_200, False), least={"open": 2_200}),
    "turned-away-6000": Row("6,000 connections without a password", hold(6_000, False), least={"open": 2_500}),
    "values-1m": Row(
        "800 values of 1 MiB",
        Streams(lambda n: words("SET", f"k{n % 800}", b"x" * MIB), 4, most=800 * MIB),
        least={"resident": 100, "sent": 100 * MIB},
        needs=2_500,
    ),
    "gets-64m": Row(
        "60 GETs of 64 MiB that it does not read",
        prepared(set_value("a", 64), Streams([("GET", "a")], 60, once=True, reads=0)),
        least={"resident": 1_000},
        needs=6_000,
    ),
    "sets-8m": Row(
        "SETs of 8 MiB, 300 connections",
        Streams(words("SET", "a", b"x" * (8 * MIB)), 300),
        least={"open": 300, "sent": 300 * MIB},
        needs=4_000,
    ),
    "open-multi": Row(
        "640 SETs of 1 MiB in 10 open MULTIs",
        Streams(SET_1_MIB, 10, first=words("MULTI"), most=640 * MIB),
        least={"resident": 150, "sent": 100 * MIB},
        needs=2_000,
    ),
    "behind-blpop": Row(
        "320 SETs of 1 MiB behind 8 BLPOPs",
        Streams(SET_1_MIB, 8, first=words("BLPOP", "nokey", "0"), most=320 * MIB),
        least={"resident": 100},
        needs=2_000,
    ),
    "deaf-100": Row(
        "12 MB of messages for 100 subscribers that do not read",
        Together(
            Streams(first=words("SUBSCRIBE", "c"), connections=100, reads=0, wait=0.0),
            Streams(words("PUBLISH", "c", b"x" * 100_000), lockstep=True, most=12_000_000, wait=0.001),
        ),
        least={"open": 101, "kernel": 50},
        needs=3_000,
    ),
    "eval-texts": Row(
        "2,000 scripts of 100 KB",
        Streams(lambda n: words("EVAL", f"return {n} --" + "x" * 100_000, "0"), 4, most=200_000_000),
        least={"sent": 20 * MIB},
    ),
    "setbit-far": Row(
        "SETBIT of the bit 4,294,967,295",
        Streams([("SETBIT", "a", "4294967295", "1")], once=True),
        NoProxyCan("the value is the tenant's own, and without a limit of its memory it may have it", 1_000),
        least={"resident": 400},
        needs=1_500,
    ),
    "unread-900": Row(
        "900 sessions that do not read 1 MiB each",
        # A GET at a time: Redis copies what is asked for at once before it sends any of it.
        prepared(
            set_value("a", 1 / 16),
            Streams([("GET", "a")] * 16, 900, once=True, reads=0, pieces=len(words("GET", "a")), every=0.03),
        ),
        least={"open": 900, "kernel": 20, "resident": 300},
        needs=4_000,
    ),
    "nobody-1900": Row(
        "1,900 connections without a password that send 256 KiB and do not read",
        Streams(b"NOSUCH\r\n" * 32 * 1024, 1_900, log_in=False, once=True, reads=0),
        least={"open": 1_900, "sent": 100 * MIB},
        needs=2_000,
    ),
    "channel-1m": Row(
        "SUBSCRIBE to a channel of 1 MB, 262 sessions",
        Streams(lambda n: words("SUBSCRIBE", b"%d" % n + b"x" * 1_000_000), 262, once=True),
        least={"open": 262, "resident": 200},
        needs=2_000,
    ),
    "half-auth-1000": Row(
        "half an AUTH of 147 KB, 1,000 connections",
        Streams(HALF_AUTH, 1_000, log_in=False, once=True),
        Held(),
        least={"open": 1_000, "sent": 100_000_000},
    ),
}
