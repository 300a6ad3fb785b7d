"""Everything that the proxy says to people: log lines, problems, errors to clients, close reasons.

Owns the text of each, its code, and what the reader can do about it. The code is what programs hold
on to: JSON logs carry it, and the advice of the status page and of the command hangs on it. Texts
may be reworded, codes stay. `docs/troubleshoot.md` is made from this module by `make docs`.

It decides nothing: whoever finds a fault picks the message, and fills in its fields:

    log.write(messages.REDIS_USABLE_AGAIN, address=address.shown)
    raise MalformedError(messages.URL_NO_PASSWORD())

No field is ever a password, a key, a value or an argument of a client's command. This module is
longer than other modules: it is one table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from .printable import printable


class Text(str):
    """A message with its fields filled in, in one printable line.

    A message that has no remedy of its own passes on that of its cause, which is a field that is a
    Text: "no connection to Redis: {reason}" has the advice for the reason.
    """

    __slots__ = ("code", "remedy", "runbook")

    #: of the message, or of its cause
    code: str
    #: what the operator can do; empty: nothing is known
    remedy: str
    #: name of the alert whose runbook helps; empty: none
    runbook: str

    def __new__(cls, text: str, message: Message, cause: Text | None = None) -> Self:
        self = super().__new__(cls, printable(text))
        source = message if message.remedy or cause is None else cause
        self.code, self.remedy = source.code, source.remedy
        self.runbook = message.runbook or (cause.runbook if cause is not None else "")
        return self


@dataclass(frozen=True, slots=True)
class Message:
    """One thing that the proxy can say.

    code: lower-case words with hyphens, the first of which names the part that it is about; text:
    with names of fields in braces; remedy: what the operator can do, in whole sentences; see: a
    page of docs/ with more, with an anchor; runbook: the name of an alert without ``RedisProxy``;
    example: what a text that is one field looks like, for the docs.
    """

    code: str
    text: str
    remedy: str = ""
    see: str = ""
    runbook: str = ""
    example: str = ""

    def __call__(self, /, **fields: object) -> Text:
        """The text with these fields. The first field that is a Text is the cause. A field called
        ``cause`` may be none of the text's.
        """
        cause = next((field for field in fields.values() if isinstance(field, Text)), None)
        return Text(self.text.format(**fields), self, cause)


class MessageError(Exception):
    """An exception whose text is a message. reason: that message."""

    def __init__(self, reason: Text) -> None:
        super().__init__(reason)
        self.reason = reason


class Reason(Message):
    """Why something does not work. It stands in a log line, in a problem, or on the status page."""

    __slots__ = ()


class NotReady(Reason):
    """Why /readyz answers 503."""

    __slots__ = ()


class Problem(Reason):
    """What the status page lists beside the problems of namespaces."""

    __slots__ = ()


class Notice(Reason):
    """What is not wrong, but should be known: what an operator's command warns of."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class LogLine(Message):
    """A line of the log. level: debug, info, warn, error or critical."""

    level: str = "info"


class CloseReason(Message):
    """Why a client's connection ended: a word in the log and in metrics. text: what it means."""

    __slots__ = ()


class ClientError(Message):
    """An error reply of the proxy's own. The text begins with Redis's word for its kind."""

    __slots__ = ()

    def reply(self, /, **fields: object) -> bytes:
        """The error as RESP. A field that is bytes is repeated as it is, but for line ends."""
        shown = {name: field.decode("latin-1") if isinstance(field, bytes) else field for name, field in fields.items()}
        text = self.text.format(**shown).replace("\r", " ").replace("\n", " ")
        return b"-" + text.encode("latin-1", "replace") + b"\r\n"


#: Where no remedy is known.
FIX_WHAT_IS_NAMED = "Fix what the line names."
#: Ends a pause.
PAUSE_ENDS = "To go on: redisproxy resume NAMESPACE."

_URL = "redis-connection-string"
_FIX_SECRET = "Fix the secret. The proxy reads it again by itself."  # noqa: S105
_FIX_FILE = "Fix the file, or rename it so that its name begins with a dot."
_STAYS = "The last state that was read stays in force, and the proxy tries again by itself."
_RBAC = "Give the service account the rights of deploy/kubernetes/base/rbac.yaml."
_MASTER = "Fix the master secret. The last good one stays in force."
_AFTER_FAULT = "The log has the error."

# Tenants: namespaces and their secrets.

URL_MISSING = Reason(
    "tenant-url-missing",
    f"it has no key {_URL}; its value must look like redis://:password@host:6379/3",
    f"Add the key {_URL} to the secret: redisproxy enroll writes it.",
)
URL_NOT_UTF8 = Reason("tenant-url-not-utf-8", f"{_URL} is not UTF-8", _FIX_SECRET)
URL_WHITE_SPACE = Reason(
    "tenant-url-white-space",
    f"{_URL} begins or ends with white space (echo adds a newline: use echo -n or printf)",
    "Write the secret again, with printf %s.",
)
URL_CONTROL_CHARACTER = Reason(
    "tenant-url-control-character", f"{_URL} contains white space or a control character", _FIX_SECRET
)
URL_PERCENT = Reason(
    "tenant-url-percent",
    f"{_URL} has a % without two hexadecimal digits after it: write %25 for %",
    _FIX_SECRET,
    "install.md#urls",
)
URL_SCHEME = Reason("tenant-url-scheme", f"{_URL} does not begin with {{schemes}}", _FIX_SECRET, "install.md#urls")
URL_UNESCAPED = Reason(
    "tenant-url-unescaped",
    f"{_URL} has an @ after a / ? or #: in a password, write / as %2F, ? as %3F, # as %23 and @ as %40",
    _FIX_SECRET,
    "install.md#urls",
)
URL_USER_NOT_UTF8 = Reason("tenant-url-user-not-utf-8", f"the user name in {_URL} is not UTF-8", _FIX_SECRET)
URL_HOST = Reason(
    "tenant-url-host",
    f"{_URL} is not a URL of the form redis://:password@host:6379/3: host or port is malformed",
    _FIX_SECRET,
    "install.md#urls",
)
URL_PORT = Reason("tenant-url-port", f"{_URL} has a port that is not from 1 to 65535{{which}}", _FIX_SECRET)
URL_NO_PASSWORD = Reason("tenant-url-no-password", f"{_URL} has no password", _FIX_SECRET, "install.md#urls")
URL_NO_INDEX = Reason(
    "tenant-url-no-index", f"{_URL} does not end in /N, the number of the database", _FIX_SECRET, "install.md#urls"
)
URL_TWO_INDEXES = Reason(
    "tenant-url-two-indexes",
    f"{_URL} names one database after the host, and another one in its query",
    "Remove db= or database= from the URL's query.",
)
VALID_HOURS_MALFORMED = Reason(
    "tenant-valid-hours-malformed", "valid_hours is not a whole number of hours from 0 to {most}", _FIX_SECRET
)
VALID_HOURS_WITHOUT_START = Reason(
    "tenant-valid-hours-without-start",
    "it has valid_hours, but no metadata.creationTimestamp, when these hours begin",
    "Add a creationTimestamp: redisproxy temp NAMESPACE --hours N --dry-run --output yaml prints one.",
)
OTHER_DATABASE = Reason(
    "tenant-other-database",
    "it names database {index}, but {secret} gives the namespace database {own}",
    "A temporary secret must name the namespace's own database. Create it again: redisproxy temp NAMESPACE --hours N.",
)
DATABASE_OF_OLDER = Reason(
    "tenant-database-of-older",
    "database {index} belongs to the older {owner}",
    "First find out which namespace the data belongs to. If the older namespace took the database by mistake, give the "
    "older one another index. Otherwise give this namespace another index, whose database is empty: delete its secret, "
    "then redisproxy enroll NAMESPACE.",
)
DATABASE_OF_FORMER = Reason(
    "tenant-database-of-former",
    "database {index} belongs to {owner}, which had it first",
    "Give this namespace another index: redisproxy tenants shows which are taken.",
)
DATABASE_OF_NOBODY = Reason(
    "tenant-database-of-nobody",
    "database {index} is also named by {others}, and not all have a creationTimestamp: none of them gets it",
    "Give one of them another index, or add a creationTimestamp to each Namespace.",
    "install.md#manifests-instead-of-a-cluster",
)
DATABASE_IN_DOUBT = Reason(
    "tenant-database-in-doubt",
    "database {index} may belong to a namespace in {file}, which the proxy could never read: no other namespace gets it",
    _FIX_FILE,
)
DATABASE_MISSING = Reason(
    "tenant-database-missing",
    "Redis has no database {index}: it has databases 0 to {last}",
    "Raise `databases` in Redis's configuration, or use a lower index.",
)
PASSWORD_SHARED = Reason(
    "tenant-password-shared",
    "it has the same password as {others}: only AUTH <namespace> <password> is accepted",
    "Give one of them a password of its own: redisproxy rotate NAMESPACE --grace-hours 0.",
)
ANNOTATION_MALFORMED = Reason(
    "tenant-annotation-malformed",
    "annotation {name} is not a whole number from 0 to {most}: the default, {default}, applies",
    "Fix the annotation of the Namespace.",
    "operate.md#limits",
)
ANNOTATION_NOT_ALLOW = Reason(
    "tenant-annotation-not-allow",
    "annotation {name} is neither allow nor deny: deny applies",
    "Fix the annotation of the Namespace.",
    "operate.md#limits",
)
ANNOTATION_UNKNOWN = Reason(
    "tenant-annotation-unknown",
    "annotation {name} is unknown, and has no effect: the known ones are {known}",
    "Remove the annotation, or fix its name.",
    "operate.md#limits",
)
SECRET_TOO_LARGE = Reason(
    "tenant-secret-too-large",
    "it has more than {size:,} KiB: the proxy does not read it",
    "Remove from the secret what is not the proxy's.",
)
TOO_MANY_TEMPORARY = Reason(
    "tenant-too-many-temporary",
    "it has more than {most} temporary secrets: only the newest {most} are valid",
    "Delete the temporary secrets that have expired, or are not needed.",
    "operate.md#temporary-credentials",
)
PAUSED_MALFORMED = Reason(
    "tenant-paused-malformed",
    "annotation {name} is neither true nor false: the tenant is not paused",
    "Fix or remove the annotation of the Namespace.",
    "operate.md#pause-a-tenant",
)
NAMESPACE_NAME = Reason(
    "tenant-namespace-name",
    "is not a valid name of a namespace: use up to 63 of a-z, 0-9 and -",
    "Rename the namespace in the manifest.",
)

