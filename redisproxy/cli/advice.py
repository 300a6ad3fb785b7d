"""Returns what an operator can do about a problem that the command found.

The advice is the status page's own (`ops.problems`, `ops.redis_advice`). Must not have advice of
its own.
"""

from __future__ import annotations

from ..ops import problems
from ..ops.redis_advice import redis_advice as about_redis
from ..tenants.documents import Problem

#: Takes the place of the namespace in a problem of Redis.
REDIS = "Redis"


def redis_advice(reason: str) -> str:
    """Returns the advice for something that is wrong with Redis."""
    return about_redis(reason) or "Fix it as told."


def advice(problem: Problem) -> str:
    """Returns the advice for a problem."""
    if problem.namespace == REDIS and not problem.secret:
        return redis_advice(problem.reason)
    return problems.advice(problem.reason)
