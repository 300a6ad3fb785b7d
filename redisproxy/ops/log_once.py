"""Keeps the same line from filling the log.

Owns which texts were logged lately. A tenant can cause some of them as often as it likes.
"""

from __future__ import annotations

from collections import OrderedDict

from twisted.internet.interfaces import IReactorTime

#: Seconds for which the same text is not logged again.
QUIET = 30.0
#: Different texts that are logged within that time. Further ones are left out.
MOST = 100


class LogOnce:
    """Remembers for QUIET seconds what was logged."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        # When each was logged, in the clock's seconds, the earliest first.
        self._logged: OrderedDict[str, float] = OrderedDict()

    def due(self, text: str) -> bool:
        """Whether to log the text now. If so, it counts as logged."""
        now = self._clock.seconds()
        while self._logged and now - next(iter(self._logged.values())) >= QUIET:
            self._logged.popitem(last=False)
        if text in self._logged or len(self._logged) >= MOST:
            return False
        self._logged[text] = now
        return True

    def forget(self) -> None:
        """Forgets all texts: what they told is over, so each is news if it comes again."""
        self._logged.clear()