# The master secret.

MASTER_MISSING = Reason(
    "master-missing", "the master secret does not exist", "Create the master secret.", "install.md#the-master-secret"
)
MASTER_MALFORMED = Reason(
    "master-malformed", "the master secret is malformed: {reason}", _MASTER, "install.md#the-master-secret"
)
MASTER_OPTIONS = Reason("master-url-options", f"{_URL} has a ? or #, but the master's URL takes no options", _MASTER)
MASTER_PATH = Reason(
    "master-url-path", f"{_URL} has a text after the host that is not /N, the number of a database", _MASTER
)
MASTER_SOCKET_HOST = Reason(
    "master-url-socket-host",
    f"{_URL} is not of the form unix:///run/redis.sock: it names a host, or its path is not absolute",
    _MASTER,
)
MASTER_SOCKET_PATH = Reason(
    "master-url-socket-path", f"{_URL} is not of the form unix:///run/redis.sock: its path is not absolute", _MASTER
)
MASTER_PATH_NOT_UTF8 = Reason("master-url-path-not-utf-8", f"{_URL} has a path that is not UTF-8", _MASTER)
_SENTINEL_FORM = f"{_URL} is not of the form redis+sentinel://:password@host:26379,host:26379/master-name"
MASTER_SENTINEL_HOST = Reason(
    "master-url-sentinel-host", f"{_SENTINEL_FORM}: sentinel {{number}} is not a valid host and port", _MASTER
)
MASTER_SENTINEL_NAME = Reason(
    "master-url-sentinel-name",
    f"{_SENTINEL_FORM}: the master's name is missing, or has other characters than letters, digits and . - _",
    _MASTER,
)
MASTER_SENTINEL_INDEX = Reason(
    "master-url-sentinel-index",
    f"{_SENTINEL_FORM}: the text after the master's name is not the number of a database",
    _MASTER,
)
MASTER_NEWLINE = Reason(
    "master-newline",
    "{key} ends with a newline (echo adds one: use echo -n or printf)",
    "Redis would refuse this password. Write it without the newline: printf %s PASSWORD | base64.",
)
MASTER_USER_NOT_UTF8 = Reason("master-user-not-utf-8", "sentinel-username is not UTF-8", _MASTER)

# Manifests.

NOT_A_MAPPING = Reason("manifest-not-a-mapping", "it is not a mapping", _FIX_FILE)
PART_NOT_A_MAPPING = Reason("manifest-part-not-a-mapping", "{part} is not a mapping", _FIX_FILE)
NO_NAME = Reason("manifest-no-name", "it has no metadata.name", _FIX_FILE)
NAMESPACE_NOT_TEXT = Reason("manifest-namespace-not-text", "metadata.namespace is not a string", _FIX_FILE)
BAD_TIME = Reason(
    "manifest-bad-time",
    "metadata.creationTimestamp is not a time like 2026-01-31T12:00:00Z",
    "Fix the time. Until then the proxy handles the document like one without a creationTimestamp.",
)
NOT_BASE64 = Reason("manifest-not-base64", "data.{key} is not base64", "Encode it, or write it under stringData.")
NOT_TEXT = Reason("manifest-not-text", "stringData.{key} is not a string", "Put the value in quotes.")
NOT_UTF8 = Reason("manifest-not-utf-8", "stringData.{key} is not UTF-8", "Write it under data, as base64.")
TAG = Reason(
    "manifest-tag",
    "it has a YAML tag on line {line}: the proxy ignores the tag, and uses the value after it unchanged",
    "Remove the tag (!…).",
)
NO_NAMESPACE_DOCUMENT = Reason(
    "manifest-no-namespace",
    "no file has a Namespace document of that name",
    "Add a Namespace document, with a creationTimestamp.",
    "install.md#manifests-instead-of-a-cluster",
)
FILE_UNREADABLE = Reason("manifest-unreadable", "it cannot be read ({error})", _FIX_FILE)
FILE_NOT_YAML = Reason("manifest-not-yaml", "it is not YAML or JSON ({where})", _FIX_FILE)
FILE_STALE = Reason(
    "manifest-stale",
    "{reason}: its last good content stays in force",
    see="install.md#manifests-instead-of-a-cluster",
)
FILE_NEVER_READ = Reason(
    "manifest-never-read",
    "{reason}: nothing in it is in force, and no namespace gets a database that it may name",
    see="install.md#manifests-instead-of-a-cluster",
)
FILE_FAILED = Reason("manifest-file", "{file}: {reason}")
DIRECTORY_UNREADABLE = Reason(
    "manifest-directory-unreadable",
    "{directory}: {error}",
    "Give the proxy the right to read the directory of manifests. The last state that was read stays in force.",
)

# The Kubernetes API.

NOT_READ = Reason("api-not-read", "not read: {reason}")
SECRETS_NOT_READ = Reason("api-secrets-not-read", "its secrets were not read: {reason}")
MANY_NOT_READ = Reason("api-many-not-read", "the secrets of {count} of {all} were not read: {reason}")
API_NO_WAY = Reason(
    "api-no-way",
    "no access to the Kubernetes API: {detail}",
    f"Fix the kubeconfig, or the service account, that the line names. {_STAYS}",
)
API_NO_ANSWER = Reason(
    "api-no-answer", "no answer from {address}: {error}", f"Check whether the Kubernetes API runs. {_STAYS}"
)
API_TOO_LARGE = Reason("api-too-large", "{address} sent more than {size:,} KiB in one answer")
API_NOT_JSON = Reason(
    "api-not-json",
    "the answer of {address} is not JSON",
    f"The server at that address is not an API server. {_STAYS}",
)
API_NOT_AN_OBJECT = Reason("api-not-an-object", "the answer of {address} is not a JSON object", API_NOT_JSON.remedy)
API_NOT_A_LIST = Reason("api-not-a-list", "the answer of {address} is not a list of objects", API_NOT_JSON.remedy)
API_OTHER_OBJECTS = Reason(
    "api-other-objects", "the answer of {address} has objects that the proxy did not ask for", API_NOT_JSON.remedy
)
API_ENDLESS = Reason("api-endless", "the list does not end: a page names itself as the next page", API_NOT_JSON.remedy)
API_UNSENDABLE = Reason(
    "api-unsendable",
    "the token or the address cannot be sent: one of them has a line end",
    "Fix the token of the service account, or the address in the kubeconfig.",
)
API_STATUS = Reason(
    "api-status", "{status}", f"Read the API server's own log. {_STAYS}", example="500 Internal Server Error"
)
API_UNAUTHORIZED = Reason(
    "api-unauthorized",
    "{status}",
    f"The API server does not accept the token of the service account. {_STAYS}",
    example="401 Unauthorized",
)
API_FORBIDDEN = Reason(
    "api-forbidden", "{status}", f"{_RBAC} With narrow-rbac, add its Role in that namespace.", example="403 Forbidden"
)
API_NOT_FOUND = Reason(
    "api-not-found",
    "{status}",
    "Create the object that the line names, or fix its name in the settings.",
    example="404 Not Found",
)
API_TOO_MANY = Reason(
    "api-too-many", "{status}", f"The API server has too many requests. {_STAYS}", example="429 Too Many Requests"
)
API_RIGHT_MISSING = Reason(
    "api-right-missing",
    "{status}: the right to {verb} {what} is missing (deploy/kubernetes/base/rbac.yaml)",
    _RBAC,
)
WATCH_CLOSED = Reason("api-watch-closed", "the connection was closed", _STAYS)
WATCH_BROKE_OFF = Reason("api-watch-broke-off", "the connection broke: {error}", _STAYS)
WATCH_ENDED = Reason("api-watch-ended", "the API server ended the watch with status {status}", _STAYS)
WATCH_NO_EVENT = Reason("api-watch-no-event", "the API server sent something that is not an event", _STAYS)
WATCH_LONG_LINE = Reason("api-watch-long-line", "an event is too long", _STAYS)
WATCH_BUG = Reason("api-watch-bug", "the proxy has a bug", "Report it, with the traceback in the log.")

# Redis: what it answers. The code ends in Redis's own word.

