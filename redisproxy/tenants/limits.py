"""A tenant's limits: how many connections it may have, and how much it may do in a second.

Owns what the annotations of a Namespace mean, and the token bucket that a rate is held with. Who
waits, and for how long, is the business of `net.rate_limit`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from .. import bounds, messages
from ..messages import Text


@dataclass(frozen=True, slots=True)
class Limits:
    """What one tenant may have at once, or do in a second. 0: there is no limit."""

    max_connections: int = 0
    commands_per_second: int = 0
    #: of commands and replies together
    bytes_per_second: int = 0

    def per_process(self, processes: int) -> Limits:
        """What one of so many processes holds it to, rounded up."""
        return Limits(*(-(-getattr(self, field.name) // processes) for field in fields(self)))


#: There are none.
UNLIMITED = Limits()

#: What the names of all of them begin with, and of nobody else's.
PREFIX = "redisproxy/"
#: By annotation: the field of Limits, and its largest value.
ANNOTATIONS = {
    f"{PREFIX}max-connections": ("max_connections", bounds.TENANT_CONNECTIONS),
    f"{PREFIX}commands-per-second": ("commands_per_second", bounds.TENANT_PER_SECOND),
    f"{PREFIX}bytes-per-second": ("bytes_per_second", bounds.TENANT_PER_SECOND),
}


def read_limits(annotations: Mapping[str, str], defaults: Limits) -> tuple[Limits, list[Text]]:
    """What a Namespace's annotations say, and what is wrong with them. A default stands where they
    say nothing of use.

    annotations: those whose names begin with PREFIX.
    """
    if not annotations:
        return defaults, []
    values = {field.name: getattr(defaults, field.name) for field in fields(Limits)}
    wrong: list[Text] = []
    for annotation, (name, most) in ANNOTATIONS.items():
        text = annotations.get(annotation)
        if text is None:
            continue
        if re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) and int(text) <= most:
            values[name] = int(text)
        else:
            default = values[name] or "no limit"
            wrong.append(messages.ANNOTATION_MALFORMED(name=annotation, most=most, default=default))
    unknown = sorted(annotations.keys() - ANNOTATIONS.keys())
    if unknown:
        # One of them, and in ASCII: a manifest's can be any text.
        name = ascii(unknown[0][:80])[1:-1]
        wrong.append(messages.ANNOTATION_UNKNOWN(name=name, known=", ".join(ANNOTATIONS)))
    return Limits(**values), wrong


class Bucket:
    """What is left of a rate: so much a second, of which up to BURST_SECONDS' worth is saved. It
    may be overdrawn.

    rate: a second; now: in seconds, as in all that is asked of it.
    """

    __slots__ = ("_rate", "_since", "_tokens")

    def __init__(self, rate: int, now: float) -> None:
        self._rate = rate
        self._tokens = rate * bounds.BURST_SECONDS
        self._since = now

    def charge(self, amount: int, now: float) -> float:
        """Takes so much, whether it is there or not. Seconds until nothing is pending any more, 0.0
        if nothing is.
        """
        passed = now - self._since
        self._since = now
        if passed > 0:  # the clock may be set back
            self._tokens = min(self._rate * bounds.BURST_SECONDS, self._tokens + passed * self._rate)
        self._tokens -= amount
        return -self._tokens / self._rate if self._tokens < 0 else 0.0
