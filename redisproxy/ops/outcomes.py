"""One record for each connection: who, from where, how long, how it ended, how many commands.

Owns what of that is logged, at which level, and how often. Ordinary ends are told at debug level; the others at info,
and no more than RATE a second, so that a storm of them does not become a storm of lines.
"""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

#: Lines a second.
RATE = 20

#: Ends that an operator need not hear of.
ORDINARY = frozenset(("client-left", "quit", "shutdown"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one connection went.

    mood: client-left, quit, turned-away, tenant-full, login-timeout, protocol-error, cross-protocol, wrong-passwords,
    moved-within-a-message, redis-lost, revoked, shutdown, cut-off, too-slow, tls-failed, tls-on-plain-port.
    """

    number: int
    peer: str
    #: of the last log-in; None: there was none
    namespace: str | None
    #: name of the Secret that it logged in with
    secret: str | None
    seconds: float
    commands: int
    refused: int
    mood: str
    #: more of that, in words that are not the client's; empty: there is no more
    detail: str = ""


class Outcomes:
    """Writes outcomes to the log. ordinary: whether the ordinary ones, too."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, ordinary: bool = True) -> None:
        self._clock = clock
        self._ordinary = ordinary
        self._second = 0
        self._lines = 0
        self._left_out = 0

    def _allowed(self) -> bool:
        second = int(self._clock.seconds())
        if second != self._second:
            if self._left_out:
                self._log.info("{left_out} lines like these were left out", left_out=self._left_out)
            self._second, self._lines, self._left_out = second, 0, 0
        self._lines += 1
        if self._lines > RATE:
            self._left_out += 1
            return False
        return True

    def tells(self, mood: str) -> bool:
        """Whether such an end can be told at all: most are not, and their outcomes need not be made."""
        return self._ordinary or mood not in ORDINARY

    def ended(self, outcome: Outcome) -> None:
        """A connection is gone."""
        ordinary = outcome.mood in ORDINARY
        if not ordinary and not self._allowed():
            return
        tell = self._log.debug if ordinary else self._log.info
        detail = " ({detail})" if outcome.detail else ""
        tell(
            f"client {{number}} from {{peer}}, {{who}}: {{mood}}{detail} after {{seconds:.3f}} s, "
            "{commands} commands, {refused} refused",
            number=outcome.number,
            peer=outcome.peer,
            who=f"{outcome.namespace}/{outcome.secret}" if outcome.namespace else "not logged in",
            namespace=outcome.namespace,
            secret=outcome.secret,
            mood=outcome.mood,
            detail=outcome.detail,
            seconds=outcome.seconds,
            commands=outcome.commands,
            refused=outcome.refused,
        )

    def forbidden(self, peer: str, namespace: str, secret: str, name: str) -> None:
        """A tenant tried what it may not do. name: of the command, which may be any short word."""
        if self._allowed():
            self._log.info(
                "refused {command} to {namespace}/{secret} from {peer}",
                command=name,
                namespace=namespace,
                secret=secret,
                peer=peer,
            )

    def tenant_full(self, peer: str, namespace: str, secret: str) -> None:
        """A log-in was refused because the tenant has as many connections as it may."""
        if self._allowed():
            self._log.info(
                "log-in from {peer} refused: {namespace}/{secret} has as many connections as it may",
                peer=peer,
                namespace=namespace,
                secret=secret,
            )

    def login_refused(self, peer: str, outcome: str) -> None:
        """An AUTH was refused. outcome: a word that says why."""
        if self._allowed():
            self._log.info("log-in from {peer} refused: {outcome}", peer=peer, outcome=outcome)
