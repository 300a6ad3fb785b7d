"""Attacks beside the list of known ones: OURS, each with the reason why it is tried, and EARLIER
ones, which the program measures if it is asked to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .memory import set_value
from .redis_time import SHORT_SCRIPT, keys, once
from .row import PASSWORD, NoProxyCan, Row, Together, prepared, words
from .streams import Renew, Streams
from .work import MANY, SENT, SUBSCRIBE_9999, UNKNOWN, client_hello, request, status

if TYPE_CHECKING:
    import redis


def together_expire(client: redis.Redis) -> None:
    """Makes 100,000 keys that end in the same millisecond, after 2 to 3 s."""
    text = "for i = 1, 10000 do redis.call('set', KEYS[1] .. i, '', 'pxat', ARGV[1]) end"
    second, _ = client.time()
    for piece in range(10):
        client.eval(text, 1, f"k{piece}:", (second + 3) * 1000)


def big_set(client: redis.Redis) -> None:
    """Makes a set of 500,000 members."""
    for piece in range(10):
        client.eval("for i = 1, 50000 do redis.call('sadd', 's', ARGV[1] .. ':' .. i) end return 1", 0, piece)


OURS = {
    "inline-gets": Row(
        "inline GETs, 8 pipelines",
        Streams(b"GET a\r\n" * 8_000, 8),
        least={**SENT, "open": 8},
        why="a plain command is cheap in RESP, but an inline one is taken apart and written anew",
    ),
    "empty-arrays": Row(
        "`*0`, 8 pipelines",
        Streams(b"*0\r\n" * 16_000, 8),
        least={**SENT, "open": 8},
        why="it is no command, so nothing counts it, and Redis does not answer it",
    ),
    "wrong-passwords": Row(
        "wrong passwords on new connections, 300 at a time",
        Streams([("AUTH", "not-the-password")], 300, log_in=False, renew=Renew.ANSWERED),
        least={"connected": 1_000},
        why="each costs a digest, a delay that is remembered, and perhaps a line of the log",
    ),
    "begun-values": Row(
        "the first 100 KB of a SET of 64 MiB, 400 sessions",
        Streams(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$67108864\r\n" + b"x" * 100_000, 400, once=True),
        least={"open": 400, "sent": 40_000_000},
        needs=2_000,
        why="a value that is streamed holds a connection to Redis for as long as it takes",
    ),
    "sipped-replies": Row(
        "GETs of 4 MiB, 100 sessions that read 4 KiB every 0.2 s",
        prepared(set_value("a", 4), Streams([("GET", "a")], 100, once=True, reads=4096, every=0.2)),
        least={"open": 100, "received": 20_000},
        needs=1_500,
        why="a client that reads a little is no deaf one, and keeps as much memory",
    ),
    "gets-by-byte": Row(
        "GET, a byte at a time, 300 sessions",
        Streams([("GET", "a")], 300, pieces=1),
        least={"open": 300, "sent": 20_000},
        why="a plain command costs nothing, but each of its bytes may cost a turn",
    ),
    "amplify": Row(
        "PUBLISH of 100 KB to its own 300 subscribers",
        Together(
            Streams(first=words("SUBSCRIBE", "c"), connections=300, wait=0.0),
            Streams(words("PUBLISH", "c", b"x" * 100_000), lockstep=True, wait=0.001),
        ),
        least={"open": 301, "received": 60_000_000},
        needs=2_000,
        why="one message in is 300 out: the rates of a tenant count what it sends",
    ),
    "half-handshakes": Row(
        "900 connections that send a ClientHello and no more",
        client_hello(5_000, connections=900, once=True),
        least={"open": 900},
        why="a handshake that is not finished holds a slot and the memory of TLS before there is a login",
    ),
    "exec-keys": Row(
        "MULTI, 20 KEYS of 300,000, EXEC",
        prepared(keys(300_000), once(("MULTI",), *[("KEYS", "x")] * 20, ("EXEC",))),
        NoProxyCan("Redis runs a transaction as one; the proxy can only keep slow commands out of it", 2_000),
        least={"worst": 500},
        why="commands that have to go one at a time run at once when they are queued",
    ),
    "eval-short": Row(
        "scripts of 20 ms, 20 pipelines",
        Streams([("EVAL", SHORT_SCRIPT, "0")] * 10, 20),
        NoProxyCan("Redis runs nothing beside a script, and all scripts that it has got", 100),
        least={"rounds": 1, "worst": 50},
        why="each is far below what counts as too long, and together they never end",
    ),
    "client-kill": Row(
        "CLIENT KILL of its own 300 sessions, which come again",
        Together(
            Streams(connections=300, renew=Renew.CLOSED, early=True, wait=0.0),
            Streams([("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")], lockstep=True, early=True, wait=0.001),
        ),
        straight=False,  # straight it would end the quiet tenant's connections
        least={"closed": 300, "connected": 600},
        why="a small command that ends many sessions, each with its clean-up and log-in",
    ),
    "expiry": Row(
        "100,000 keys that expire at once",
        prepared(together_expire, Streams([("PING",)], lockstep=True, every=0.1)),
        least={"rounds": 5},
        why="work that no command asks for at the time when it is done",
    ),
    "flushdb": Row(
        "FLUSHDB of 300,000 keys",
        prepared(keys(300_000), once(("FLUSHDB",))),
        least={"worst": 50},
        why="its database is its own; FLUSHDB ASYNC would do the same behind everybody's back",
    ),
    "del-large": Row(
        "DEL of a set of 500,000 members",
        prepared(big_set, once(("DEL", "s"))),
        NoProxyCan("the time is in the value, which the proxy does not know; tenants can use UNLINK", 1_000),
        least={"worst": 50},
        why="DEL's complexity is in what the key holds, so no argument tells of it",
    ),
    "scan-count": Row(
        "5 SCANs with a COUNT of 10,000,000 over 300,000 keys",
        prepared(keys(300_000), Streams([("SCAN", "0", "MATCH", "x", "COUNT", "10000000")] * 5, once=True)),
        least={"worst": 100},
        why="the command that everybody is told to use in place of KEYS",
    ),
    "blocked-900": Row(
        "900 sessions blocked on one key, and LPUSH of 900 elements",
        Together(
            Streams([("BLPOP", "l", "0")], 900, lockstep=True, wait=0.0),
            Streams(words("LPUSH", "l", *"x" * 900), lockstep=True, wait=0.001),
        ),
        least={"open": 901, "rounds": 910},
        why="one command wakes 900 sessions, and each of them comes back",
    ),
}

#: Measured with `ROWS=earlier` or by name: kinds that the rows above hold too, in other forms.
EARLIER = {
    "plain": Row("SET, pipelines on 50 connections", Streams([("SET", "a", "x" * 64)] * 1_000, 50), least=SENT),
    "plain-limited": Row(
        "the same of a tenant that is limited to 20,000/s",
        Streams([("SET", "a", "x" * 64)] * 1_000, 50),
        least=SENT,
        annotations={"redisproxy/commands-per-second": "20000"},
    ),
    "channels-100": Row(
        "SUBSCRIBE to 1,000 channels, UNSUBSCRIBE, 100 connections",
        Streams([("SUBSCRIBE", *map(str, range(1_000))), ("UNSUBSCRIBE",)], 100),
        least=SENT,
    ),
    "channels-reset": Row(
        "SUBSCRIBE to 9,999 channels, RESET, AUTH",
        Streams([SUBSCRIBE_9999, ("RESET",), ("AUTH", PASSWORD)]),
        least=SENT,
    ),
    "key-events": Row(
        "PSUBSCRIBE to 400 patterns of key events, RESET, AUTH",
        Streams([("PSUBSCRIBE", *(f"__key*{n}" for n in range(400))), ("RESET",), ("AUTH", PASSWORD)]),
        least=SENT,
    ),
    "key-events-long": Row(
        "the same of 300 long patterns that match in several ways",
        Streams([("PSUBSCRIBE", *("*_?_?_?*_?_?e*" * 14 + str(n) for n in range(300))), ("RESET",), ("AUTH", PASSWORD)]),
        least=SENT,
    ),
    "words-parts": Row(
        "100 connections with commands of 20,000 words",
        Streams([("CLIENT", "NOSUCH", *["c"] * 20_000)], 100),
        least=SENT,
    ),
    "words-types": Row(
        "CLIENT LIST of 14,000 types", Streams([("CLIENT", "LIST", *("TYPE", "normal") * (MANY // 2))]), least=SENT
    ),
    "words-ids": Row("CLIENT LIST of 28,000 ids", Streams([("CLIENT", "LIST", "ID", *["1"] * MANY)]), least=SENT),
    "config": Row("CONFIG GET of 256 patterns, 20 connections", Streams([("CONFIG", "GET", *["*"] * 256)], 20), least=SENT),
    "connects": Row(
        "2,000 connections without a password, made again and again",
        Streams(UNKNOWN, 2_000, log_in=False, renew=Renew.ANSWERED),
        least={"connected": 2_000},
    ),
    "publish": Row("PUBLISH, 100 connections", Streams([("PUBLISH", "a", "b")], 100), least=SENT),
    "blpop": Row(
        "BLPOP of nothing, 200 connections, and PING behind",
        Streams([("BLPOP", "nokey", "0.001"), ("PING",)], 200),
        least={"open": 200},
    ),
    "livez-pipelined-64": status(
        "`GET /livez`, pipelined on 64 connections", request("/livez") * 1_000, 64, least={"sent": 50_000}
    ),
    "nowhere-pipelined-64": status(
        "`GET /nowhere`, pipelined on 64 connections", request("/nowhere") * 1_000, 64, least={"sent": 50_000}
    ),
    "metrics": status("`GET /metrics`, 20 connections", request("/metrics"), 20, lockstep=True, least={"rounds": 20}),
    "page": status("the status page, 20 connections", request("/"), 20, lockstep=True, least={"rounds": 20}),
    "large-heads": status(
        "requests of 499 headers, 64 connections",
        b"GET /livez HTTP/1.1\r\n" + b"".join(b"h%d: x\r\n" % n for n in range(499)) + b"\r\n",
        64,
        least={"sent": 50_000},
    ),
    "status-storm": Row(
        "connects to the status port and leaves",
        Streams(connections=50, log_in=False, renew=Renew.SENT, port="status_port"),
        straight=False,
        least={"connected": 1_000},
    ),
    "status-deaf": status(
        "64 connections that ask for the metrics and read nothing",
        request("/metrics") * 100,
        64,
        reads=0,
        least={"open": 64},
    ),
}
