"""Attacks on Redis's time: few commands that each, or together, take long there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .memory import set_value
from .row import Attack, NoProxyCan, Row, Together, prepared, words
from .streams import Streams

if TYPE_CHECKING:
    import redis

ONE_AT_A_TIME = "Redis does not interrupt a command that takes long; the proxy sends one at a time"
ENDED_SCRIPT = "Redis runs nothing beside a script; the proxy ends one that takes 5 s"
#: 10 to 30 ms of Lua.
SHORT_SCRIPT = "for i = 1, 1000000 do end"


def keys(count: int) -> Callable[[redis.Redis], None]:
    """Returns what makes so many keys."""

    def prepare(client: redis.Redis) -> None:
        for piece in range(count // 50_000):
            client.eval("for i = 1, 50000 do redis.call('set', 'k' .. ARGV[1] .. ':' .. i, '') end return 1", 0, piece)

    return prepare


def long_list(client: redis.Redis) -> None:
    """Makes a list of 100,000 elements."""
    client.eval("for i = 1, 100000 do redis.call('rpush', 'l', (i * 7919) % 100003) end return 1", 0)


def key_events(client: redis.Redis) -> None:
    """Lets Redis publish all key events."""
    client.config_set("notify-keyspace-events", "KEA")


def once(*commands: tuple[str, ...], connections: int = 1) -> Attack:
    """Sends commands in one write."""
    return Streams(commands, connections, once=True)


REDIS_TIME = {
    "patterns": Row(
        "10,000 patterns on 100 sessions, and PUBLISH",
        Together(
            Streams(lambda n: words("PSUBSCRIBE", *(f"p{n}-{i}*x*" for i in range(100))), 100, once=True, wait=0.0),
            Streams([("PUBLISH", "c", "x")] * 16, lockstep=True, wait=0.001),
        ),
        least={"open": 101, "rounds": 101},
    ),
    "script-endless": Row(
        "`while true do end`",
        once(("EVAL", "while true do end", "0")),
        NoProxyCan(ENDED_SCRIPT, 7_000),
        least={"worst": 1_000},
    ),
    "string-find": Row(
        "a hostile pattern of `string.find` in a script",
        once(("EVAL", "return string.find(string.rep('a', 400), '.-.-.-.-b')", "0")),
        NoProxyCan("time inside one function of Lua cannot be ended; `--tenant-scripts deny` denies scripts"),
        least={"worst": 1_000},
    ),
    "bitcount-100": Row(
        "100 BITCOUNT of 128 MiB in one write",
        prepared(set_value("a", 128), once(*[("BITCOUNT", "a")] * 100)),
        NoProxyCan(ONE_AT_A_TIME, 500),
        least={"worst": 500},
    ),
    "keys-40": Row(
        "40 KEYS of a million in one write",
        prepared(keys(1_000_000), once(*[("KEYS", "x")] * 40)),
        NoProxyCan(ONE_AT_A_TIME, 1_500),
        least={"worst": 500},
    ),
    "sort-100": Row(
        "100 SORT of 100,000 elements in one write",
        prepared(long_list, once(*[("SORT", "l", "LIMIT", "0", "1")] * 100)),
        NoProxyCan(ONE_AT_A_TIME, 500),
        least={"worst": 500},
    ),
    "lolwut-200": Row(
        "200 LOLWUT in one write",
        once(*[("LOLWUT", "VERSION", "5", "1000", "1000", "1000")] * 200),
        least={"worst": 500},
    ),
    "watch-27000": Row(
        "WATCH of 27,000 keys", once(("WATCH", *(f"k{number}" for number in range(27_000)))), least={"worst": 500}
    ),
    "srandmember": Row(
        "SRANDMEMBER of 30,000,000",
        prepared(lambda client: client.sadd("s", "a"), once(("SRANDMEMBER", "s", "-30000000"))),
        least={"worst": 500},
        needs=3_000,
    ),
    "mset-key-events": Row(
        "MSET of 20,000 keys under 300 subscribers to key events",
        prepared(
            key_events,
            Together(
                Streams(first=words("PSUBSCRIBE", "__key*__:*"), connections=300, wait=0.0),
                Streams(words("MSET", *(word for n in range(20_000) for word in (f"k{n}", "x"))), once=True, wait=0.001),
            ),
        ),
        least={"open": 301, "worst": 500},
        needs=3_000,
    ),
    "blpop-27000": Row(
        "BLPOP of 27,000 keys, 200 sessions",
        once(("BLPOP", *(f"k{number}" for number in range(27_000)), "0"), connections=200),
        least={"open": 200, "worst": 500},
        needs=2_000,
    ),
}
