"""Attacks on the proxy's time: commands, log-ins, handshakes and requests that it handles."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from .row import PASSWORD, Attack, Row, Target, Together, words
from .streams import Command, Renew, Streams

#: What a small command must have sent in a measurement: bytes.
SENT = {"sent": 500_000}
UNKNOWN: Sequence[Command] = [("NOSUCH",)]
#: One word that is as long as a UNSUBSCRIBE, XREAD or NUMSUB may have of them.
MANY = 28_000


def tiny(title: str, *commands: Command) -> Row:
    """A row of one connection that sends small commands without end."""
    return Row(f"{title}, one connection", Streams(commands), least=SENT)


def nobody(connections: int) -> Row:
    """A row of connections that do not log in."""
    attack = Streams(UNKNOWN, connections, log_in=False)
    return Row(
        f"unknown commands without a password, {connections} connections", attack, least={**SENT, "open": connections}
    )


def request(path: str) -> bytes:
    """Returns a request to the status port."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def status(title: str, *more: object, **options: object) -> Row:
    """A row of connections to the status port. Redis has no such port."""
    least = options.pop("least", {"sent": 10_000})
    attack = partial(Streams, log_in=False, port="status_port", renew=Renew.CLOSED, early=True)(*more, **options)
    return Row(title, attack, straight=False, least=least)


def client_hello(again: int, **options: object) -> Attack:
    """Sends the same ClientHello on new connections, so many a second."""

    def attack(target: Target, counters: object) -> object:
        return Streams(target.hello(), log_in=False, port="tls_port", rate=again, **options)(target, counters)

    return attack


SUBSCRIBE_9999 = ("SUBSCRIBE", *map(str, range(9_999)))

WORK = {
    "unknown": tiny("unknown commands", *UNKNOWN),
    "unsubscribe": tiny("UNSUBSCRIBE", ("UNSUBSCRIBE",)),
    "multi": tiny("MULTI, DISCARD", ("MULTI",), ("DISCARD",)),
    "subscribe": tiny("SUBSCRIBE", ("SUBSCRIBE", "a")),
    "reset": tiny("RESET, AUTH", ("RESET",), ("AUTH", PASSWORD)),
    "client-info": tiny("CLIENT INFO", ("CLIENT", "INFO")),
    "select": tiny("SELECT of its own index", ("SELECT", "1")),
    "hello": tiny("HELLO", ("HELLO",)),
    "lines": tiny("empty lines", ()),
    "unknown-20": Row("unknown commands, 20 connections", Streams(UNKNOWN, 20), least={**SENT, "open": 20}),
    "nobody-50": nobody(50),
    "nobody-300": nobody(300),
    "nobody-900": nobody(900),
    "subscribe-9999": Row(
        "SUBSCRIBE of 9,999 channels, UNSUBSCRIBE", Streams([SUBSCRIBE_9999, ("UNSUBSCRIBE",)]), least=SENT
    ),
    "subscribers-900": Row(
        "PUBLISH to its own 900 subscribers",
        Together(
            Streams(first=words("SUBSCRIBE", "c"), connections=900, wait=0.0),
            Streams([("PUBLISH", "c", "x")] * 16, lockstep=True, wait=0.001),
        ),
        least={"open": 900, "received": 1_000_000},
    ),
    "subscribe-500": Row(
        "SUBSCRIBE, RESET, AUTH, 500 connections",
        Streams([("SUBSCRIBE", "a"), ("RESET",), ("AUTH", PASSWORD)], 500),
        least={**SENT, "open": 500},
    ),
    "livez-pipelined": status("`GET /livez`, pipelined", request("/livez") * 1_000, least={"sent": 50_000}),
    "status-slow": status("64 sockets at the status port, a byte each in 2 s", b"G", 64, every=2.0, least={"open": 64}),
    "nowhere": status("`GET /nowhere`, 20 connections", request("/nowhere"), 20, lockstep=True, least={"rounds": 20}),
    "client-hello": Row(
        "one recorded ClientHello, 500 a second",
        client_hello(500, connections=100, renew=Renew.ANSWERED),
        least={"rounds": 500},
    ),
    "inline-bytes": Row(
        "quoted inline commands, a byte at a time, 300 connections without a password",
        Streams(b'"NOSUCH" "\\x41\\n" \'b\'\r\n' * 10, 300, log_in=False, pieces=1),
        least={"open": 300, "sent": 20_000},
    ),
    "connect-storm": Row(
        "connects and leaves, as fast as it can",
        Streams(connections=50, log_in=False, renew=Renew.SENT),
        least={"connected": 3_000},
    ),
    "log-ins": Row(
        "log-ins on new connections, 50 at a time",
        Streams(connections=50, renew=Renew.ANSWERED),
        least={"connected": 1_000},
    ),
    "info-900": Row("INFO, 900 connections", Streams([("INFO",)], 900, lockstep=True), least={"open": 900, "rounds": 900}),
    "words-unsubscribe": Row("UNSUBSCRIBE of 28,000 channels", Streams([("UNSUBSCRIBE", *["c"] * MANY)]), least=SENT),
    "words-xread": Row(
        "XREAD of 14,000 streams",
        Streams([("XREAD", "STREAMS", *["s"] * (MANY // 2), *["0"] * (MANY // 2))]),
        least=SENT,
    ),
    "words-numsub": Row("PUBSUB NUMSUB of 28,000 channels", Streams([("PUBSUB", "NUMSUB", *["c"] * MANY)]), least=SENT),
    "plain-900": Row("SET, pipelines on 900 connections", Streams([("SET", "a", "b")], 900), least={**SENT, "open": 900}),
}
