"""The twistd plugin: reads the options and makes the service. It only wires.

``twistd -n redisproxy --help`` is made from the table in `settings`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TextIO, cast

from twisted.application.service import IService
from twisted.python import usage

from . import __version__
from .net import reactor as _reactor

_reactor.install()  # before anything imports Twisted's default reactor

from .ops.logs import log_file
from .service import ProxyService, StartError
from .settings import Settings, SettingsError, described, option_name

#: Bytes that twistd reads of its daemon's report.
_STATUS_BYTES = 100


def _parameters() -> list[list[object]]:
    return [
        [option_name(f.name), None, None, described(f)]
        for f in fields(Settings)
        if f.metadata["takes"] and f.name != "listen"
    ]


def _flag_names() -> list[str]:
    return [option_name(f.name) for f in fields(Settings) if not f.metadata["takes"]]


def _flags() -> list[list[str | None]]:
    """Each flag twice: an option can switch off what the environment switches on."""
    flags = [(option_name(f.name), described(f)) for f in fields(Settings) if not f.metadata["takes"]]
    return [flag for name, text in flags for flag in ([name, None, text], [f"no-{name}", None, f"Turn off --{name}."])]


class Options(usage.Options):
    """The options of ``twistd redisproxy``. Values stay text: `Settings.read` checks them."""

    synopsis = "[options]"
    longdesc = (
        "Redis Proxy for Containers serves many Kubernetes namespaces from one Redis. Each namespace has a password and a "
        "database of its own, which its secret names. Each option can also be set by the environment variable in brackets; "
        "the option wins. SIGUSR1 or SIGHUP reloads secrets and certificates at once. SIGTERM or SIGINT ends the proxy. "
        "With --embedded and --manifests, SIGHUP ends it too, because a closed terminal sends SIGHUP. docs/settings.md has "
        "the options by topic."
    )
    optParameters = _parameters()
    optFlags = _flags()

    def __init__(self) -> None:
        super().__init__()
        self.endpoints: list[str] = []

    def opt_listen(self, endpoint: str) -> None:
        """Where to listen."""
        self.endpoints.append(endpoint)

    opt_listen.__doc__ = next(described(f) for f in fields(Settings) if f.name == "listen")

    def opt_version(self) -> None:
        """Display the version and exit."""
        print(f"redisproxy {__version__}")
        raise SystemExit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Ends with one line and status 1 for a wrong option. Twisted would print the whole help
        and end with status 0.
        """
        try:
            super().parseOptions(options)
            for name in _flag_names():
                if self[name] and self[f"no-{name}"]:
                    raise usage.UsageError(f"--{name} and --no-{name} are both given")
        except usage.UsageError as error:
            raise StartError(f"{error}; see twistd redisproxy --help") from None

    def given(self) -> dict[str, str]:
        """Returns the options that were given, as text."""
        values = {name: value for name, value in self.items() if isinstance(value, str)}
        values |= {name: "yes" for name in _flag_names() if self[name]}
        values |= {name: "no" for name in _flag_names() if self[f"no-{name}"]}
        if self.endpoints:
            values["listen"] = " ".join(self.endpoints)
        return values


def makeService(options: Options) -> IService:
    """Returns the service that twistd runs. Raises StartError for wrong settings."""
    from twisted.internet import reactor

    given = options.given()
    twistd: Mapping[str, object] = options.parent or {}
    try:
        settings = Settings.read(given, os.environ)
        return ProxyService(
            settings,
            cast("_reactor.IProxyReactor", reactor),  # Twisted declares only what every reactor has
            given,
            _log_file(twistd),
            partial(_start_failed, twistd),
        )
    except SettingsError as error:
        raise StartError(str(error)) from None


def _start_failed(twistd: Mapping[str, object], error: StartError) -> None:
    """Reports the error to the process that was started as twistd, if this is its daemon. twistd
    itself reports only an Exception; after a SystemExit it would wait for ever.
    """
    pipe, pid_file = twistd.get("statusPipe"), twistd.get("pidfile")
    if isinstance(pipe, int):
        if pid_file:  # first: whoever reads the error may check for the file
            Path(str(pid_file)).unlink(missing_ok=True)
        os.write(pipe, b"1 %b" % str(error).encode()[: _STATUS_BYTES - 2])
        os.close(pipe)


def _log_file(twistd: Mapping[str, object]) -> TextIO | None:
    """Returns the file that twistd logs to, also as a daemon; None for the standard output. Raises
    SettingsError.
    """
    if twistd.get("syslog"):
        raise SettingsError("twistd --syslog is not supported: the log goes to the standard output, or to twistd --logfile")
    path = twistd.get("logfile")
    daemon = not (twistd.get("nodaemon") or twistd.get("debug"))
    if path == "-" and daemon:
        raise SettingsError("twistd --logfile=- needs --nodaemon: a daemon has no standard output")
    if path == "-" or not (path or daemon):
        return None
    try:
        return log_file(str(path or "twistd.log"))
    except OSError as error:
        raise SettingsError(f"twistd --logfile: {error}") from None
