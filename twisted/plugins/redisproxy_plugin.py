"""Registers ``twistd redisproxy``. It names the module `redisproxy.tap` and imports nothing of the
proxy.
"""

from twisted.application.service import ServiceMaker

redisproxy = ServiceMaker(
    "Redis Proxy for Containers",
    "redisproxy.tap",
    "One Redis for many Kubernetes namespaces, each with a password and a database of its own",
    "redisproxy",
)
