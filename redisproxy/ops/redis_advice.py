"""What an operator can do about Redis, by what is wrong with it.

Owns this advice, for the status page and the operator's command.
"""

from __future__ import annotations

import re

#: By the code of an error from Redis: the state that it means, and what to do. Most of these states
#: end by themselves.
_BY_CODE = {
    "BUSY": (
        "Redis runs a script that takes too long (BUSY): wait for its end, or end it as the master: SCRIPT KILL, or for a "
        "function FUNCTION KILL."
    ),
    "LOADING": "Redis loads its data (LOADING): wait until it has.",
    "OOM": "Redis has no memory left (OOM): raise its maxmemory, or delete keys.",
    "MASTERDOWN": "This is a replica that has lost its master (MASTERDOWN): wait for it, or name another Redis.",
    "READONLY": "This is a replica (READONLY): name the master, or its sentinels, in the master secret.",
    "MISCONF": "Redis cannot write its data to disk (MISCONF): its log says why. It refuses all writes until then.",
    "NOREPLICAS": "Redis has too few replicas (NOREPLICAS): wait for them, or lower its min-replicas-to-write.",
    "TRYAGAIN": "Redis moves keys just now (TRYAGAIN): wait.",
    "CLUSTERDOWN": "This is a node of a Redis Cluster (CLUSTERDOWN): name a Redis without cluster mode.",
    "WRONGPASS": "Redis has another password than the master secret: fix the secret.",
    "NOAUTH": "Write Redis's password into the master secret.",
    "NOPERM": "Give the master's user the rights that docs/redis.md names.",
}
#: By another pattern of a reason. The first match counts.
_BY_TEXT = (
    (r"not answered a PING", "It is stopped, forks, or runs one long command or script: see whether its process runs."),
    (r"invalid password|answered AUTH", _BY_CODE["WRONGPASS"]),
    (r"is loading its data", _BY_CODE["LOADING"]),
    (r"closes connections|max number of clients", "Raise maxclients of Redis, or see what stands between it and the proxy."),
    (r"the CA file", "Fix the file that --redis-ca names: it takes one or more certificates in PEM."),
    (r"certificate|SSL|TLS", "Fix --redis-ca, or the name in Redis's certificate."),
    (
        r"ConnectionRefused|errno 111",
        "Nothing listens at that address: start Redis, or fix the address in the master secret.",
    ),
    (r"DNSLookup|lookup|resolve", "Fix the host in the master secret, or the name service."),
    (r"closed the connection", "What closes it? A load balancer without a backend, maxclients, or TLS at one end alone."),
    (r"--acl is require", "Take another Redis, give the master's user the right to ACL SETUSER, or take --acl auto."),
    (r"is a sentinel|is a replica|Redis Cluster", "Name another address in the master secret, as told."),
    (r"the sentinels", "See what each sentinel says, and fix the sentinels in the master secret."),
    (
        r"too long|[Tt]imeout|timed out|[Uu]nreachable",
        "See whether a network policy is in the way, the machine is away, or Redis is busy.",
    ),
    (r"no connection", "Is the address in the master secret right, and may this place reach it (NetworkPolicy, TLS)?"),
)


def redis_advice(reason: str) -> str:
    """Returns the advice for a reason; empty if there is none."""
    for code, text in _BY_CODE.items():
        if re.search(rf"\b{code}\b", reason):
            return text
    return next((text for pattern, text in _BY_TEXT if re.search(pattern, reason)), "")
