"""A session of valkey-py."""

import valkey
import valkey.asyncio
from redis_family import session

session(valkey, valkey.Valkey, "valkey")
