"""Connections to Redis: the pool, what Redis is, ACL users, failover."""
