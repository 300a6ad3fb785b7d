"""Redis Proxy for Containers: one Redis, many tenants."""

__version__ = "0.1.0"