_NOT_THE_MASTERS = (
    "Redis does not accept the password in the master secret. Write Redis's password into the master secret. If somebody "
    "is changing the password, follow docs/operate.md, 'A rotation that stopped half-way'."
)
#: By the word that Redis's error begins with: what can be done.
REDIS_REMEDIES = {
    "BUSY": (
        "A script has run for too long in Redis. Wait until it ends, or end it as the master's user: SCRIPT KILL, or "
        "FUNCTION KILL for a function."
    ),
    "LOADING": "Redis is loading its data. Wait until it has finished.",
    "OOM": "Redis has no memory left. Raise its maxmemory, or delete keys.",
    "MASTERDOWN": "This is a replica that has lost its master. Wait for the master, or name another Redis in the master "
    "secret.",
    "READONLY": "This is a replica. Name the master, or its sentinels, in the master secret.",
    "MISCONF": "Redis cannot write its data to disk, and refuses all writes. Its log says why.",
    "NOREPLICAS": "Redis has too few replicas. Wait for them, or lower its min-replicas-to-write.",
    "TRYAGAIN": "Redis is moving keys. Wait.",
    "CLUSTERDOWN": "This is a node of a Redis Cluster. Name a Redis without cluster mode.",
    "WRONGPASS": _NOT_THE_MASTERS,
    "NOAUTH": "Write Redis's password into the master secret.",
    "NOPERM": "Give the master's user the rights that docs/redis.md names.",
}
REDIS_ERROR = Reason(
    "redis-error",
    "{error}",
    example="ERR …",
)
REDIS_ERRORS = {
    word: Reason(f"redis-error-{word.lower()}", "{error}", text, example=f"{word} …")
    for word, text in REDIS_REMEDIES.items()
}
#: Redis's AUTH of before 6, and that of a full Redis.
REDIS_OLD_WRONGPASS = Reason(
    "redis-error-wrongpass-old",
    "{error}",
    _NOT_THE_MASTERS,
    example="ERR invalid password",
)
REDIS_MAXCLIENTS = Reason(
    "redis-error-maxclients",
    "{error}",
    "Raise maxclients of Redis, or close some of its connections.",
    example="ERR max number of clients reached",
)


def redis_error(error: str) -> Text:
    """What Redis answered, as a text that has the advice for the error.

    error: what `printable.shown_error` leaves of it, with or without its hyphen.
    """
    words = error.lstrip("-")
    message = REDIS_ERRORS.get(words.partition(" ")[0])
    if message is None:
        message = REDIS_ERROR
        if words.startswith("ERR invalid password"):
            message = REDIS_OLD_WRONGPASS
        elif words.startswith("ERR max number of clients"):
            message = REDIS_MAXCLIENTS
    return message(error=error)


REDIS_ANSWERED_AUTH = Reason("redis-answered-auth", "Redis answered AUTH with: {error}")
REDIS_ANSWERED_TENANT_AUTH = Reason("redis-answered-tenant-auth", "Redis answered AUTH of {namespace} with: {error}")
REDIS_ANSWERED_SELECT = Reason("redis-answered-select", "Redis answered SELECT {index} with: {error}")
REDIS_ANSWERED_HELLO = Reason("redis-answered-hello", "Redis answered HELLO {protocol} with: {error}")
REDIS_ANSWERED_PING = Reason("redis-answered-ping", "Redis answered PING with: {error}")
REDIS_USER_UNKNOWN = Reason(
    "redis-user-unknown",
    "Redis does not know the user of {namespace}",
    "Something else changes the tenants' ACL users. If this lasts, delete them with ACL DELUSER: the proxy creates them "
    "again.",
    "security.md#two-isolation-layers",
)
REDIS_NO_USER = Reason(
    "redis-no-user",
    "the ACL user of {namespace} cannot be created: {error}",
    see="security.md#two-isolation-layers",
)
REDIS_NO_ACL = Reason(
    "redis-no-acl",
    "this Redis has no ACL users for the proxy, and --acl is require",
    "Use another Redis, give the master's user the right to ACL SETUSER, or set --acl auto.",
    "security.md#two-isolation-layers",
)
REDIS_LOST_EARLY = Reason("redis-lost-early", "the connection was lost during its setup: {reason}")
REDIS_CLOSES = Reason(
    "redis-closes",
    "{address} closes connections as soon as they are open",
    "Raise maxclients of Redis, or check what is between Redis and the proxy: a load balancer without a backend, or TLS "
    "at one end only.",
)
REDIS_MOVED = Reason("redis-elsewhere", "Redis moved while a connection was opened")
TENANT_PAUSED = Reason("tenant-is-paused", "the tenant is paused", PAUSE_ENDS)
REDIS_AWAY = Reason("redis-refused-a-moment-ago", "Redis refused a connection a moment ago")
REDIS_UNKNOWN = Reason("redis-no-backend", "no backend is known", "Create the master secret.")
REDIS_MASTER_RIGHTS = Reason(
    "redis-master-rights",
    "a connection has the master's rights, and the tenant needs one with its ACL user: the proxy closed that connection",
)
REDIS_UNREACHABLE = Reason("redis-unreachable", "{address} cannot be reached: {reason}", runbook="RedisUnreachable")
REDIS_SILENT = Reason(
    "redis-silent",
    "{address} did not answer in time",
    "Check whether Redis's process is stopped or busy, and whether the server at that address is Redis.",
    runbook="RedisHung",
)
#: Why there is no connection, by what the network says.
NET_TIMEOUT = Reason(
    "net-timeout",
    "no answer came in time",
    "Check whether Redis's process is stopped or busy, its machine is down, or a network policy blocks the connection.",
)
NET_ABORTED = Reason("net-aborted", "no answer came in time, so the proxy closed the connection", NET_TIMEOUT.remedy)
NET_REFUSED = Reason(
    "net-refused",
    "{error}",
    "Nothing listens at that address: start Redis, or fix the address in the master secret.",
    example="ConnectionRefusedError: errno 111",
)
NET_NAME = Reason("net-name", "{error}", "Fix the host in the master secret, or DNS.", example="DNSLookupError: …")
NET_UNREACHABLE = Reason(
    "net-unreachable",
    "{error}",
    NET_TIMEOUT.remedy,
    example="NoRouteError: …",
)
NET_TLS = Reason(
    "net-tls", "{error}", "Fix --redis-ca, or the name in Redis's certificate.", example="… certificate verify failed …"
)
NET_CLOSED = Reason(
    "net-closed",
    "{error}",
    "The other end closed the connection. Check for a load balancer without a backend, maxclients of Redis, or TLS at one "
    "end only.",
    example="ConnectionDone: …",
)
NET_OTHER = Reason(
    "net-other",
    "{error}",
    "Check the address in the master secret, and whether the proxy may reach it (network policy, TLS).",
    example="any other error",
)
CA_FILE = Reason(
    "redis-ca-file",
    "the CA file {file} cannot be used: {reason}",
    "Fix the file that --redis-ca names: it takes one or more certificates in PEM.",
)
REDIS_NO_CONTROL_NOW = Reason("redis-no-control-now", "there is no control connection to Redis")
REDIS_NO_REPLY = Reason("redis-no-reply", "no reply within {seconds:g} s", NET_TIMEOUT.remedy)
REDIS_REPLY_TOO_LARGE = Reason("redis-reply-too-large", "a reply of {size} bytes is too large")
REDIS_ODD_ANSWER = Reason("redis-odd-answer", "Redis does not give such a reply to this query")
REDIS_CONNECTION_LOST = Reason("redis-connection-lost", "the connection was lost")
STOPPING = Reason("redis-proxy-stops", "the proxy is stopping")

REDIS_HUNG = Reason(
    "redis-hung",
    "Redis has not answered a PING for more than {seconds:g} s: commands wait",
    "Check the state of Redis's process. T: somebody stopped it. D: it waits for its disk. R: it runs one long command or "
    "script, or forks.",
    runbook="RedisHung",
)
REDIS_BUSY = Reason(
    "redis-busy",
    "Redis is busy with a script, and answers -BUSY to all other commands",
    REDIS_REMEDIES["BUSY"],
    runbook="RedisHung",
)
_UNENDED = (
    "Wait until the script ends. Or do what loses data: SHUTDOWN NOSAVE ends Redis without a save, and a failover makes a "
    "replica the master. Afterwards deny the tenant scripts: the annotation redisproxy/scripts."
)
SCRIPT_UNKILLABLE = Reason(
    "redis-script-unkillable",
    "Redis is busy with a script of {namespaces}, and cannot end it, because the script has written",
    _UNENDED,
    "runbooks/RedisProxyRedisHung.md",
    runbook="RedisHung",
)
SCRIPT_KILL_REFUSED = Reason(
    "redis-script-not-ended",
    "Redis is busy with a script of {namespaces}, and refuses to end it: {error}",
    "Give the master's user the rights to SCRIPT KILL and FUNCTION KILL. Now end the script as an administrator of Redis.",
    "runbooks/RedisProxyRedisHung.md",
    runbook="RedisHung",
)
REDIS_IS_SENTINEL = Reason(
    "redis-is-sentinel",
    "is a sentinel: to let the proxy ask it for the master, write redis+sentinel://HOST:PORT/MASTER-NAME",
    "Write that URL, or the address of a Redis, into the master secret.",
)
REDIS_IS_CLUSTER = Reason(
    "redis-is-cluster",
    "is a node of a Redis Cluster, which has one database: the proxy needs a Redis without cluster mode",
    "Name another address in the master secret.",
)
REDIS_IS_LOADING = Reason(
    "redis-is-loading",
    "is loading its data: it answers -LOADING to tenants' commands until it has finished",
    REDIS_REMEDIES["LOADING"],
)
REDIS_IS = Reason("redis-is", "{address} {state}")
REDIS_REPORTS_NOTHING = Reason(
    "redis-reports-nothing", "Redis at {address} did not report its version and settings: {reason}"
)
REDIS_REFUSES = Reason("redis-refuses", "Redis at {address} refuses: {error}")
REDIS_CLOSED_EARLY = Reason(
    "redis-closed-early",
    "Redis at {address} closed the connection before it had answered",
    NET_CLOSED.remedy,
)
REDIS_NOT_CONNECTED = Reason("redis-not-connected", "no connection to Redis at {address}: {reason}")
REDIS_NOT_ASKED = Reason("redis-not-asked", "{address} cannot be asked: {reason}")
REDIS_NOT_REPORTED = Reason("redis-not-reported", "did not report its version and settings, and is asked again: {reason}")
REDIS_NOT_REPORTED_IN_TIME = Reason(
    "redis-not-reported-in-time",
    "did not report its version and settings within {seconds:g} s, and is asked again",
    NET_TIMEOUT.remedy,
)
REDIS_QUESTIONS = Reason(
    "redis-questions",
    "{text}",
    example="INFO server: BUSY …",
)
REDIS_ODD_ANSWERS = Reason(
    "redis-odd-answers",
    "{text}; if a hosted Redis always answers like this, set --acl off: the proxy then creates no ACL users, and refuses "
    "scripts",
)
REDIS_OTHER_SERVER = "the address now has another server"
REDIS_IS_REPLICA = Reason(
    "redis-is-replica",
    "{address} reports that it is a replica, and refuses writes",
    "Name the master, or its sentinels, in the master secret.",
)

