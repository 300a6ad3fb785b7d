"""How fast counters of a tenant grow, for INFO.

Owns the time between two looks. Nothing is sampled in between: a tenant that never asks costs
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

#: Seconds. A rate over less time than this says little, so the former one stays.
SHORTEST = 1.0


class Rates:
    """The rates of some counters, since an earlier call that is at least SHORTEST seconds ago."""

    __slots__ = ("_numbers", "_rates", "_time")

    def __init__(self) -> None:
        self._time: float | None = None
        self._numbers: Sequence[int] = ()
        self._rates: Sequence[float] = ()

    def update(self, now: float, numbers: Sequence[int]) -> Sequence[float]:
        """Returns how much each number grew in a second; 0 at the first call.

        now: in seconds of a clock that only goes forward; numbers: as many at each call.
        """
        if self._time is None:
            self._time, self._numbers, self._rates = now, numbers, [0.0] * len(numbers)
        elif now - self._time >= SHORTEST:
            passed = now - self._time
            self._rates = [(number - before) / passed for number, before in zip(numbers, self._numbers, strict=True)]
            self._time, self._numbers = now, numbers
        return self._rates
