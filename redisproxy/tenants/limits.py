"""A tenant's limits: the number of connections and patterns, commands and bytes a second,
client-side caching, and scripts; and whether the tenant is paused.

Owns the meaning of a Namespace's annotations, and the token bucket that measures a rate.
`net.rate_limit` decides which clients wait, and for how long.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from .. import bounds, messages
from ..messages import Text


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one tenant: its connections and patterns at a time, and its rates. 0 means no
    limit.

    client_tracking: whether it may use client-side caching, which shows names of other tenants'
    keys that it reads itself. deny_scripts: whether it may run no scripts and no functions.
    """

    max_connections: int = 0
    commands_per_second: int = 0
    #: of commands and replies together
    bytes_per_second: int = 0
    client_tracking: bool = False
    deny_scripts: bool = False
    #: patterns that its clients are subscribed to: `bounds.TENANT_PATTERNS` if it is 0
    max_patterns: int = 0

    def per_process(self, processes: int) -> Limits:
        """The part of each limit that one of so many processes enforces, rounded up.

        Patterns are counted over all processes.
        """
        parts = {name: -(-getattr(self, name) // processes) for name, _ in ANNOTATIONS.values() if name != "max_patterns"}
        return replace(self, **parts)


#: No limits.
UNLIMITED = Limits()

#: The prefix of the proxy's annotations. Nobody else's annotations have it.
PREFIX = "redisproxy/"
#: By annotation: (field of Limits, largest value).
ANNOTATIONS = {
    f"{PREFIX}max-connections": ("max_connections", bounds.TENANT_CONNECTIONS),
    f"{PREFIX}max-patterns": ("max_patterns", bounds.TENANT_PATTERNS),
    f"{PREFIX}commands-per-second": ("commands_per_second", bounds.TENANT_PER_SECOND),
    f"{PREFIX}bytes-per-second": ("bytes_per_second", bounds.TENANT_PER_SECOND),
}
#: The annotation for client-side caching: ``allow`` or ``deny``.
CLIENT_TRACKING = f"{PREFIX}client-tracking"
#: The annotation for scripts and functions: ``allow`` or ``deny``.
SCRIPTS = f"{PREFIX}scripts"
#: The annotation that pauses a tenant, and its values.
PAUSED = f"{PREFIX}paused"
_PAUSED = {"true": True, "false": False}
#: All annotations.
KNOWN = (*ANNOTATIONS, CLIENT_TRACKING, SCRIPTS, PAUSED)


def read_limits(annotations: Mapping[str, str], defaults: Limits) -> tuple[Limits, list[Text]]:
    """(the limits in a Namespace's annotations, a text for each annotation that is wrong). The
    default applies if an annotation is missing or wrong.

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
    tracking = annotations.get(CLIENT_TRACKING, "deny")
    if tracking not in ("allow", "deny"):
        wrong.append(messages.ANNOTATION_NOT_ALLOW(name=CLIENT_TRACKING))
    values["client_tracking"] = tracking == "allow"
    scripts = annotations.get(SCRIPTS)
    if scripts is not None:
        if scripts not in ("allow", "deny"):
            wrong.append(messages.ANNOTATION_NOT_ALLOW(name=SCRIPTS))
        values["deny_scripts"] = scripts != "allow"
    unknown = sorted(annotations.keys() - set(KNOWN))
    if unknown:
        # Only one, and in ASCII: in a manifest it can be any text.
        name = ascii(unknown[0][:80])[1:-1]
        wrong.append(messages.ANNOTATION_UNKNOWN(name=name, known=", ".join(KNOWN)))
    return Limits(**values), wrong


def read_paused(annotations: Mapping[str, str]) -> tuple[bool, list[Text]]:
    """(whether a Namespace's annotations pause its tenant, a text if the annotation is wrong).

    annotations: those whose names begin with PREFIX.
    """
    text = annotations.get(PAUSED, "false")
    return _PAUSED.get(text, False), [] if text in _PAUSED else [messages.PAUSED_MALFORMED(name=PAUSED)]


class Bucket:
    """A token bucket. It saves at most what the rate allows in BURST_SECONDS, and may be overdrawn.

    rate: tokens a second; now: in seconds of one clock, here and in the methods.
    """

    __slots__ = ("_rate", "_since", "_tokens")

    def __init__(self, rate: int, now: float) -> None:
        self._rate = rate
        self._tokens = rate * bounds.BURST_SECONDS
        self._since = now

    def charge(self, amount: int, now: float) -> float:
        """Takes an amount, even if the bucket has less. Returns the seconds until the bucket is no
        longer overdrawn; 0.0 if it is not.
        """
        passed = now - self._since
        self._since = now
        if passed > 0:  # the clock may be set back
            self._tokens = min(self._rate * bounds.BURST_SECONDS, self._tokens + passed * self._rate)
        self._tokens -= amount
        return -self._tokens / self._rate if self._tokens < 0 else 0.0