REDIS_IS_WITHOUT_ACL = Reason(
    "redis-is-without-acl",
    "{address} has no ACL users for tenants, and --acl is require: nobody is served",
    REDIS_NO_ACL.remedy,
    "security.md#two-isolation-layers",
)

OUTPUT_LIMIT = Reason(
    "redis-output-limit",
    "{address} closes a connection with {size} bytes of unread replies (client-output-buffer-limit normal). A "
    "multiplexed connection has the replies of many sessions, which Redis adds up, and all of them would be closed",
    "Set a limit of 256 MiB or more, or --connections dedicated.",
    "redis.md#its-settings",
)
NO_OUTPUT_LIMIT = Notice(
    "redis-no-output-limit",
    "{address} keeps any number of bytes for clients that do not read: neither maxmemory-clients nor "
    "client-output-buffer-limit normal has a value",
    "Set maxmemory-clients 25% from Redis 7 on, or client-output-buffer-limit normal 1gb 256mb 60.",
    "redis.md#its-settings",
)
NO_MAXMEMORY = Notice(
    "redis-no-maxmemory",
    "{address} has no maxmemory: one tenant can fill the machine's memory, and then the kernel ends Redis",
    "Set maxmemory and maxmemory-policy.",
    "redis.md#its-settings",
)
LOW_MAXCLIENTS = Notice(
    "redis-low-maxclients",
    "{address} takes {clients} connections (maxclients), and each replica of the proxy may need more than {needed}",
    "Raise maxclients above the number in sizing.md.",
    "sizing.md#connections-to-redis",
)

# Sentinels.

SENTINELS_SILENT = Reason(
    "sentinels-silent",
    "no sentinel reports the address of {name}",
    "Read each sentinel's line in the log, and fix the sentinels in the master secret.",
)
SENTINELS_UNREACHABLE = Reason(
    "sentinels-unreachable-master",
    "the sentinels say that {name} is at {address}, which cannot be reached: {reason}",
    "The sentinels announce an address that the proxy cannot reach, or a failover is not finished.",
    "redis.md#when-it-fails-over",
)
SENTINELS_ROLE_UNKNOWN = Reason(
    "sentinels-role-unknown",
    "the sentinels say that {name} is at {address}, which does not report whether it is a replica: {reason}",
    "Give the master's user the right to INFO, or wait until the failover is finished.",
    "redis.md#when-it-fails-over",
)
SENTINELS_REPLICA = Reason(
    "sentinels-replica",
    "the sentinels say that {name} is at {address}, which reports that it is a replica",
    "Wait until the failover is finished. If this lasts, fix the sentinels.",
    "redis.md#when-it-fails-over",
)
SENTINEL_UNREACHABLE = Reason("sentinel-unreachable", "it cannot be reached: {reason}")
SENTINEL_ODD = Reason(
    "sentinel-odd", "the server there does not answer like a sentinel", "Fix the sentinels in the master secret."
)

# Why the proxy is not ready.

NO_CREDENTIALS = NotReady(
    "unready-no-credentials",
    "no credentials have been read yet",
    f"Check whether the Kubernetes API answers. {_AFTER_FAULT}",
    "#namespaces-and-secrets",
    "CredentialsNotLoaded",
)
NO_MASTER = NotReady(
    "unready-no-master",
    "the master secret, which says where Redis is, has not been read yet",
    "Create the master secret, or fix it as the log says.",
    "install.md#the-master-secret",
    "CredentialsNotLoaded",
)
REDIS_NO_ANSWER = NotReady(
    "unready-redis-silent",
    "the proxy cannot use Redis",
    f"Check whether Redis runs, and whether the proxy may reach it. {_AFTER_FAULT}",
    "#redis",
    "RedisUnreachable",
)
REDIS_NOT_PROBED = NotReady(
    "unready-redis-not-reported",
    "Redis has not reported its version and settings yet",
    "Wait: the proxy asks again. If this lasts, the log has Redis's answers.",
    "#redis",
    "NotReady",
)
REDIS_REFUSES_USERS = NotReady(
    "unready-no-users",
    "Redis no longer lets the proxy create the tenants' ACL users",
    "Give the master's user the right to ACL SETUSER. Until then no new client can log in.",
    "#redis",
    "NotReady",
)
REDIS_REFUSES_CONNECTIONS = NotReady(
    "unready-refused",
    "Redis refuses new connections of the proxy",
    f"{_AFTER_FAULT} Usual causes: Redis has another password, or has reached its maxclients.",
    "#redis",
    "RedisUnreachable",
)
REDIS_WITHOUT_ACL = NotReady(
    "unready-no-acl",
    "Redis has no ACL users for tenants, and --acl is require",
    "Use another Redis, give the master's user more rights, or set --acl auto.",
    "security.md#two-isolation-layers",
    "OneIsolationLayer",
)
NO_WORKER = NotReady(
    "unready-no-worker",
    "no worker serves clients yet",
    "Wait. If this lasts, the log says why the workers do not start.",
    "#the-process",
    "WorkersMissing",
)
DRAINING = NotReady(
    "unready-draining", "draining", "Nothing: the proxy received SIGTERM or SIGINT, and ends.", "operate.md#when-it-ends"
)

# Problems that the status page finds.

WORKERS_MISSING = Problem(
    "problem-workers-missing",
    "{serving} of {wanted} workers serve clients",
    "The proxy starts the others by itself. The log says why each worker ended, or could not start: signal SIGKILL often "
    "means that memory ran out.",
    runbook="WorkersMissing",
)
CLIENTS_WAIT = Problem(
    "problem-clients-wait",
    "{waiting:,} clients wait: {served:,} of {most:,} sessions are taken (MAX_WORKERS)",
    "Raise MAX_WORKERS, add a replica, or limit the connections of the tenants that have most.",
    runbook="QueueFilling",
)
NEARLY_FULL = Problem(
    "problem-nearly-full",
    "{served:,} of {most:,} sessions are taken (MAX_WORKERS)",
    CLIENTS_WAIT.remedy,
    runbook="ConnectionsNearLimit",
)
REDIS_SLOW = Problem(
    "problem-redis-slow",
    "slow: one PING in a hundred took {milliseconds:,.0f} ms or longer",
    "SLOWLOG GET shows the commands that keep Redis busy.",
    runbook="RedisSlow",
)
NOT_WATCHED = Problem(
    "problem-not-watched",
    "changes are not watched: they take effect at the next full read of the credentials",
    "The log says why. The proxy tries again by itself.",
    runbook="NotWatching",
)
CERTIFICATE_REFUSED = Problem(
    "problem-certificate-refused",
    "a newer certificate cannot be used: {reason}",
    "The proxy does not use it: the last good one stays in force. Fix the files. The proxy reads them again by itself.",
    runbook="CertificateExpiring",
)
CERTIFICATE_ENDED = Problem(
    "problem-certificate-ended",
    "its certificate expired {ago} ago: clients refuse it",
    "Renew the certificate. The proxy takes over the new files by itself.",
    runbook="CertificateExpiring",
)
CERTIFICATE_ENDS = Problem(
    "problem-certificate-ends",
    "its certificate expires in {left}, {when}",
    CERTIFICATE_ENDED.remedy,
    runbook="CertificateExpiring",
)
WRONG_PASSWORDS = Problem(
    "problem-wrong-passwords",
    "{count:,} log-ins had a wrong password in the last {time}",
    "The log has the addresses. An application has an old password, its namespace is kept out, or somebody guesses "
    "passwords.",
    runbook="WrongPasswords",
)
SCRIPTS_ENDED = Problem(
    "problem-scripts-ended",
    "{count:,} of its scripts ran for too long in the last {time}, and were ended: nobody was served meanwhile",
    "Its author has to make its scripts shorter. Or refuse its scripts: the annotation redisproxy/scripts: deny.",
    runbook="ScriptsEnded",
)
TENANT_FULL = Problem(
    "problem-tenant-full",
    "it reached {limit}: {count:,} log-ins were refused in the last {time}",
    "Raise redisproxy/max-connections of the namespace, or make the application close connections that it does not use.",
    runbook="TenantFull",
)

# What the operator's command warns of.

COMMANDS_UNKNOWN = LogLine(
    "commands-unknown",
    "--allow-commands or --deny-commands names commands that this Redis does not have: {names}",
    "Fix the name, or load the module that has the command.",
    level="warn",
)
COMMANDS_OPENED = LogLine(
    "commands-opened",
    "--allow-commands opens {command}: {what}",
    "The command shows or affects other tenants, or the proxy does not know it. Remove the command from the list if you "
    "do not want this.",
    "security.md#what-is-refused",
    level="warn",
)

# Log lines about namespaces and secrets.

