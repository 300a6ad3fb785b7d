"""CONFIG GET for tenants: a short list of harmless settings.

Owns the list, and the reply. `glob` matches a tenant's patterns with the list. No pattern reaches
Redis: the proxy asks, with the master's rights, only for names in the list. A tenant cannot read a
setting of a newer server until it is listed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .. import bounds, messages
from ..resp.value import Answer
from .glob import matches, parse

#: Settings that client libraries, frameworks and graphical tools ask for: the number of databases,
#: what happens when memory is full, notifications about keys, whether data survives a restart, the
#: largest value, when values change their encoding, and, for StackExchange.Redis, how long a
#: connection may be idle and whether a replica takes writes. Some have an older name as well.
NAMES = tuple(
    b"""databases maxmemory maxmemory-policy notify-keyspace-events appendonly appendfsync save timeout
    replica-read-only slave-read-only proto-max-bulk-len hash-max-listpack-entries hash-max-listpack-value
    hash-max-ziplist-entries hash-max-ziplist-value""".split()
)
TOO_LONG = messages.CONFIG_PATTERNS.reply(most=bounds.CONFIG_PATTERN_BYTES)


class PatternError(Exception):
    """The patterns are longer than bounds.CONFIG_PATTERN_BYTES."""


def named(words: Iterable[bytes]) -> list[bytes]:
    """The members of NAMES that the arguments of a CONFIG GET name, each once.

    From Redis 7 on the reply repeats a name as the client spelt it, so that spelling is kept.
    Raises PatternError. Source: config.c of Redis 7 (configGetCommand).
    """
    found: dict[bytes, bytes] = {}
    remaining = bounds.CONFIG_PATTERN_BYTES
    for word in words:
        if not any(special in word for special in b"[*?"):
            if word.lower() in NAMES:
                found.setdefault(word.lower(), word)
            continue
        remaining -= len(word)
        if remaining < 0:
            raise PatternError
        pattern = parse(word.lower())
        for name in NAMES:
            if name not in found and matches(pattern, name):
                found[name] = name
    return list(found.values())


def reply(names: Sequence[bytes], answers: Sequence[Answer], protocol: int) -> bytes:
    """The reply to CONFIG GET.

    names: the settings that Redis was asked for; answers: Redis's answer to each, a name and a
    value, or nothing if it has no such setting; protocol: 2 or 3.
    """
    pairs = []
    for name, answer in zip(names, answers, strict=True):
        match answer:
            case [bytes(own), bytes(value)] if own.lower() == name.lower():
                pairs.append((own, value))
    head = b"%%%d\r\n" % len(pairs) if protocol == 3 else b"*%d\r\n" % (2 * len(pairs))
    return head + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for pair in pairs for part in pair)
