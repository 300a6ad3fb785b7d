"""Keeps the same line from filling the log.

Owns which texts were logged recently, and whether a logged fault has ended. `LogOnce` is for faults
that many things can have, some of them as often as a tenant likes. `Condition` is for one thing
that works or does not.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from twisted.internet.interfaces import IReactorTime

from ..messages import Text

#: Seconds in which the same text is not logged again.
QUIET = 30.0
#: Different texts that are logged within that time. Further ones are left out.
MOST = 100
#: How often faults may end within that time, and be logged anew when they come again. More often,
#: they come and go.
ENDS = 3


class LogOnce:
    """Remembers for some seconds what was logged. quiet: how many."""

    def __init__(self, clock: IReactorTime, quiet: float = QUIET) -> None:
        self._clock = clock
        self._quiet = quiet
        # When each text was logged, in the clock's seconds, earliest first.
        self._logged: OrderedDict[str, float] = OrderedDict()
        self._any = False
        # When faults that were logged ended, in the clock's seconds, at the latest ENDS times.
        self._ends: deque[float] = deque(maxlen=ENDS)

    def due(self, text: str) -> bool:
        """Whether to log the text now. If so, it counts as logged."""
        now = self._clock.seconds()
        while self._logged and now - next(iter(self._logged.values())) >= self._quiet:
            self._logged.popitem(last=False)
        if text in self._logged or len(self._logged) >= MOST:
            return False
        self._logged[text] = now
        self._any = True
        return True

    def forget(self) -> bool:
        """Forgets all texts, because their faults have ended. Each is logged if it comes again,
        unless they come and go: see ENDS.

        Returns whether any text was logged since the last call.
        """
        logged, self._any = self._any, False
        now = self._clock.seconds()
        if logged and (len(self._ends) < ENDS or now - self._ends[0] >= self._quiet):
            self._ends.append(now)
            self._logged.clear()
        return logged


class Condition:
    """Decides what to log about one thing: each fault once, and its end if a fault was logged.

    lasting: seconds that a fault must last before it is logged, because some end soon.
    quiet: seconds after a line in which a fault with another text, which replaced the first, is not
        logged.

    Callers give the times, in seconds.
    """

    __slots__ = ("_lasting", "_logged_at", "_quiet", "reason", "since")

    def __init__(self, lasting: float = 0.0, quiet: float = 0.0) -> None:
        self._lasting = lasting
        self._quiet = quiet
        self._logged_at = 0.0
        #: when the present fault began, logged or not; None if there is none
        self.since: float | None = None
        #: the fault that was logged; None if none was
        self.reason: Text | None = None

    def fault(self, reason: Text, now: float = 0.0) -> bool:
        """Records a fault. Returns whether to log it now. If so, it counts as logged.

        now: not needed if both times are 0.
        """
        if self.since is None:
            self.since = now
        if (
            reason == self.reason
            or now - self.since < self._lasting
            or (self.reason and now - self._logged_at < self._quiet)
        ):
            return False
        self.reason, self._logged_at = reason, now
        return True

    def over(self) -> bool:
        """Records that there is no fault. Returns whether to log that, because a fault was
        logged.
        """
        logged, self.reason, self.since = self.reason is not None, None, None
        return logged
