"""Shows addresses of connections and ports as text.

Owns the one form that the log and the operator see. Redis's CLIENT LIST has the same form.
"""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress


def shown_address(address: IAddress | None) -> str:
    """Returns HOST:PORT. An IPv6 host is in brackets."""
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    return "a Unix socket"
