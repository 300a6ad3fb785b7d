"""One record for each connection: who, from where, how long, how it ended, how many commands.

Owns what of that is logged, and at which level. Ordinary ends are told at debug level; the others
at info, and of each tenant so many in a while (`line_quota`) that a storm of them does not become a
storm of lines, nor hides others' lines.
"""

from __future__ import annotations

from dataclasses import dataclass

from twisted.application import service
from twisted.internet.interfaces import IReactorTime

from .. import messages
from .line_quota import LeftOut, LineQuota
from .logs import Log

#: By the outcome of a refused log-in.
_REFUSED_LOGINS = {
    "wrong": messages.LOGIN_WRONG,
    "ambiguous": messages.LOGIN_AMBIGUOUS,
    "not-loaded": messages.LOGIN_NOT_LOADED,
}
#: Ends that an operator need not hear of.
ORDINARY = frozenset((messages.CLIENT_LEFT.code, messages.QUIT.code, messages.SHUTDOWN.code))


@dataclass(frozen=True, slots=True)
class ConnectionRecord:
    """How one connection went.

    close_reason: the code of a `messages.CloseReason`.
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
    close_reason: str
    #: more of that, in words that are not the client's; empty: there is no more
    detail: str = ""


class AccessLog(service.Service):
    """Writes outcomes to the log, and what was refused. ordinary: whether the ordinary ones, too;
    processes: how many share the quota of lines, see `line_quota`.
    """

    name = "access log"
    _log = Log()

    def __init__(self, clock: IReactorTime, ordinary: bool = True, processes: int = 1) -> None:
        self._ordinary = ordinary
        self._quota = LineQuota(clock, self._left_out, processes)
        #: whether one line more may be written, see `line_quota.LineQuota.allows`
        self.allows = self._quota.allows

    def stopService(self) -> None:
        super().stopService()
        self._quota.stop()

    def _left_out(self, left_out: LeftOut) -> None:
        if left_out.namespace is not None:
            message = messages.LINES_LEFT_OUT
        elif left_out.most:
            message = messages.LINES_LEFT_OUT_OF_ADDRESS
        else:
            message = messages.LINES_LEFT_OUT_OF_MANY
        self._log.write(message, left_out=left_out.lines, namespace=left_out.namespace, address=left_out.most)

    def logs(self, close_reason: str) -> bool:
        """Whether such an end can be told at all: most are not, and their outcomes need not be
        made.
        """
        return self._ordinary or close_reason not in ORDINARY

    def ended(self, record: ConnectionRecord) -> None:
        """A connection is gone."""
        ordinary = record.close_reason in ORDINARY
        if not ordinary and not self.allows(record.namespace, record.peer):
            return
        self._log.write(
            messages.CLIENT_ENDED_ORDINARILY if ordinary else messages.CLIENT_ENDED,
            number=record.number,
            peer=record.peer,
            who=f"{record.namespace}/{record.secret}" if record.namespace else "not logged in",
            namespace=record.namespace,
            secret=record.secret,
            close_reason=record.close_reason,
            detail=record.detail,
            more=f" ({record.detail})" if record.detail else "",
            seconds=record.seconds,
            commands=record.commands,
            refused=record.refused,
        )

    def forbidden(self, peer: str, namespace: str, secret: str, name: str) -> None:
        """A tenant tried what it may not do. name: of the command, which may be any short word."""
        if self.allows(namespace, peer):
            self._log.write(
                messages.COMMAND_REFUSED,
                command=name,
                namespace=namespace,
                secret=secret,
                peer=peer,
            )

    def tenant_full(self, peer: str, namespace: str, secret: str) -> None:
        """A log-in was refused because the tenant has as many connections as it may."""
        if self.allows(namespace, peer):
            self._log.write(messages.LOGIN_TENANT_FULL, peer=peer, namespace=namespace, secret=secret)

    def login_refused(self, peer: str, outcome: str, namespace: str | None = None) -> None:
        """An AUTH was refused. outcome: a word that says why; namespace: of the tenant that the
        client is logged in as.
        """
        if self.allows(namespace, peer):
            self._log.write(_REFUSED_LOGINS[outcome], peer=peer)
