"""What an operator can do about a problem that the command found.

Owns where that is found: it is the status page's own advice (`ops.problems`, `ops.redis_advice`).
"""

from __future__ import annotations

from ..ops import problems
from ..ops.redis_advice import redis_advice as about_redis
from ..tenants.documents import Problem

#: What stands in place of a namespace in a problem of Redis.
REDIS = "Redis"


def redis_advice(reason: str) -> str:
    """What to do about Redis, by what is wrong with it."""
    return about_redis(reason) or "Fix it as told."


def advice(problem: Problem) -> str:
    """What to do about it."""
    if problem.namespace == REDIS and not problem.secret:
        return redis_advice(problem.reason)
    return problems.advice(problem.reason)
