"""Logs each connection: from where, as whom, how long, how it ended, how many commands.

Owns which of these lines are written, and at which level. Ordinary ends are logged at debug level,
others at info level. Other ends have a quota for each tenant (`line_quota`). So many lines about
one tenant neither fill the log nor hide lines about others.
"""

from __future__ import annotations

from dataclasses import dataclass

from twisted.application import service
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from .line_quota import LeftOut, LineQuota

#: Ends that an operator need not know of.
ORDINARY = frozenset(("client-left", "quit", "shutdown"))


@dataclass(frozen=True, slots=True)
class ConnectionRecord:
    """How one connection went.

    close_reason: client-left, quit, turned-away, tenant-full, login-timeout, protocol-error,
    cross-protocol, wrong-passwords, moved-within-a-message, redis-lost, revoked, shutdown, cut-off,
    too-slow, tls-failed, tls-on-plain-port, untrusted-proxy, bad-proxy-header.
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
    _log = Logger()

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
            text = "{left_out} lines about {namespace} were left out: they came too fast"
        elif left_out.most:
            text = "{left_out} lines about clients that are not logged in were left out: most came from {address}"
        else:
            text = "{left_out} lines about clients that are not logged in were left out: they came from too many addresses"
        self._log.info(text, left_out=left_out.lines, namespace=left_out.namespace, address=left_out.most)

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
        tell = self._log.debug if ordinary else self._log.info
        detail = " ({detail})" if record.detail else ""
        tell(
            f"client {{number}} from {{peer}}, {{who}}: {{close_reason}}{detail} after {{seconds:.3f}} s, "
            "{commands} commands, {refused} refused",
            number=record.number,
            peer=record.peer,
            who=f"{record.namespace}/{record.secret}" if record.namespace else "not logged in",
            namespace=record.namespace,
            secret=record.secret,
            close_reason=record.close_reason,
            detail=record.detail,
            seconds=record.seconds,
            commands=record.commands,
            refused=record.refused,
        )

    def forbidden(self, peer: str, namespace: str, secret: str, name: str) -> None:
        """Logs a command that the tenant may not use. name: of the command, which may be any short
        word.
        """
        if self.allows(namespace, peer):
            self._log.info(
                "refused {command} to {namespace}/{secret} from {peer}",
                command=name,
                namespace=namespace,
                secret=secret,
                peer=peer,
            )

    def tenant_full(self, peer: str, namespace: str, secret: str) -> None:
        """Logs a log-in that was refused because the tenant has as many connections as it may."""
        if self.allows(namespace, peer):
            self._log.info(
                "log-in from {peer} refused: {namespace}/{secret} has as many connections as it may",
                peer=peer,
                namespace=namespace,
                secret=secret,
            )

    def login_refused(self, peer: str, outcome: str, namespace: str | None = None) -> None:
        """Logs a refused AUTH.

        outcome: a word for the reason; namespace: of the tenant that the client is logged in as, or
        None.
        """
        if self.allows(namespace, peer):
            self._log.info("log-in from {peer} refused: {outcome}", peer=peer, outcome=outcome)
