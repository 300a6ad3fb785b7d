"""Connections to Redis: the pool, failover, ACL users, and finding out what Redis is."""
