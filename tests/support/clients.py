"""redis-py clients for the tests."""

from __future__ import annotations

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def client_once(**options: object) -> redis.Redis:
    """Returns a client on 127.0.0.1 that tries everything once.

    By default redis-py tries eleven times, a wrong password too. That takes ten seconds, and hides
    an error that passes. options: of `redis.Redis`.
    """
    return redis.Redis(host="127.0.0.1", retry=Retry(NoBackoff(), 0), **options)