TENANT_PROBLEM = LogLine(
    "tenant-problem",
    "{problem}",
    level="warn",
    example="team-a/redis-secret: …",
)
FIXED = LogLine("tenant-problem-fixed", "fixed: {problem}")
READ_AGAIN = LogLine("source-readable-again", "{source} can be read again")
LOADED = LogLine("source-loaded", "{tenants} tenants with {credentials} credentials, from {source}")
PAUSED_NOW = LogLine(
    "tenant-paused-now",
    "paused: {namespaces}. Their commands and log-ins wait, and their clients are closed after --hold-seconds",
    PAUSE_ENDS,
    "operate.md#pause-a-tenant",
    level="warn",
)
RESUMED = LogLine("tenant-resumed", "not paused any more: {namespaces}")
WATCHED = LogLine("source-watched", "namespaces and secrets are watched: changes take effect at once")
NOT_WATCHED_NOW = LogLine(
    "source-not-watched",
    "{what} cannot be watched: {reason}. Until the watch works, changes take effect at the next refresh",
    level="warn",
)

# Log lines about Redis.

REDIS_AT = LogLine("redis-at", "Redis is at {address}")
REDIS_VERSION = LogLine("redis-version", "Redis is {version}, with {databases} databases")
REDIS_USABLE_AGAIN = LogLine("redis-usable-again", "Redis at {address} can be used again")
REDIS_NO_CONNECTION = LogLine("redis-no-connection", "no connection to Redis: {reason}", level="error")
REDIS_SHARED_OUT = LogLine(
    "redis-shared-out",
    "Redis has as many clients as it takes (maxclients): {namespace} has most connections, and gives some up to others",
    "Raise maxclients of Redis, or limit the tenant: redisproxy/max-connections.",
    "sizing.md#who-gets-a-connection-to-redis",
    level="warn",
    runbook="ClientsTurnedAway",
)
REDIS_NO_CONTROL = LogLine(
    "redis-no-control-connection",
    "no control connection to {address}: {reason}",
    "The proxy tries again by itself.",
    level="warn",
)
SLOW_LOG_REFUSED = LogLine(
    "redis-slow-log-refused",
    "slow commands are not counted: Redis refuses SLOWLOG GET: {reason}",
    "Give the proxy's user in Redis the right to SLOWLOG, or do without redisproxy_tenant_slow_commands_total.",
    level="warn",
)
COMMAND_SLOW = LogLine(
    "tenant-command-slow",
    "{command} of {namespace} is slow: Redis logged it several times, lately with {milliseconds:,.0f} ms. From now on it "
    "goes one at a time, until it is quick again",
    "Its author finds the keys with SLOWLOG GET. Smaller values, or parts of them, make it quick.",
    "decisions/windows.md",
    level="warn",
)
REDIS_STATE = LogLine("redis-state", "Redis at {address} {state}", level="warn")
REDIS_WRONG_ANSWER = LogLine(
    "redis-wrong-answer",
    "{upstream} sent a reply that the proxy did not expect: {reason}",
    "The proxy has closed that connection, and its tenant's commands in flight failed. Check that the server there is "
    "Redis. If it is, report this line.",
    level="warn",
)
REDIS_NOT_WELL = LogLine(
    "redis-fault",
    "{fault}",
    level="warn",
    example="Redis has not answered a PING …",
)
REDIS_WELL_AGAIN = LogLine("redis-fault-over", "Redis answers as usual again")
SCRIPT_ENDED = LogLine(
    "tenant-script-ended",
    "ended a script of {namespace}: it ran for more than {seconds:g} s, and Redis served nobody else; scripts of "
    "{namespace} are refused for {pause:g} s",
    "Its author has to make the script shorter. To let scripts run for longer: --script-seconds. To refuse the tenant's "
    "scripts: the annotation redisproxy/scripts.",
    "operate.md#scripts",
    level="warn",
)
SCRIPT_ENDED_OF = LogLine(
    "redis-script-ended",
    "ended a script: it ran for more than {seconds:g} s, and Redis served nobody else; it was of one of: {namespaces}",
    SCRIPT_ENDED.remedy,
    "operate.md#scripts",
    level="warn",
)
ONE_LAYER = LogLine(
    "redis-one-isolation-layer",
    "one isolation layer, the proxy's policy: Redis does not enforce the tenants' limits, and scripts are refused",
    "The proxy has no ACL users in Redis: Redis is older than 6.2, the master's user may not use ACL SETUSER, or --acl is "
    "off.",
    "security.md#two-isolation-layers",
    level="warn",
)
NO_LAYER = LogLine(
    "redis-no-isolation-layer",
    "one isolation layer, the proxy's policy: Redis does not enforce the tenants' limits; nobody is served, because --acl "
    "is require",
    REDIS_WITHOUT_ACL.remedy,
    "security.md#two-isolation-layers",
    level="warn",
)
TWO_LAYERS = LogLine(
    "redis-two-isolation-layers", "two isolation layers: the proxy's policy, and an ACL user for each tenant, {users}"
)
_UNSEALED = "one tenant's script can change another tenant's script (CVE-2025-46818), or the master's user may not use EVAL"
SCRIPTS_REFUSED = LogLine(
    "redis-scripts-refused",
    f"{TWO_LAYERS.text}; scripts are refused: on this server {_UNSEALED}",
    "Upgrade Redis, or give the master's user the right to EVAL. Scripts are refused until then.",
)
SCRIPTS_ALLOWED = LogLine(
    "redis-scripts-allowed",
    f"{TWO_LAYERS.text}; --allow-commands allows scripts, though on this server {_UNSEALED}",
    "Upgrade Redis, or remove EVAL from --allow-commands.",
)
USERS_REKEYED = LogLine(
    "redis-users-rekeyed",
    "{count} ACL users have a password derived from the new master password; their old passwords end in {seconds:g} s",
)
USERS_REKEYED_ALONE = LogLine(
    "redis-users-rekeyed-alone", "{count} ACL users have only the password derived from the new master password"
)
USERS_REMOVED = LogLine("redis-users-removed", "removed {count} ACL users without a tenant: {names}")
USERS_UNKEPT = LogLine(
    "redis-users-unkept",
    "the tenants' ACL users cannot be maintained: Redis answered {question} with {error}",
    "Passwords derived from an older master password stay valid, and users without a tenant stay. Give the master's user "
    "the right to that command, or delete these users with ACL DELUSER after a rotation.",
    "security.md#two-isolation-layers",
    level="warn",
)
MARKERS_REFUSED = LogLine(
    "redis-markers-refused",
    "PSUBSCRIBE is refused, because the tenants' patterns cannot be counted: {error}",
    "Give the master's user the rights to SUBSCRIBE, UNSUBSCRIBE and PUBSUB, and to the channels redisproxy/patterns:*.",
    "redis.md#its-settings",
    level="warn",
)
FAILOVER = LogLine(
    "redis-failover",
    "failover: the sentinels say that {name} is at {found}, no longer at {before}",
    "The proxy needs nothing. Check the old master.",
    level="warn",
)
SENTINELS_TELL = LogLine("sentinels-tell-again", "the sentinels report the address of {name} again")
SENTINEL_TELLS = LogLine("sentinel-tells-again", "{sentinel} reports the master's address again")
SENTINEL_FAULT = LogLine("sentinel-fault", "{sentinel}: {reason}", level="warn")
SENTINELS_HELPLESS = LogLine("sentinels-helpless", "{reason}; the proxy still uses {address}", level="error")
MASTER_LOST = LogLine(
    "redis-demoted",
    "{address} reports that it is a replica, and refuses writes: the proxy looks for the master",
    "Redis was demoted, or the master secret names a replica. Clients get its -READONLY.",
    "redis.md#when-it-fails-over",
    level="error",
)
MASTER_BACK = LogLine("redis-promoted", "{address} reports that it is a master")
MASTER_MOVED = LogLine(
    "redis-moved",
    "{address} now reaches a master: the proxy opens all its connections again",
    "The proxy needs nothing. Check the old master.",
    level="warn",
)
EMBEDDED_ENDED = LogLine(
    "embedded-ended",
    "the embedded server ended with status {status}",
    "Somebody killed it, or the kernel killed it because memory ran out. The proxy ends with status 1.",
    level="critical",
)

# Log lines about clients.

CLIENT_ENDED = LogLine(
    "client-ended",
    "client {number} from {peer}, {who}: {close_reason}{more} after {seconds:.3f} s, {commands} commands, {refused} refused",
    "The close reason says why: see the table of close reasons.",
    "#close-reasons",
)
CLIENT_ENDED_ORDINARILY = LogLine("client-ended-ordinarily", CLIENT_ENDED.text, level="debug")
COMMAND_REFUSED = LogLine(
    "client-command-refused",
    "refused {command} to {namespace}/{secret} from {peer}",
    "The tenant may not use this command. The proxy logs the first ten refusals of a connection.",
    "security.md#what-is-refused",
)
LOGIN_WRONG = LogLine(
    "client-wrong-password",
    "log-in from {peer} refused: wrong password",
    "If redisproxy tenants says that the application's namespace is kept out, fix that. Otherwise restart the application: "
    "it has an old password. After five wrong passwords from one address, each error comes later, up to 5 s. After twenty "
    "on one connection, the proxy closes the connection.",
    "runbooks/RedisProxyWrongPasswords.md",
)
LOGIN_AMBIGUOUS = LogLine(
    "client-ambiguous-password",
    "log-in from {peer} refused: ambiguous password",
    "Two namespaces have this password. Give one its own: redisproxy rotate NAMESPACE --grace-hours 0.",
)
LOGIN_NOT_LOADED = LogLine(
    "client-credentials-not-loaded",
    "log-in from {peer} refused: no credentials have been read yet",
    "Wait. If this lasts, the log says why the credentials cannot be read.",
    "#namespaces-and-secrets",
)
LOGIN_TENANT_FULL = LogLine(
    "client-tenant-full",
    "log-in from {peer} refused: the tenant of {namespace}/{secret} has reached its limit of connections",
    TENANT_FULL.remedy,
    "operate.md#limits",
)
LINES_LEFT_OUT = LogLine(
    "client-lines-left-out",
    "{left_out} lines about {namespace} were left out: they came too fast",
    "The proxy writes 50 such lines about a tenant in ten seconds, all processes together, so that no tenant hides "
    "the lines about others.",
)
LINES_LEFT_OUT_OF_ADDRESS = LogLine(
    "client-lines-left-out-address",
    "{left_out} lines about clients that are not logged in were left out: most came from {address}",
    "The proxy writes 20 such lines about an address in ten seconds, and 200 about all addresses.",
)
LINES_LEFT_OUT_OF_MANY = LogLine(
    "client-lines-left-out-addresses",
    "{left_out} lines about clients that are not logged in were left out: they came from too many addresses",
    LINES_LEFT_OUT_OF_ADDRESS.remedy + " It counts at most 1,000 addresses one by one.",
)

