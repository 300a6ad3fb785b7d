"""Shows addresses of connections and ports as text.

Owns the one form that the log and the operator see. Redis's CLIENT LIST has the same form.
"""

from __future__ import annotations

import ipaddress

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress

#: How the kernel writes an IPv4 address at a socket for IPv6: ::ffff:10.0.0.7 (RFC 4291, 2.5.5.2).
_MAPPED = "::ffff:"


def host_of(address: IAddress | None) -> str:
    """Returns the IP address, or "" for a Unix socket.

    An IPv4 client of a socket that serves both families is shown as 10.0.0.7, not as
    ::ffff:10.0.0.7: the log, the login backoff and CLIENT INFO know one form of each client.
    """
    if not isinstance(address, IPv4Address | IPv6Address):
        return ""
    host = str(address.host)
    if host.startswith(_MAPPED):
        mapped = ipaddress.IPv6Address(host).ipv4_mapped
        return host if mapped is None else str(mapped)
    return host


def shown_address(address: IAddress | None) -> str:
    """Returns HOST:PORT. An IPv6 host is in brackets. For the host see `host_of`."""
    if not isinstance(address, IPv4Address | IPv6Address):
        return "a Unix socket"
    host = host_of(address)
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
