"""What a session can send first: commands of each kind that the proxy handles in its own way."""

from __future__ import annotations

from redisproxy.resp.framing import encode

#: Each command, and how its reply begins when Redis has no data.
FIRST = (
    (b"GET a\r\n", b"$-1"),
    (b"BLPOP l 0.05\r\n", b"*-1"),
    (b"MULTI\r\n", b"+OK"),
    (b"WATCH a\r\n", b"+OK"),
    (b"MULTI\r\nGET a\r\nEXEC\r\n", b"+OK"),
    (b"SUBSCRIBE c\r\n", b"*3"),
    (b"PSUBSCRIBE c*\r\n", b"*3"),
    (b"XREAD BLOCK 50 STREAMS s $\r\n", b"*-1"),
    (encode([b"SET", b"large", b"x" * 100_000]), b"+OK"),
    (b"EVAL \"return redis.call('publish', 'c', 'm')\" 0\r\n", b":"),
    (b"INFO server\r\n", b"$"),
    (b"PUBSUB NUMPAT\r\n", b":"),
    (b"CONFIG GET databases\r\n", b"*2"),
    (b"HELLO 3\r\n", b"%"),
)
