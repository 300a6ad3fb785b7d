"""Suites and sessions of other people's clients, directly to Redis and through the proxy."""
