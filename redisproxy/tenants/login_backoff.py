"""Slows down whoever tries passwords: how long a wrong one is answered late, by source address.

Owns the counts, in bounded memory. Times are seconds, given by the caller. A right password is never delayed; but it
forgives nothing, or a tenant could guess others' passwords between two log-ins with its own.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

#: Wrong passwords of one address that are answered at once: a deployment with an old secret, say.
UNDELAYED = 5
#: Seconds: the first delay, doubled at each further wrong password, up to the longest.
FIRST_DELAY = 0.1
LONGEST_DELAY = 5.0
#: Seconds without a wrong password after which an address is forgotten.
MEMORY = 300.0
#: Addresses that are remembered; past that the one that was wrong the longest ago is forgotten.
ADDRESSES = 10_000
#: Wrong passwords on one connection after which it is closed.
WRONG_PASSWORDS_LIMIT = 20


class LoginBackoff:
    """Wrong passwords by source address."""

    def __init__(self) -> None:
        # (how many, when the last), the latest at the end.
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._wrong)

    def wrong(self, address: str, now: float) -> float:
        """Counts a wrong password: seconds until it may be answered."""
        address = source(address)
        count, when = self._wrong.pop(address, (0, now))
        if now - when > MEMORY:
            count = 0
        self._wrong[address] = (count + 1, now)
        while len(self._wrong) > ADDRESSES:
            self._wrong.popitem(last=False)
        if count < UNDELAYED:
            return 0.0
        return min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(count - UNDELAYED, 16))


def source(address: str) -> str:
    """What is counted as one source: an IPv4 address, an IPv6 network of 64 bits, which is what one machine has."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address  # of a Unix socket there is none
    if parsed.version == 4:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
