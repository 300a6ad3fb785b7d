"""A session of redis-py."""

import redis
import redis.asyncio
from redis_family import session

session(redis, redis.Redis, "redis")
