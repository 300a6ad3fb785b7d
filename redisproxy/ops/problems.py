"""What an operator has to fix: where, since when, what is wrong, what to do, and the runbook.

Owns the advice, and which states of the proxy are problems. These are all states with an alert, and
all that keep the proxy from being ready. A runbook has the name of its alert.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .history import INTERVAL, SAMPLES, Recent
from .redis_advice import redis_advice
from .stats import DRAINING, REDIS_BOUNDS, CertificateState, RedisState, State, Stats
from .time_text import moment, span

#: If less than this part of a certificate's time remains, it should have been renewed. cert-manager
#: renews when a third remains.
SOON = 0.2
#: If more than this part of MAX_WORKERS is in use, that is a problem.
NEARLY_ALL = 0.8
#: Redis is slow if one PING in a hundred takes longer than so many seconds. The second number is
#: how many PINGs must be known.
SLOW, ENOUGH = 0.1, 100
#: Wrong passwords per second above which somebody may be guessing.
GUESSES = 1.0

_STAYS = "the last good one stays in force. Fix the files as told; they are read again by themselves."

#: Advice by pattern of a problem's reason. The first match counts.
_ADVICE = (
    (r"belongs to ", "Give this namespace another index: redisproxy tenants shows which are taken."),
    (r"is also named by", "Give one of them another index, or both Namespaces a creationTimestamp."),
    (
        r"not YAML|it cannot be read \(|never readable",
        "Fix the file, or rename it so that its name begins with a dot.",
    ),
    (r"no metadata.creationTimestamp", "Write a creationTimestamp: redisproxy temp --dry-run --output yaml prints one."),
    (r"password is also that of", "Give one of them a password of its own; until then AUTH <namespace> <password> works."),
    (r"annotation redisproxy/", "Fix the annotation in the namespace's metadata, as told."),
    (r"has no database", "Raise `databases` in Redis's configuration, or take a lower index."),
    (r"not read: /", "Give the right to read the directory of manifests. What was last read stays in force."),
    (r"connection-string|valid_hours|white space|not UTF-8", "Fix the secret as told; it is read again by itself."),
    (
        r"no way to the Kubernetes API",
        "Fix the kubeconfig, or the service account, as told. What was last read stays in force.",
    ),
    (r"40[13]|[Ff]orbidden|[Uu]nauthorized", "Give the service account the rights of deploy/kubernetes/base/rbac.yaml."),
    (r"master secret|does not exist", "Create or fix the master secret; the last good one stays in force."),
    (r"not read|cannot be read|timed out|refused", "Is the Kubernetes API there? What was last read stays in force."),
)
#: Reasons why the proxy is not ready: the beginning of the reason, where the problem is, the
#: runbook, and the advice if the cause is unknown.
_UNREADY = (
    ("no credentials", "proxy", "CredentialsNotLoaded", "Is the Kubernetes API there? The log has the error."),
    ("the master secret", "proxy", "CredentialsNotLoaded", "Create the master secret, or fix it as told here."),
    ("no worker", "proxy", "WorkersMissing", "Wait. If it lasts, the log says why the workers do not start."),
    (
        "Redis has no ACL users",
        "Redis",
        "OneIsolationLayer",
        "Take another Redis, give the master's user more rights, or set --acl auto.",
    ),
    ("Redis does not let", "Redis", "NotReady", "Give the master's user the right to ACL SETUSER."),
    ("Redis has not told", "Redis", "NotReady", "Wait. If it lasts, the log has what Redis answers."),
    ("", "Redis", "RedisUnreachable", "See whether Redis runs, and whether the proxy may reach it. The log has the error."),
)


def advice(reason: str) -> str:
    """Returns what an operator can do about a problem of a namespace or a secret."""
    return next((text for pattern, text in _ADVICE if re.search(pattern, reason)), "Fix it as told.")


@dataclass(frozen=True, slots=True)
class OpenProblem:
    """One problem to fix.

    where: a namespace, or a part of the proxy.
    runbook: its name.
    kind: what stays the same while the reason changes, such as by a number in it; empty if the
        reason does not change.
    """

    where: str
    secret: str
    reason: str
    advice: str
    runbook: str
    kind: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """Identifies the problem as long as it lasts."""
        return self.where, self.secret, self.kind or self.reason


#: The kind of the problem that the proxy is not ready: see `OpenProblem.key`.
UNREADY = "unready"


def open_problems(stats: Stats, recent: Recent) -> list[OpenProblem]:
    """Returns all problems: first those of the proxy, then those of namespaces."""
    state = stats["state"]
    found = [*_unready(state), *_of_workers(state), *_of_sessions(stats), *_of_redis(state, recent), *_of_watch(state)]
    for certificate in state["tls"]["certificates"]:
        found += _of_certificate(certificate, stats["time"])
    found += [*_of_log_ins(stats, recent)]
    for problem in state["snapshot"]["problems"]:
        reason = problem["reason"]
        found.append(OpenProblem(problem["namespace"], problem["secret"], reason, advice(reason), "RedisProxyProblems"))
    return found


def why_unready(state: State) -> str:
    """Returns why the proxy is not ready, with the cause if known; empty if it is ready."""
    return ": ".join(filter(None, (state["unready"], state["redis"]["fault"] if state["unready"] else "")))


def _unready(state: State) -> Iterator[OpenProblem]:
    unready = state["unready"]
    if not unready or unready == DRAINING:
        return
    _, where, runbook, what = next(row for row in _UNREADY if unready.startswith(row[0]))
    redis: RedisState = state["redis"]
    if where == "Redis" and redis["fault"]:
        what = redis_advice(redis["fault"]) or what
    if where == "Redis" and redis["answers"] == "hung":
        runbook = "RedisHung"
    yield OpenProblem(where, "", why_unready(state), what, f"RedisProxy{runbook}", UNREADY)


def _of_workers(state: State) -> Iterator[OpenProblem]:
    workers = state["workers"]
    if workers is None:
        return
    if workers["serving"] < workers["wanted"]:
        reason = f"{workers['serving']} of {workers['wanted']} workers serve clients"
        what = "Wait: others are started. The log says how they ended, or why they do not start."
        yield OpenProblem("proxy", "", reason, what, "RedisProxyWorkersMissing", "workers")
    if not state["unready"]:
        for number, reason in workers["unready"].items():
            what = redis_advice(reason) or "The log has more: its lines of this worker."
            yield OpenProblem(f"worker {number}", "", reason, what, "RedisProxyRedisUnreachable", UNREADY)


def _of_sessions(stats: Stats) -> Iterator[OpenProblem]:
    sessions, most = stats["counts"]["sessions"], stats["state"]["most_sessions"]
    waiting = sessions.get("waiting", 0)
    served = sum(sessions.values()) - waiting
    what = "Raise MAX_WORKERS, add a replica, or limit the connections of the tenants that have most."
    if waiting:
        reason = f"{waiting:,} clients wait: {served:,} of {most:,} sessions are taken (MAX_WORKERS)"
        yield OpenProblem("proxy", "", reason, what, "RedisProxyQueueFilling", "sessions")
    elif served > NEARLY_ALL * most:
        reason = f"{served:,} of {most:,} sessions are taken (MAX_WORKERS)"
        yield OpenProblem("proxy", "", reason, what, "RedisProxyConnectionsNearLimit", "sessions")


def _of_redis(state: State, recent: Recent) -> Iterator[OpenProblem]:
    """Problems of a Redis with which the proxy is still ready."""
    redis = state["redis"]
    if redis["fault"] and not state["unready"]:
        what = redis_advice(redis["fault"]) or "The log has more."
        yield OpenProblem("Redis", "", redis["fault"], what, "RedisProxyRedisHung")
    slow = recent.total.latency(0.99)
    if redis["connected"] and slow is not None and slow > SLOW and recent.total.timed >= ENOUGH:
        reason = f"slow: one PING in a hundred took {min(slow, REDIS_BOUNDS[-1]) * 1000:,.0f} ms or longer"
        yield OpenProblem("Redis", "", reason, "SLOWLOG GET shows what keeps it busy.", "RedisProxyRedisSlow", "slow")


def _of_watch(state: State) -> Iterator[OpenProblem]:
    watch = state["snapshot"]["watch"]
    if watch is not None and not watch["watching"] and state["snapshot"]["loaded"]:
        reason = "changes are not watched: they take effect at the next full read of the credentials"
        what = "The log says why. The proxy tries again by itself."
        yield OpenProblem("credentials", "", reason, what, "RedisProxyNotWatching", "watch")


def _of_certificate(certificate: CertificateState, now: float) -> Iterator[OpenProblem]:
    listener, expires = certificate["listener"], certificate["expires"]
    runbook = "RedisProxyCertificateExpiring"
    if certificate["problem"]:
        yield OpenProblem(
            listener, "", f"a newer certificate: {certificate['problem']}", f"It is not used: {_STAYS}", runbook
        )
    if expires <= now:
        reason = f"its certificate ended {span(now - expires)} ago: clients refuse it"
        yield OpenProblem(listener, "", reason, "Renew it: what is in the files is taken over by itself.", runbook, "ended")
    elif ends_soon(certificate, now):
        reason = f"its certificate ends in {span(expires - now)}, {moment(expires)}"
        yield OpenProblem(listener, "", reason, "Renew it: what is in the files is taken over by itself.", runbook, "ends")


def ends_soon(certificate: CertificateState, now: float) -> bool:
    """Whether the certificate should have been renewed."""
    return certificate["expires"] - now < SOON * (certificate["expires"] - certificate["begins"])


def _of_log_ins(stats: Stats, recent: Recent) -> Iterator[OpenProblem]:
    wrong = recent.logins.get("wrong", 0)
    if wrong > GUESSES * max(recent.seconds, INTERVAL * SAMPLES):
        reason = f"{wrong:,} log-ins had a wrong password in the last {span(recent.seconds)}"
        what = "The log has the addresses: an application has an old password, or somebody guesses."
        yield OpenProblem("clients", "", reason, what, "RedisProxyWrongPasswords", "wrong")
    tenants = stats["state"]["snapshot"]["tenants"]
    full = {name: series.turned_away for name, series in recent.series.items() if series.turned_away and name in tenants}
    for namespace, refused in sorted(full.items(), key=lambda each: (-each[1], each[0])):
        most = tenants[namespace]["limits"].get("max_connections", 0)
        limit = f"its limit of {most:,} connections" if most else "its limit of connections"
        reason = f"it reached {limit}: {refused:,} log-ins were refused in the last {span(recent.seconds)}"
        what = "Raise redisproxy/max-connections of the namespace, or have the application close what it does not use."
        yield OpenProblem(namespace, "", reason, what, "RedisProxyTenantFull", "full")


class Sightings:
    """Remembers since when each problem is known.

    most: number of problems to remember. Times are in seconds of a monotonic clock.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._since: dict[tuple[str, str, str], float] = {}

    def see(self, problems: Iterable[OpenProblem], now: float) -> None:
        """Sets the problems that exist now."""
        before, self._since = self._since, {}
        for problem in problems:
            if len(self._since) >= self._most:
                break
            self._since[problem.key] = before.get(problem.key, now)

    def since(self, problem: OpenProblem) -> float | None:
        """Returns when the problem was first seen.

        Returns None if it was not seen yet, or if there are more problems than are remembered.
        """
        return self._since.get(problem.key)