# Why a client's connection ended.

CLIENT_LEFT = CloseReason("client-left", "The client closed the connection. Logged at debug level only.")
QUIT = CloseReason("quit", "The client sent QUIT. Logged at debug level only.")
SHUTDOWN = CloseReason("shutdown", "The proxy ended, and the session was drained. Logged at debug level only.")
TURNED_AWAY = CloseReason(
    "turned-away",
    "Its password was right, but all slots (MAX_WORKERS) and the queue (WORK_QUEUE_SIZE) are full, and its tenant has no "
    "less than others.",
    "Raise MAX_WORKERS or WORK_QUEUE_SIZE, or add a replica.",
    "sizing.md#who-gets-a-slot",
)
MADE_ROOM = CloseReason(
    "made-room",
    "It had not logged in, and a newer connection needed its place. Its address had most of these.",
    "Find out who connects so often: see RedisProxyClientsTurnedAway.",
    "sizing.md#who-gets-a-slot",
)
OVER_SHARE = CloseReason(
    "over-share",
    "All slots (MAX_WORKERS) were taken, its tenant had most of them, and another tenant logged in.",
    "Raise MAX_WORKERS, or limit the tenant: redisproxy/max-connections.",
    "sizing.md#who-gets-a-slot",
)
OVER_REDIS_SHARE = CloseReason(
    "over-redis-share",
    "Redis had as many clients as it takes (maxclients), its tenant had most connections there, and another tenant needed "
    "one.",
    "Raise maxclients of Redis, or limit the tenant: redisproxy/max-connections.",
    "sizing.md#who-gets-a-connection-to-redis",
)
OVER_LIMIT = CloseReason(
    "tenant-full", "The tenant has reached its limit of connections.", TENANT_FULL.remedy, "operate.md#limits"
)
LOGIN_TIMEOUT = CloseReason(
    "login-timeout",
    "The client did not log in within --login-timeout.",
    "Look for a probe that only connects, or a network that lost the client.",
)
TOO_MANY_WRONG = CloseReason(
    "wrong-passwords", "The client sent twenty wrong passwords.", "See runbooks/RedisProxyWrongPasswords.md."
)
NOT_RESP = CloseReason(
    "protocol-error",
    "The client sent something that is not RESP, or too much before its log-in.",
    "Find the client by its address.",
)
CROSS_PROTOCOL = CloseReason("cross-protocol", "The client sent an HTTP request.", "Find the client by its address.")
REVOKED = CloseReason(
    "revoked",
    "The credential was deleted, has expired, or opens another database now. The proxy ended blocking commands, and "
    "passed on replies to commands that had run, for 10 s at most.",
    "Give the application the current secret.",
)
KILLED = CloseReason("killed", "Another client of the namespace sent CLIENT KILL. Logged at debug level only.")
REDIS_LOST = CloseReason(
    "redis-lost",
    "The connection to Redis broke while the client had commands in flight, a transaction, or subscriptions there.",
    see="#redis",
)
NOT_HELD = CloseReason(
    "redis-away",
    "Commands or a log-in waited for Redis, and Redis was not back within --hold-seconds.",
    see="#redis",
)
PAUSED = CloseReason(
    "tenant-paused",
    "The tenant is paused, and the client had a blocked command, a transaction or subscriptions, or waited for longer "
    "than --hold-seconds.",
    PAUSE_ENDS,
    "operate.md#pause-a-tenant",
)
NOT_LOGGED_IN = CloseReason(
    "redis-refused-login", "Redis refused the connection of this client's tenant. The client got the error.", see="#redis"
)
MOVED_WITHIN_A_MESSAGE = CloseReason(
    "moved-within-a-message", "The connection to Redis broke within a large reply.", see="#redis"
)
CUT_OFF = CloseReason(
    "cut-off",
    "The proxy ended, and the session was still busy after --drain-seconds.",
    "Raise --drain-seconds, and terminationGracePeriodSeconds with it.",
    "operate.md#when-it-ends",
)
OUT_OF_MEMORY = CloseReason(
    "out-of-memory",
    "Clients used 60 % of --memory, and this session had the most of it: replies that its client did not read, "
    "commands that it sent ahead or only in part, or subscriptions. The tenant used more than any other.",
    "Make the client read its replies, ask for less at once, and subscribe to fewer channels with one connection. "
    "Or raise --memory and the container's memory limit.",
)
TRACKING_ENDED = CloseReason(
    "tracking-ended",
    "The session used client-side caching, and the annotation redisproxy/client-tracking of its namespace was removed.",
    "Turn client-side caching off in the client.",
    "tenants.md#client-side-caching",
)
TLS_FAILED = CloseReason(
    "tls-failed",
    "A TLS handshake failed, with OpenSSL's reason.",
    "`http request`, `wrong version number`: the client does not speak TLS. `alert unknown ca`, `alert bad certificate`: "
    "the client does not trust the proxy's certificate. `did not return a certificate`, `certificate verify failed: …`: "
    "the client has no certificate that --client-ca accepts. `unsupported protocol`, `no shared cipher`: the client "
    "supports no TLS 1.2, or its settings forbid it.",
    "tls.md",
)
TLS_ON_PLAIN_PORT = CloseReason(
    "tls-on-plain-port", "The client speaks TLS at an endpoint without TLS.", "Give the client the TLS port."
)

UNTRUSTED_PROXY = CloseReason(
    "untrusted-proxy",
    "A connection to a `haproxy:` endpoint did not come from an address of --trust-proxy.",
    "Add the load balancer's address to --trust-proxy, or give the client another endpoint.",
    "load-balancers.md",
)
BAD_PROXY_HEADER = CloseReason(
    "bad-proxy-header",
    "A load balancer sent a malformed PROXY header, or none.",
    "Configure the load balancer to send the PROXY protocol: send-proxy or send-proxy-v2 in HAProxy.",
    "load-balancers.md",
)

# TLS of the proxy's own endpoints.

_PEM = "Fix the file. The proxy reads it again by itself; the last good certificate stays in force."
TLS_NOT_A_FILE = Reason("tls-not-a-file", "{path} is not a file", _PEM)
TLS_UNREADABLE = Reason("tls-unreadable", "{path} cannot be read: {error}", _PEM)
TLS_TOO_LARGE = Reason("tls-too-large", "{path} is larger than {kib} KiB", _PEM)
TLS_UNKNOWN_KEY = Reason("tls-unknown-key", "the certificate in {path} has a key of an unknown kind", _PEM)
TLS_OTHER_KEY = Reason("tls-other-key", "{key} does not belong to the first certificate in {certificate}", _PEM)
TLS_OPENSSL = Reason("tls-openssl", "OpenSSL refuses the content of {path}: {reason}", _PEM)
TLS_KIND_OF_KEY = Reason(
    "tls-kind-of-key", "the key in {path} is of a kind that TLS does not support: use RSA, ECDSA or Ed25519", _PEM
)
TLS_NO_KEY = Reason("tls-no-key", "{path} has no private key: it needs one in PEM", _PEM)
TLS_ENCRYPTED_KEY = Reason("tls-encrypted-key", "the private key in {path} is encrypted: use one without a passphrase", _PEM)
TLS_MALFORMED_KEY = Reason("tls-malformed-key", "the private key in {path} is malformed, or of an unknown kind", _PEM)
TLS_NO_CERTIFICATE = Reason("tls-no-certificate", "{path} has no certificate: it needs one or more in PEM", _PEM)
TLS_MALFORMED_CERTIFICATE = Reason("tls-malformed-certificate", "a certificate in {path} is malformed", _PEM)
TLS_LISTENER = Reason("tls-listener", "{listener}: {reason}")

CERTIFICATE_BAD = LogLine(
    "tls-certificate-refused",
    "{listener}: {reason}; the last good certificate stays in force, until {expires}",
    level="warn",
)
CERTIFICATE_FIXED = LogLine("tls-fixed", "fixed: {listener}")
CERTIFICATE_IN_FORCE = LogLine("tls-certificate", "{listener}: the certificate in {path} is in force, until {expires}")
CERTIFICATE_PAST = LogLine(
    "tls-certificate-ended",
    "{listener}: the certificate in {path} expired on {expires}: clients refuse it",
    CERTIFICATE_ENDED.remedy,
    "runbooks/RedisProxyCertificateExpiring.md",
    level="warn",
)
CERTIFICATE_EARLY = LogLine(
    "tls-certificate-early",
    "{listener}: the certificate in {path} is not valid before {begins}: clients refuse it until then",
    "Mount a certificate that is valid now, or set the clock.",
    level="warn",
)
CLIENT_CA_CHANGED = LogLine(
    "tls-client-ca", "{listener}: from now on, clients must show a certificate that a CA in {path} signed"
)
CLIENT_CA_WITHOUT_TLS = LogLine(
    "tls-client-ca-without-tls",
    "{endpoint} has no TLS, so --client-ca does not apply there",
    "Clients show no certificate there. Remove the endpoint if you do not want this.",
    "tls.md",
    level="warn",
)

