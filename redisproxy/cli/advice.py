"""What an operator can do about a problem that the command found.

Owns the advice about Redis. That about namespaces and secrets is the status page's own (`ops.problems`).
"""

from __future__ import annotations

import re

from ..ops import problems
from ..tenants.documents import Problem

#: What stands in place of a namespace in a problem of Redis.
REDIS = "Redis"

#: By the code of an error that Redis answers with: what state that is, and what to do. Most of these states pass.
_BY_CODE = {
    "BUSY": (
        "Redis runs a script that takes too long (BUSY): wait for its end, or end it as the master: SCRIPT KILL, or for a "
        "function FUNCTION KILL."
    ),
    "LOADING": "Redis loads its data (LOADING): wait until it has, and check again.",
    "OOM": "Redis has no memory left (OOM): raise its maxmemory, or delete keys.",
    "MASTERDOWN": "This is a replica that has lost its master (MASTERDOWN): wait for it, or name another Redis.",
    "READONLY": "This is a replica (READONLY): name the master, or its sentinels, in the master secret.",
    "MISCONF": "Redis cannot write its data to disk (MISCONF): its log says why. It refuses all writes until then.",
    "NOREPLICAS": "Redis has too few replicas (NOREPLICAS): wait for them, or lower its min-replicas-to-write.",
    "TRYAGAIN": "Redis moves keys just now (TRYAGAIN): wait, and check again.",
    "CLUSTERDOWN": "This is a node of a Redis Cluster (CLUSTERDOWN): name a Redis without cluster mode.",
    "WRONGPASS": "Fix the password in the master secret.",
    "NOAUTH": "Write Redis's password into the master secret.",
    "NOPERM": "Give the master's user the rights that docs/redis.md names.",
}
#: By what else a reason says; the first that matches.
_BY_TEXT = (
    (r"invalid password", _BY_CODE["WRONGPASS"]),
    (r"is loading its data", _BY_CODE["LOADING"]),
    (r"max number of clients", "Redis has as many connections as it may: raise its maxclients."),
    (r"the CA file", "Fix the file that --redis-ca names: it takes one or more certificates in PEM."),
    (r"no connection", "Is the address in the master secret right, and may this place reach it (NetworkPolicy, TLS)?"),
    (r"closed the connection", "What closes it? A load balancer without a backend, maxclients, or TLS at one end alone."),
    (r"none of the sentinels", "Fix the sentinels in the master secret, or what each says above."),
    (r"--acl is require", "Take another Redis, give the master's user the right to ACL SETUSER, or take --acl auto."),
    (r"is a sentinel|is a replica|Redis Cluster", "Name another address in the master secret, as told."),
)


def redis_advice(reason: str) -> str:
    """What to do about Redis, by what is wrong with it."""
    for code, text in _BY_CODE.items():
        if re.search(rf"\b{code}\b", reason):
            return text
    return next((text for pattern, text in _BY_TEXT if re.search(pattern, reason)), "Fix it as told.")


def advice(problem: Problem) -> str:
    """What to do about it."""
    if problem.namespace == REDIS and not problem.secret:
        return redis_advice(problem.reason)
    return problems.advice(problem.reason)
