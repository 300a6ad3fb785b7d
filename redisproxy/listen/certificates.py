"""Reloads certificates that change while the proxy runs: cert-manager, for example, replaces them
long before they expire.

Owns when the files of `ssl:` endpoints are checked, and what is in force: the last material that
was good. Open connections keep the certificate that they began with; only later connections get the
new one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from twisted.application import service
from twisted.internet import defer, threads
from twisted.internet.interfaces import IReactorTime

from .. import messages
from ..ops.bugs import bug
from ..ops.file_watch import FileWatch, Settled
from ..ops.log_once import Condition
from ..ops.logs import Log
from ..ops.stats import TlsState
from ..ops.time_text import moment
from ..printable import printable
from .tls import CertificateError, Made, Material, ServerTls, make

#: Seconds between two checks. A change counts when two checks find the same, so a file that is
#: being written is left alone.
INTERVAL = 1.0
#: Seconds until files that cannot be used are read again, even if they seem unchanged.
RETRY = 10.0


_Found = list[tuple["_Watched", Made | CertificateError | None]]


class _Watched:
    """The files of one endpoint. `look` runs in a thread, one call at a time. Everything else runs
    in the reactor's thread.
    """

    def __init__(self, tls: ServerTls) -> None:
        """Raises CertificateError."""
        self.tls = tls
        self._read = tls.files.stamp()
        self._settled = Settled(self._read)
        self._retry: float | None = None
        #: why the present content of the files is not in force
        self.condition = Condition()
        self.made = make(tls.files, tls.files.read())
        tls.use(self.made)

    def look(self, now: float, asked: bool) -> Made | CertificateError | None:
        """Checks the files. Returns what is in force from now on, or why it cannot be used, or None
        if nothing is new. Blocks.

        now: in the clock's seconds; asked: whether to read the files even if they seem unchanged or
        in the middle of a change.
        """
        files = self.tls.files
        stamp = files.stamp()
        settled = self._settled.look(stamp)
        due = stamp != self._read or (self._retry is not None and now >= self._retry)
        if not (asked or (settled and due)):
            return None
        try:
            material = files.read()
            if files.stamp() != stamp:
                # one file may be old and another new; a later check finds them complete
                return None
            made = self.made if material == self.made.material else make(files, material)
        except CertificateError as error:
            self._read, self._retry = stamp, now + RETRY
            return error
        self._read, self._retry = stamp, None
        return made


class RotationService(service.Service):
    """Checks the files of some endpoints again and again.

    changed: called when another certificate, chain or client CA is in force; in_thread: calls a
    blocking function and returns a Deferred; wall_clock: seconds since the epoch, to compare with a
    certificate's period. Raises CertificateError for files that cannot be used at the start.
    """

    name = "certificates"
    _log = Log()

    def __init__(
        self,
        clock: IReactorTime,
        endpoints: Sequence[ServerTls],
        changed: Callable[[], object],
        in_thread: Callable[[Callable[[], _Found]], defer.Deferred[_Found]] = threads.deferToThread,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._wall_clock = wall_clock
        self._changed = changed
        self._watched = []
        for tls in endpoints:
            try:
                self._watched.append(_Watched(tls))
            except CertificateError as error:
                raise CertificateError(messages.TLS_LISTENER(listener=tls.listener, reason=error.reason)) from None
        self._reloads = {"ok": 0, "failed": 0}
        failed = bug(self._log, "the check of the certificates' files")
        self._watch = FileWatch(clock, self._look_at_all, self._on_found, failed, INTERVAL, in_thread)

    def material(self, endpoints: Sequence[ServerTls]) -> list[Material]:
        """Returns these endpoints' material in force, for other processes that serve there."""
        return [watched.made.material for tls in endpoints for watched in self._watched if watched.tls is tls]

    def state(self) -> TlsState:
        """The state for metrics and the status page."""
        return {
            "certificates": [
                {
                    "listener": printable(watched.tls.listener),
                    "begins": watched.made.begins,
                    "expires": watched.made.expires,
                    "problem": watched.condition.reason or "",
                }
                for watched in self._watched
            ],
            "reloads": dict(self._reloads),
        }

    def startService(self) -> None:
        super().startService()
        for watched in self._watched:
            self._log_certificate(watched)
        if self._watched:
            self._watch.start()

    def stopService(self) -> None:
        super().stopService()
        self._watch.stop()

    def look(self) -> None:
        """Reads the files at once, even if they seem unchanged."""
        self._watch.look_now()

    def _look_at_all(self, now: float, asked: bool) -> _Found:
        return [(watched, watched.look(now, asked)) for watched in self._watched]

    def _on_found(self, found: _Found) -> None:
        changed = False
        for watched, news in found:
            if news is None:
                continue
            if isinstance(news, CertificateError):
                self._refuse(watched, news.reason)
                continue
            if watched.condition.over():
                self._log.write(messages.CERTIFICATE_FIXED, listener=watched.tls.listener)
            if news is not watched.made:
                before, watched.made = watched.made.material, news
                watched.tls.use(news)
                self._reloads["ok"] += 1
                self._log_change(watched, before)
                changed = True
        if changed:
            self._changed()

    def _refuse(self, watched: _Watched, reason: messages.Text) -> None:
        self._reloads["failed"] += 1
        if watched.condition.fault(reason):
            self._log.write(
                messages.CERTIFICATE_BAD,
                listener=watched.tls.listener,
                reason=reason,
                expires=moment(watched.made.expires),
            )

    def _log_change(self, watched: _Watched, before: Material) -> None:
        now, files = watched.made.material, watched.tls.files
        if (now.key, now.certificate, now.chain) != (before.key, before.certificate, before.chain):
            self._log_certificate(watched)
        if now.client_ca != before.client_ca:
            self._log.write(messages.CLIENT_CA_CHANGED, listener=watched.tls.listener, path=str(files.client_ca))

    def _log_certificate(self, watched: _Watched) -> None:
        made, now = watched.made, self._wall_clock()
        fields = {
            "listener": watched.tls.listener,
            "path": str(watched.tls.files.certificate),
            "begins": moment(made.begins),
            "expires": moment(made.expires),
        }
        if made.expires <= now:
            self._log.write(messages.CERTIFICATE_PAST, **fields)
        elif made.begins > now:
            self._log.write(messages.CERTIFICATE_EARLY, **fields)
        else:
            self._log.write(messages.CERTIFICATE_IN_FORCE, **fields)
