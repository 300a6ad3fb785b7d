"""The kernel's buffers of a socket: how large they may be, and what they use.

Owns these options of sockets. cgroup v2 charges the buffers to the pod. The kernel itself would let
each grow to several megabytes.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from pathlib import Path

#: getsockopt(SOL_SOCKET, SO_MEMINFO) of Linux, since 4.12: nine numbers, among them those below.
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("9I")
#: What was received and not read, what is kept for what comes next, and what was sent and not
#: acknowledged.
_RECEIVED, _AHEAD, _SENT = 0, 4, 5
_TCP_PAGES = re.compile(rb"^TCP:.* mem ([0-9]+)$", re.MULTILINE)
_SOCKSTAT = Path("/proc/net/sockstat")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def limit(handle: object, receive: int = 0, send: int = 0) -> None:
    """Limits the kernel's buffers of a socket. Does nothing if this is no socket.

    receive, send: bytes of data; 0: no change. The kernel allows twice as much memory for them.
    """
    if isinstance(handle, socket.socket):
        try:
            if receive:
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
            if send:
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send)
        except OSError:
            pass  # it is closed already


def used(handle: object) -> int:
    """The memory that the kernel uses for a socket now, in bytes; 0 if that is unknown."""
    if not isinstance(handle, socket.socket):
        return 0
    try:
        data = handle.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        numbers: tuple[int, ...] = _MEMINFO.unpack(data)
    except (OSError, struct.error):  # it is closed, or this is another system
        return 0
    return numbers[_RECEIVED] + numbers[_AHEAD] + numbers[_SENT]


def used_by_all() -> int:
    """The memory of all TCP sockets of this machine, in bytes: no less than those of this process
    use. 0 if that is unknown.
    """
    try:
        found = _TCP_PAGES.search(_SOCKSTAT.read_bytes())
    except OSError:
        return 0
    return int(found[1]) * _PAGE if found else 0