TRUST_ANYBODY = LogLine(
    "process-trust-anybody",
    "--trust-proxy has {network}: any client can claim any address",
    "Name only the addresses of the load balancers, or let nobody else reach the port.",
    "load-balancers.md#who-is-believed",
    level="warn",
)

# The process and its workers.

LISTENING = LogLine("process-listening", "listening on {address}")
CANNOT_LISTEN = LogLine(
    "process-cannot-listen",
    "the proxy ends: {error}",
    "Another program took the port while the proxy read its credentials for the first time. The proxy ends with status 1.",
    level="critical",
)
STATUS_AT = LogLine("process-status-at", "the status page is at {address}")
STATUS_PROBES_ONLY = LogLine(
    "process-status-probes-only",
    "other machines get only probes there, because --status-token-file is not set",
    "Nothing, if you open the page by kubectl port-forward. For Prometheus, set --status-token-file.",
    "operate.md#see-what-goes-on",
)
FRAMING_COMPILED = LogLine("process-framing-compiled", "the framing is compiled")
FRAMING_INTERPRETED = LogLine(
    "process-framing-interpreted",
    "the framing is interpreted, and takes several times as much CPU time: to compile it, install gcc and Python's "
    "headers (Debian: gcc, python3-dev), and then redisproxy again",
    "Install gcc and Python's headers, then redisproxy again. The image has it compiled.",
)
WALL_CLOCK = LogLine(
    "process-wall-clock",
    "the timers of {reactor} run on the wall clock: when that clock is set, time limits, rates and changes of credentials "
    "come "
    "too early or too late; on Linux, start twistd without --reactor",
    "Start twistd without --reactor, on Linux.",
    level="warn",
)
SETTING_UNKNOWN = LogLine(
    "process-setting-unknown",
    "the environment variable {name} is not a setting, and has no effect{nearest}",
    "Fix its name, or remove it.",
    "settings.md",
    level="warn",
)
ABOUT_TO_END = LogLine(
    "process-about-to-end",
    "about to end: the proxy is not ready any more, but still serves clients for {delay:g} s",
    see="operate.md#when-it-ends",
)
DRAIN_BEGINS = LogLine(
    "process-draining",
    "draining: {sessions} sessions have {seconds:g} s to finish; {busy} of them wait for Redis",
    see="operate.md#when-it-ends",
)
DRAINED = LogLine(
    "process-drained",
    "drained: {sessions} sessions ended in {seconds:.1f} s, {cut_off} of them were cut off",
    "If sessions are cut off again and again, raise --drain-seconds, and terminationGracePeriodSeconds with it.",
    "operate.md#when-it-ends",
)
OPEN_FILES = LogLine(
    "process-open-files",
    "the limit of open files is {limit}, but {named} may need {needed}",
    "Raise the hard limit (ulimit -Hn, LimitNOFILE), or lower these settings. At the limit clients wait to be accepted.",
    level="warn",
)
CANNOT_ACCEPT = LogLine(
    "process-cannot-accept",
    "cannot accept a connection: {error}",
    "With `Too many open files`: raise the limit of open files. The proxy accepts again by itself when it can open files.",
    level="error",
)
LINES_LOST = LogLine(
    "worker-lines-left-out",
    "{left_out} lines were left out: they came too fast",
    "Read the lines before this one.",
    level="warn",
)
WORKER_SERVES = LogLine("worker-serves", "worker {worker} ({pid}) serves")
WORKER_ENDED = LogLine(
    "worker-ended",
    "worker {worker} ({pid}) ended with {how}: its clients have to connect again; another is started in {delay:.1f} s",
    "`signal SIGKILL` often means that memory ran out. Anything else is a bug: report it, with the lines before.",
    "runbooks/RedisProxyWorkersRestarting.md",
    level="error",
)
WORKER_FAILED = LogLine(
    "worker-failed",
    "worker {worker} ({pid}) could not start: {why} ({how}); another is started in {delay:.1f} s",
    "Fix what the line names. `signal SIGKILL` often means that memory ran out. The proxy tries again by itself.",
    "runbooks/RedisProxyWorkersMissing.md",
    level="error",
)
WORKER_NOT_STARTED = LogLine(
    "worker-not-started",
    "worker {worker} ({pid}) could not be started: {error}; another is started in {delay:.1f} s",
    "Fix what the line names. The proxy tries again by itself.",
    level="error",
)
WORKER_HUNG = LogLine(
    "worker-hung",
    "worker {worker} ({pid}) did not end within {limit:g} s: it is killed",
    "The worker hung. Report it, with its lines before.",
    level="error",
)
WORKER_WROTE = LogLine(
    "worker-wrote",
    "worker {worker} ({pid}) wrote: {line}",
    "Python itself, or a library, wrote this to its standard error.",
    level="warn",
)
BUG = LogLine(
    "bug",
    "{what} failed because of a bug",
    "Report it, with the traceback. If the line names a connection, only that connection was closed. The text of the "
    "error is left out, because it may quote anything.",
    level="critical",
)

# Errors to clients: in Redis's own words.

NOAUTH = ClientError("error-noauth", "NOAUTH Authentication required.", "Send AUTH first.")
NOAUTH_HELLO = ClientError(
    "error-noauth-hello",
    "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> "
    "option can be used to authenticate the client and select the RESP protocol version at the same time",
    "Send HELLO with AUTH, or AUTH first.",
)
WRONGPASS = ClientError(
    "error-wrongpass",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "No tenant has this password, or the tenant has another user name, or the password has expired. Give the application "
    "the current secret. If redisproxy tenants says that its namespace is kept out, fix that.",
    "operate.md#a-tenant-is-locked-out",
)
FULL = ClientError(
    "error-full",
    "ERR max number of clients reached",
    "All slots (MAX_WORKERS) and the queue (WORK_QUEUE_SIZE) are full, and no other tenant has more of them. Raise a limit, "
    "or add a replica.",
)
SYNTAX = ClientError("error-syntax", "ERR syntax error")
NOT_AN_INTEGER = ClientError("error-not-an-integer", "ERR value is not an integer or out of range")
ARITY = ClientError("error-arity", "ERR wrong number of arguments for '{command}' command")
NOPROTO = ClientError("error-noproto", "NOPROTO unsupported protocol version")
PROTOCOL_NOT_AN_INTEGER = ClientError(
    "error-protocol-not-an-integer", "ERR Protocol version is not an integer or out of range"
)
HELLO_OPTION = ClientError("error-hello-option", "ERR Syntax error in HELLO option '{option}'")
CLIENT_NAME = ClientError(
    "error-client-name",
    "ERR {what} cannot contain spaces, newlines or special characters.",
)
CLIENT_NAME_TOO_LONG = ClientError("error-client-name-too-long", "ERR {what} cannot have more than {most} bytes")
SETINFO = ClientError("error-setinfo", "ERR Unrecognized option '{option}'")
CLIENT_ID = ClientError("error-client-id", "ERR Invalid client ID")
CLIENT_ID_TOO_SMALL = ClientError("error-client-id-too-small", "ERR client-id should be greater than 0")
CLIENT_TYPE = ClientError("error-client-type", "ERR Unknown client type '{type}'")
SLOW_LOG_COUNT = ClientError("error-slow-log-count", "ERR count should be greater than or equal to -1")
MAXAGE = ClientError("error-maxage", "ERR maxage is not an integer or out of range")
MAXAGE_TOO_SMALL = ClientError("error-maxage-too-small", "ERR maxage should be greater than 0")
NO_SUCH_CLIENT = ClientError("error-no-such-client", "ERR No such client")
NO_SUCH_USER = ClientError("error-no-such-user", "ERR No such user '{user}'")
NO_CLUSTER = ClientError("error-no-cluster", "ERR This instance has cluster support disabled")
NOT_RESP_ERROR = ClientError(
    "error-protocol",
    "ERR Protocol error: {reason}",
    "The client sent something that is not RESP. The proxy closes the connection.",
)

# Errors to clients: the proxy's own.

