"""How soon a TCP connection counts as broken whose other end does not acknowledge.

Owns the options of the socket: see UNACKNOWLEDGED_SECONDS in `bounds`.
"""

from __future__ import annotations

import os
import socket

from .. import bounds


def probe_idle_connection(descriptor: int) -> None:
    """Has the kernel probe the connection while it is idle, and close it without acknowledgements.

    descriptor: of a TCP socket.
    """
    # the handle of a TLS transport is no socket
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        for option, value in _KEEPALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _keepalive() -> list[tuple[int, int]]:
    wanted = {
        "TCP_KEEPIDLE": bounds.KEEPALIVE_SECONDS,
        "TCP_KEEPINTVL": bounds.KEEPALIVE_SECONDS,
        "TCP_KEEPCNT": bounds.UNACKNOWLEDGED_SECONDS // bounds.KEEPALIVE_SECONDS,
        "TCP_USER_TIMEOUT": bounds.UNACKNOWLEDGED_SECONDS * 1000,
    }
    return [(getattr(socket, name), value) for name, value in wanted.items() if hasattr(socket, name)]


#: Socket options and values, as far as the system has them.
_KEEPALIVE = _keepalive()
