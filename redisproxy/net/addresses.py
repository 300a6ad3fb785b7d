"""Addresses of connections and ports, as text.

Owns one form of them, for the log and the operator. It is also the form that Redis's CLIENT LIST
has.
"""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress


def shown_address(address: IAddress | None) -> str:
    """HOST:PORT, with brackets around a host of IPv6."""
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    return "a Unix socket"