AMBIGUOUS = ClientError(
    "error-ambiguous",
    "WRONGPASS more than one namespace uses this password: log in with AUTH <namespace> <password>",
    "Give one of the namespaces a password of its own.",
)
NOT_LOADED = ClientError(
    "error-not-loaded",
    "ERR the proxy has not read its credentials yet, try again in a moment",
    "The proxy has just started, or has not reached the Kubernetes API since its start.",
    "#namespaces-and-secrets",
)
TENANT_IS_FULL = ClientError(
    "error-tenant-full",
    "ERR max number of clients reached for this tenant: see the annotation redisproxy/max-connections of its namespace",
    "Close connections that the application does not use, or raise redisproxy/max-connections.",
    "operate.md#limits",
)
NO_MEMORY = ClientError(
    "error-no-memory",
    "ERR out of memory for this tenant's clients; send less at once",
    "Clients used 60 % of --memory, and this session had the most of it: out-of-memory.",
)
NO_LOGIN = ClientError(
    "error-no-login", "ERR no log-in within {seconds} seconds", "Log in at once. The limit is --login-timeout."
)
MADE_ROOM_ERROR = ClientError(
    "error-made-room",
    "ERR closed before its log-in: too many connections have not logged in, and newer ones need room",
    "Log in at once. Something connects and does not log in.",
    "sizing.md#who-gets-a-slot",
)
WRONG_DATABASE = ClientError(
    "error-wrong-database",
    "NOPERM this password opens database {index} only: SELECT of any other is refused",
    "The client's URL, or its db=, names another index than the secret.",
)
FORBIDDEN = ClientError(
    "error-forbidden",
    "NOPERM the command '{command}' is not available here: it reaches beyond the tenant's own database",
    "tenants.md says what to use instead. The operator can open some commands.",
    "security.md#what-is-refused",
)
SCRIPTS_DENIED = ClientError(
    "error-scripts-denied",
    "NOPERM scripts and functions are not available to this namespace",
    "The operator denies them: by the annotation redisproxy/scripts of the namespace, or by --tenant-scripts.",
    "operate.md#scripts",
)
SCRIPTS_PAUSED = ClientError(
    "error-scripts-paused",
    "BUSY a script of this namespace ran for more than {seconds:g} s and was ended: scripts are refused for a while",
    "Make the script shorter: Redis serves nobody while it runs. The log of the proxy says for how long scripts are "
    "refused.",
    "operate.md#scripts",
)
TRACKING_CLOSED = ClientError(
    "error-tracking",
    "NOPERM the command 'client|tracking' is not available here: turn client-side caching off in the client",
    "tenants.md names the setting of each library. The operator can allow it with the annotation "
    "redisproxy/client-tracking of the namespace.",
    "tenants.md#client-side-caching",
)
TRACKING_MODE = ClientError(
    "error-tracking-mode",
    "NOPERM CLIENT TRACKING with BCAST, PREFIX or REDIRECT is not available here",
    "Use the default mode, OPTIN or OPTOUT, on the connection that reads the keys.",
    "tenants.md#client-side-caching",
)
TRACKING_RESP3 = ClientError(
    "error-tracking-resp3",
    "ERR CLIENT TRACKING needs RESP3 here: send HELLO 3 first",
    "In RESP2 the messages would need a second connection (REDIRECT), which is not available.",
    "tenants.md#client-side-caching",
)
NO_TRACKING = ClientError(
    "error-no-tracking",
    "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
)
COPY_ELSEWHERE = ClientError(
    "error-copy", "NOPERM COPY into another database than {index} is refused", "Copy within the tenant's own database."
)
FOREIGN_EVENTS = ClientError(
    "error-foreign-events",
    "NOPERM only keyspace notifications of the tenant's own database are available: {channel}",
    "Subscribe to __keyspace@N__ and __keyevent@N__ of the tenant's own database N.",
)
NOT_ALLOWED = ClientError(
    "error-not-allowed",
    "NOPERM Redis does not let the proxy run this command",
    "The master's user has no right to CONFIG, INFO, MODULE or PUBSUB, or the server has no such command. Many hosted "
    "services are like this.",
    "redis.md#its-settings",
)
UNREACHABLE = ClientError(
    "error-unreachable",
    "ERR Redis cannot be reached from the proxy right now, try again",
    "Redis is not reachable. The command was not run.",
    "#redis",
)
UNANSWERED = ClientError(
    "error-unanswered",
    "ERR Redis did not answer the proxy, try again",
    "Redis is down or busy. The client sent INFO, PUBSUB, CONFIG GET, or a subscription to a pattern.",
    "#redis",
)
LOGIN_REFUSED = ClientError(
    "error-login-refused",
    "ERR Redis refused the proxy's own login; the operator finds the reason in the proxy's log",
    "The log has the error.",
    "#redis",
)
SELECT_REFUSED = ClientError(
    "error-select-refused", "ERR Redis refused to select database {index}: {error}", "The log has more.", "#redis"
)
REPLACED = ClientError(
    "error-replaced",
    "ERR Redis was replaced while this command waited, try again",
    "There was a failover. The command was not run.",
)
REPLY_TOO_LARGE = ClientError(
    "error-reply-too-large",
    "ERR the answer has more than {most} bytes: ask for fewer channels, with a pattern",
    "PUBSUB CHANNELS found tens of thousands of channels.",
)
CLIENT_LIST_TOO_LARGE = ClientError(
    "error-client-list-too-large",
    "ERR the answer has more than {most} bytes: ask for fewer clients, with a filter",
    "The namespace has tens of thousands of connections, or gives them very long names.",
)
CLIENT_FILTER_TOO_LARGE = ClientError(
    "error-client-filter-too-large",
    "ERR the filter ID takes at most {most} different ids here",
    "A CLIENT LIST or a CLIENT KILL names more connections than that.",
)
MULTI_INSIDE = ClientError(
    "error-inside-multi",
    "ERR {command} inside MULTI is not allowed",
    "Send the command before MULTI, or after EXEC.",
    "tenants.md",
)
TOO_MANY_SUBSCRIPTIONS = ClientError(
    "error-too-many-subscriptions",
    "ERR this would be more than {count} subscriptions, or more than {size} bytes of names",
    "The limit applies to each session. Use patterns, or several connections.",
)
TOO_MANY_KEY_EVENT_PATTERNS = ClientError(
    "error-too-many-key-event-patterns",
    "ERR this would be more than {count} patterns that match keyspace notifications, too",
    "The limit applies to each session, and to patterns that begin with a wildcard, a backslash or _.",
    "tenants.md",
)
UNFIT_PATTERN = ClientError(
    "error-unfit-pattern",
    "ERR Redis has no ACL rules for patterns with spaces or NUL bytes",
    "Use ? in place of each such byte.",
    "tenants.md",
)
TOO_MANY_PATTERNS = ClientError(
    "error-too-many-patterns",
    "ERR this namespace would have more than {count} different patterns: see the annotation redisproxy/max-patterns",
    "The limit applies to all clients of the namespace together. A pattern that matches keyspace notifications, too, counts "
    "several times. Use fewer patterns, or raise redisproxy/max-patterns of the namespace.",
    "tenants.md#commands",
)
PATTERNS_TOO_LARGE = ClientError(
    "error-patterns-too-large",
    "ERR this namespace's different patterns would have more than {most} bytes, which is the limit",
    "The limit applies to the namespace. Use fewer patterns.",
    "tenants.md",
)
PATTERNS_CHANGE = ClientError(
    "error-patterns-change",
    "ERR this namespace has left {count} different patterns in the last minutes: use the same ones, or try again later",
    "Unused patterns are removed from Redis after a minute. Subscribe to channels, or to one pattern for all clients.",
    "tenants.md#commands",
)
CONFIG_PATTERNS = ClientError(
    "error-config-patterns",
    "ERR the patterns of CONFIG GET have more than {most} bytes",
    "No name that the proxy answers is that long.",
    "tenants.md#commands",
)
LONG_NAME = ClientError(
    "error-long-name", "ERR unknown command: no command has a name of more than {most} bytes", "Fix the command's name."
)
ARGUMENTS_TOO_LARGE = ClientError(
    "error-arguments-too-large",
    "ERR the arguments of '{command}' are larger than {most} bytes",
    "The proxy has to read the arguments of this command. Send less in one command.",
)
_MANY_KEYS = "Send several commands with fewer keys each. Scripts have no such limit."
TOO_MANY_KEYS = ClientError(
    "error-too-many-keys",
    "ERR '{command}' names {found} keys: at most {most} are allowed in one command",
    _MANY_KEYS,
    "tenants.md#commands-that-cost",
)
KEY_REPEATED = ClientError(
    "error-key-repeated",
    "ERR '{command}' names one key {found} times: at most {most} times are allowed in one command",
    "Name each key once: Redis goes through its value each time.",
    "tenants.md#commands-that-cost",
)
TOO_MANY_WATCHED = ClientError(
    "error-too-many-watched",
    "ERR this connection would watch {found} keys: at most {most} are allowed until EXEC, DISCARD or UNWATCH",
    "Watch fewer keys: one key that changes with the others is enough.",
    "tenants.md#commands-that-cost",
)
COUNT_TOO_LARGE = ClientError(
    "error-count-too-large",
    "ERR the count of '{command}' is {found}: at least -{most} is allowed, or a positive number",
    "Send several commands with smaller counts. A positive count names no element twice, and has no limit.",
    "tenants.md#commands-that-cost",
)
LOLWUT_FORM = ClientError(
    "error-lolwut",
    "NOPERM 'lolwut' takes no arguments here, or VERSION and a number: a large picture keeps Redis busy",
    "Ask for the usual picture.",
    "tenants.md#commands-that-cost",
)
TRANSACTION_TOO_LARGE = ClientError(
    "error-transaction-too-large",
    "ERR the open transactions of this namespace have more than {most} bytes: DISCARD this one, and use smaller ones",
    "Redis keeps all of a transaction in memory until EXEC, which fails now. Divide it.",
    "tenants.md#commands-that-cost",
)
NO_TLS_HERE = ClientError(
    "error-no-tls",
    "ERR Protocol error: there is no TLS at this port",
    "The client speaks TLS at a plain endpoint. Use another port, or no TLS.",
)
TOO_MUCH_BEFORE_LOGIN = ClientError(
    "error-too-much-before-login", "ERR Protocol error: too much was sent without authentication", "Log in first."
)


def all_messages() -> Iterator[tuple[str, Message]]:
    """Name and message of each, in the order in which they are written here."""
    for name, value in globals().items():
        if isinstance(value, Message):
            yield name, value
    yield from ((f"REDIS_ERRORS[{word!r}]", message) for word, message in REDIS_ERRORS.items())


#: By code.
MESSAGES = {message.code: message for _, message in all_messages()}


def restored(text: str, code: str) -> Text | None:
    """A text that came through JSON, with its code. Returns None for an empty text."""
    return Text(text, MESSAGES[code]) if text else None
