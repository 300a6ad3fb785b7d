"""What an operator has to fix: where, since when, what is wrong, what to do, and the runbook.

Owns the advice, and which states of the proxy are problems. These are all states with an alert, and
all that keep the proxy from being ready. A runbook has the name of its alert.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .. import messages
from ..messages import FIX_WHAT_IS_NAMED, MESSAGES, Text
from .history import INTERVAL, SAMPLES, Recent
from .stats import REDIS_BOUNDS, CertificateState, State, Stats
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


@dataclass(frozen=True, slots=True)
class OpenProblem:
    """One problem to fix.

    where: a namespace, or a part of the proxy.
    advice: what to do.
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
#: What to do where no message says more.
_UNKNOWN = "The log has more."


def open_problems(stats: Stats, recent: Recent) -> list[OpenProblem]:
    """Returns all problems: first those of the proxy, then those of namespaces."""
    state = stats["state"]
    found = [*_unready(state), *_of_workers(state), *_of_sessions(stats), *_of_redis(state, recent), *_of_watch(state)]
    for certificate in state["tls"]["certificates"]:
        found += _of_certificate(certificate, stats["time"])
    found += [*_of_tenants(stats, recent)]
    for problem in state["snapshot"]["problems"]:
        remedy = MESSAGES[problem["code"]].remedy or FIX_WHAT_IS_NAMED
        found.append(OpenProblem(problem["namespace"], problem["secret"], problem["reason"], remedy, "RedisProxyProblems"))
    return found


def why_unready(state: State) -> str:
    """Returns why the proxy is not ready, with the cause if known; empty if it is ready."""
    return ": ".join(filter(None, (state["unready"], state["redis"]["fault"] if state["unready"] else "")))


def _of(where: str, text: Text, kind: str = "") -> OpenProblem:
    """A problem that one message tells of."""
    return OpenProblem(where, "", text, text.remedy or _UNKNOWN, f"RedisProxy{text.runbook}", kind)


def _unready(state: State) -> Iterator[OpenProblem]:
    code = state["unready_code"]
    if not code or code == messages.DRAINING.code:
        return
    unready = MESSAGES[code]
    of_redis = unready in _OF_REDIS
    remedy, runbook = unready.remedy, unready.runbook
    fault = MESSAGES.get(state["redis"]["fault_code"])
    if of_redis and fault is not None:
        remedy = fault.remedy or remedy
    if of_redis and state["redis"]["answers"] == "hung":
        runbook = messages.REDIS_HUNG.runbook
    yield OpenProblem("Redis" if of_redis else "proxy", "", why_unready(state), remedy, f"RedisProxy{runbook}", UNREADY)


#: Reasons to be not ready that Redis is the cause of.
_OF_REDIS = (
    messages.REDIS_NO_ANSWER,
    messages.REDIS_NOT_PROBED,
    messages.REDIS_REFUSES_USERS,
    messages.REDIS_REFUSES_CONNECTIONS,
    messages.REDIS_WITHOUT_ACL,
)


def _of_workers(state: State) -> Iterator[OpenProblem]:
    workers = state["workers"]
    if workers is None:
        return
    if workers["serving"] < workers["wanted"]:
        text = messages.WORKERS_MISSING(serving=workers["serving"], wanted=workers["wanted"])
        yield _of("proxy", text, "workers")
    if not state["unready"]:
        for number, (reason, code) in workers["unready"].items():
            remedy = MESSAGES[code].remedy or _UNKNOWN
            yield OpenProblem(f"worker {number}", "", reason, remedy, "RedisProxyRedisUnreachable", UNREADY)


def _of_sessions(stats: Stats) -> Iterator[OpenProblem]:
    sessions, most = stats["counts"]["sessions"], stats["state"]["most_sessions"]
    waiting = sessions.get("waiting", 0)
    served = sum(number for state, number in sessions.items() if state not in ("waiting", "unauthenticated"))
    if waiting:
        yield _of("proxy", messages.CLIENTS_WAIT(waiting=waiting, served=served, most=most), "sessions")
    elif served > NEARLY_ALL * most:
        yield _of("proxy", messages.NEARLY_FULL(served=served, most=most), "sessions")


def _of_redis(state: State, recent: Recent) -> Iterator[OpenProblem]:
    """Problems of a Redis with which the proxy is still ready."""
    redis = state["redis"]
    if redis["fault"] and not state["unready"]:
        remedy = MESSAGES[redis["fault_code"]].remedy or _UNKNOWN
        yield OpenProblem("Redis", "", redis["fault"], remedy, "RedisProxyRedisHung")
    slow = recent.total.latency(0.99)
    if redis["connected"] and slow is not None and slow > SLOW and recent.total.timed >= ENOUGH:
        yield _of("Redis", messages.REDIS_SLOW(milliseconds=min(slow, REDIS_BOUNDS[-1]) * 1000), "slow")


def _of_watch(state: State) -> Iterator[OpenProblem]:
    watch = state["snapshot"]["watch"]
    if watch is not None and not watch["watching"] and state["snapshot"]["loaded"]:
        yield _of("credentials", messages.NOT_WATCHED(), "watch")


def _of_certificate(certificate: CertificateState, now: float) -> Iterator[OpenProblem]:
    listener, expires = certificate["listener"], certificate["expires"]
    if certificate["problem"]:
        yield _of(listener, messages.CERTIFICATE_REFUSED(reason=certificate["problem"]))
    if expires <= now:
        yield _of(listener, messages.CERTIFICATE_ENDED(ago=span(now - expires)), "ended")
    elif ends_soon(certificate, now):
        yield _of(listener, messages.CERTIFICATE_ENDS(left=span(expires - now), when=moment(expires)), "ends")


def ends_soon(certificate: CertificateState, now: float) -> bool:
    """Whether the certificate should have been renewed."""
    return certificate["expires"] - now < SOON * (certificate["expires"] - certificate["begins"])


def _of_tenants(stats: Stats, recent: Recent) -> Iterator[OpenProblem]:
    wrong = recent.logins.get("wrong", 0)
    time = span(recent.seconds)
    if wrong > GUESSES * max(recent.seconds, INTERVAL * SAMPLES):
        yield _of("clients", messages.WRONG_PASSWORDS(count=wrong, time=time), "wrong")
    tenants = stats["state"]["snapshot"]["tenants"]
    full = {name: series.turned_away for name, series in recent.series.items() if series.turned_away and name in tenants}
    for namespace, refused in sorted(full.items(), key=lambda each: (-each[1], each[0])):
        most = tenants[namespace]["limits"].get("max_connections", 0)
        limit = f"its limit of {most:,} connections" if most else "its limit of connections"
        yield _of(namespace, messages.TENANT_FULL(limit=limit, count=refused, time=time), "full")
    for namespace, count in sorted(recent.scripts_ended.items(), key=lambda each: (-each[1], each[0])):
        if namespace in tenants:
            yield _of(namespace, messages.SCRIPTS_ENDED(count=count, time=time), "scripts")


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
