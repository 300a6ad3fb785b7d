"""Makes ``twistd redisproxy`` known. It names a module, and imports nothing of it."""

from twisted.application.service import ServiceMaker

redisproxy = ServiceMaker(
    "Redis Proxy for Containers",
    "redisproxy.tap",
    "One Redis for many Kubernetes namespaces, each with a password and a database of its own",
    "redisproxy",
)
