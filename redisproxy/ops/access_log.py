"""Logs each connection: from where, as whom, how long, how it ended, how many commands.

Owns which of these lines are written, and at which level. Ordinary ends are logged at debug level,
others at info level. Other ends have a quota for each tenant (`line_quota`). So many lines about
one tenant neither fill the log nor hide lines about others.
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
#: Ends that an operator need not know of.
ORDINARY = frozenset((messages.CLIENT_LEFT.code, messages.QUIT.code, messages.SHUTDOWN.code, messages.KILLED.code))


@dataclass(frozen=True, slots=True)
class ConnectionRecord:
    """How one connection went.

    close_reason: the code of a `messages.CloseReason`.
    """

    number: int
    peer: str
    #: of the last log-in; None if there was none
    namespace: str | None
    #: name of the Secret that the client logged in with
    secret: str | None
    seconds: float
    commands: int
    refused: int
    close_reason: str
    #: details of the end, in words that are not the client's; empty if there are none
    detail: str = ""


class AccessLog(service.Service):
    """Logs ends of connections, refused commands and refused log-ins.

    ordinary: whether ordinary ends are logged too; processes: how many share the quota, see
    `line_quota`.
    """

    name = "access log"
    _log = Log()

    def __init__(self, clock: IReactorTime, ordinary: bool = True, processes: int = 1) -> None:
        self._ordinary = ordinary
        self._quota = LineQuota(clock, self._left_out, processes)
        #: whether one more line may be written: see `line_quota.LineQuota.allows`
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
        """Whether an end with this reason may be logged.

        Callers need not make a record of other ends, which are most ends.
        """
        return self._ordinary or close_reason not in ORDINARY

    def ended(self, record: ConnectionRecord) -> None:
        """Logs the end of a connection, if the quota allows it."""
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
        """Logs a command that the tenant may not use. name: of the command, which may be any short
        word.
        """
        if self.allows(namespace, peer):
            self._log.write(
                messages.COMMAND_REFUSED,
                command=name,
                namespace=namespace,
                secret=secret,
                peer=peer,
            )

    def tenant_full(self, peer: str, namespace: str, secret: str) -> None:
        """Logs a log-in that was refused because the tenant has as many connections as it may."""
        if self.allows(namespace, peer):
            self._log.write(messages.LOGIN_TENANT_FULL, peer=peer, namespace=namespace, secret=secret)

    def login_refused(self, peer: str, outcome: str, namespace: str | None = None) -> None:
        """Logs a refused AUTH.

        outcome: a word for the reason; namespace: of the tenant that the client is logged in as, or
        None.
        """
        if self.allows(namespace, peer):
            self._log.write(_REFUSED_LOGINS[outcome], peer=peer)
