"""Slows down password guessing: delays the answer to a wrong password, by source address.

Owns the counts of wrong passwords, in bounded memory. Times are seconds, given by the caller. A
right password is never delayed. It does not reset a count either: otherwise a tenant could guess
other tenants' passwords between log-ins with its own.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

from .. import bounds


class LoginBackoff:
    """Counts wrong passwords by source address."""

    def __init__(self) -> None:
        # (how many, time of the last one), the latest at the end.
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._wrong)

    def wrong(self, address: str, now: float) -> float:
        """Counts a wrong password. Returns the seconds until it may be answered."""
        address = source(address)
        count, when = self._wrong.pop(address, (0, now))
        if now - when > bounds.LOGIN_BACKOFF_SECONDS:
            count = 0
        self._wrong[address] = (count + 1, now)
        while len(self._wrong) > bounds.LOGIN_BACKOFF_ADDRESSES:
            self._wrong.popitem(last=False)
        if count < bounds.UNDELAYED_WRONG_PASSWORDS:
            return 0.0
        return min(
            bounds.LOGIN_DELAY_SECONDS,
            bounds.FIRST_LOGIN_DELAY_SECONDS * 2.0 ** min(count - bounds.UNDELAYED_WRONG_PASSWORDS, 16),
        )


def source(address: str) -> str:
    """The source that an address is counted as: an IPv4 address, or an IPv6 network of 64 bits,
    because one machine has a whole such network.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address  # a Unix socket has no IP address
    if parsed.version == 4:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
