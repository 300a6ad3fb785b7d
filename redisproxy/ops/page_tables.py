"""The tables of the status page: problems, log-ins, commands, certificates, namespaces, tenants.

Owns their columns and the order of their rows. Cells contain text only, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from twisted.web.template import Tag, tags

from .history import Rate, Series
from .page_parts import (
    ROWS,
    PageContent,
    Pause,
    Table,
    marked,
    not_shown,
    plot,
    rate_text,
    seconds_text,
    size_text,
    sorted_cell,
    table_of,
)
from .problems import OpenProblem, ends_soon
from .stats import CertificateState, Stats, TenantState, TenantStats, no_tenant_stats
from .time_text import moment, span

#: Refused commands that are shown, the most frequent first; and tenants that are named for each.
NAMES, NAMED = 20, 5

_PROBLEMS = Table("problems", ("Where", "Since", "~What is wrong", "~What to do", "Runbook"))
_LOG_INS = Table("logins", ("Outcome", "#Since the start", "#Recently", "~Tenants", "~What it means", "Runbook"))
_REFUSED = Table("refused", ("Command", "#Times", "~Tenants"), NAMES)
_CERTIFICATES = Table("certificates", ("Endpoint", "~Expires", "~What is wrong with a newer one"))
_TENANTS = Table(
    "tenants",
    (
        *("Namespace", "#Database", "#Sessions", "#Commands/s", "#Commands", "#Bytes/s", "#p50", "#p99", "#Refused"),
        *("Credentials", "Limits"),
    ),
)
#: All tables.
TABLES = (_PROBLEMS, _LOG_INS, _REFUSED, _CERTIFICATES, _TENANTS)

#: By outcome of a log-in: what it means, and its runbook, if there is one.
_OUTCOMES = {
    "tenant-full": ("The tenant has reached its limit of connections.", "RedisProxyTenantFull"),
    "wrong": ("Wrong password, or a namespace that is kept out. The log has the addresses.", "RedisProxyWrongPasswords"),
    "ambiguous": ("Two namespaces have this password: see the problems.", "RedisProxyProblems"),
    "not-loaded": ("No credentials had been read yet.", "RedisProxyCredentialsNotLoaded"),
}


def open_problems(content: PageContent, pause: Pause) -> Iterable[Tag]:
    """What an operator has to fix."""
    problems = content.problems
    if not problems:
        # A proxy that is not ready must not report that there are no problems.
        return [] if content.stats["state"]["unready"] else [tags.h2("Problems"), tags.p("None.", class_="good")]
    rows = (_problem(problem, content) for problem in problems[:ROWS])
    return [tags.h2(f"Problems ({len(problems):,})", class_="bad"), table_of(_PROBLEMS, rows, len(problems), pause)]


def _problem(problem: OpenProblem, content: PageContent) -> Tag:
    ago = content.since(problem)
    since = "-" if ago is None else tags.span(moment(content.stats["time"] - ago), tags.small(f"{span(ago)} ago"))
    return tags.tr(
        tags.td(tags.span(problem.where, tags.small(problem.secret)) if problem.secret else problem.where),
        sorted_cell(None if ago is None else -ago, since),
        tags.td(problem.reason),
        tags.td(problem.advice),
        tags.td(_runbook(problem.runbook, content)),
        "\n",
    )


def _runbook(name: str, content: PageContent) -> Tag | str:
    shown = name.removeprefix("RedisProxy")
    return tags.a(shown, href=f"runbooks/{name}") if name in content.runbooks else shown or "-"


def failed_log_ins(content: PageContent) -> Iterable[Tag]:
    """Why log-ins failed, and of which tenants."""
    counts = content.stats["counts"]
    failed = {outcome: count for outcome, count in counts["logins"].items() if outcome != "ok" and count}
    if not failed:
        return []
    served = content.stats["state"]["snapshot"]["tenants"]
    whose = {
        "wrong": {name: one["wrong"] for name, one in counts["tenants"].items() if name in served},
        "tenant-full": {name: one["turned_away"] for name, one in counts["tenants"].items() if name in served},
    }
    rows = []
    for outcome, count in sorted(failed.items(), key=lambda each: -each[1]):
        means, runbook = _OUTCOMES.get(outcome, ("", ""))
        named = _named(whose.get(outcome, {}))
        rows.append(
            tags.tr(
                tags.td(outcome),
                tags.td(f"{count:,}"),
                tags.td(f"{content.recent.logins.get(outcome, 0):,}"),
                tags.td(f"{named}, by their user names" if named and outcome == "wrong" else named or "-"),
                tags.td(means),
                tags.td(_runbook(runbook, content)),
                "\n",
            )
        )
    of_late = f"Recently means in the last {span(content.recent.seconds)}."
    return [tags.h2("Failed log-ins"), table_of(_LOG_INS, rows, len(rows)), tags.p(of_late, class_="soft")]


def _named(counts: Mapping[str, int]) -> str:
    """Returns the names with the largest counts."""
    most = sorted(((count, name) for name, count in counts.items() if count), key=lambda each: (-each[0], each[1]))
    named = ", ".join(f"{name} {count:,}" for count, name in most[:NAMED])
    return f"{named} and {len(most) - NAMED:,} more" if len(most) > NAMED else named


def refused_commands(stats: Stats) -> Iterable[Tag]:
    """Commands that tenants may not use, by name, and which tenants sent them."""
    counts = stats["counts"]
    names = sorted(counts["refused_names"].items(), key=lambda each: (-each[1], each[0]))
    if not names:
        return []
    whose: dict[str, dict[str, int]] = {name: {} for name, _ in names[:NAMES]}
    for namespace in counts["tenants"].keys() & stats["state"]["snapshot"]["tenants"].keys():
        for name, count in counts["tenants"][namespace]["refused_names"].items():
            if name in whose:
                whose[name][namespace] = count
    rows = [
        tags.tr(
            tags.td(name),
            tags.td(f"{count:,}"),
            tags.td(_named(whose[name]) or "-"),
            "\n",
        )
        for name, count in names[:NAMES]
    ]
    return [tags.h2("Refused commands"), table_of(_REFUSED, rows, len(names))]


def certificates(states: Sequence[CertificateState], now: float) -> Iterable[Tag]:
    """The certificates of `ssl:` endpoints."""
    if not states:
        return []
    rows = [
        tags.tr(
            tags.td(certificate["listener"]),
            tags.td(*_time_remaining(certificate, now)),
            tags.td(certificate["problem"] or "-"),
            "\n",
        )
        for certificate in states
    ]
    return [tags.h2("Certificates"), table_of(_CERTIFICATES, rows, len(rows))]


def _time_remaining(certificate: CertificateState, now: float) -> tuple[str | Tag, ...]:
    """How long the certificate is still valid."""
    expires = certificate["expires"]
    if expires <= now:
        return (marked(f"expired {span(now - expires)} ago: clients refuse it", "bad"),)
    soon = ends_soon(certificate, now)
    return marked(f"in {span(expires - now)}", "warn" if soon else ""), f", {moment(expires)}"


def without_secret(names: Sequence[str]) -> Iterable[Tag]:
    """Namespaces without a secret."""
    if not names:
        return []
    return [
        tags.h2(f"Namespaces without a secret ({len(names):,})"),
        tags.p(
            "Nobody can log in there yet. redisproxy enroll NAMESPACE gives a namespace a database and a password.",
            class_="soft",
        ),
        tags.ul(*(tags.li(name, "\n") for name in names[:ROWS]), class_="names"),
        *not_shown(len(names), ROWS),
    ]


def tenants(content: PageContent, pause: Pause) -> Iterable[Tag]:
    """The tenants, the busiest first."""
    stats, recent = content.stats, content.recent
    served, counts = stats["state"]["snapshot"]["tenants"], stats["counts"]["tenants"]
    if not served:
        return [tags.h2("Tenants"), tags.p("No tenant is known.", class_="soft")]
    nothing, idle = no_tenant_stats(), Rate()

    def busy(namespace: str) -> tuple[float, int, str]:
        sessions = counts.get(namespace, nothing)["sessions"]
        return -recent.rates.get(namespace, idle).commands, -sessions, namespace

    def row(namespace: str) -> Tag:
        counted, rate = counts.get(namespace, nothing), recent.rates.get(namespace, idle)
        return _tenant(namespace, served[namespace], counted, rate, recent.series.get(namespace), stats["time"])

    note = f"p50, p99 and the plots: the last {span(recent.seconds)}. The proxy times a sample of the commands."
    return [
        tags.h2(f"Tenants ({len(served):,})"),
        table_of(_TENANTS, map(row, sorted(served, key=busy)[:ROWS]), len(served), pause),
        tags.p("Only the busiest are shown. " if len(served) > ROWS else "", note if recent.series else "", class_="soft"),
    ]


def _tenant(namespace: str, tenant: TenantState, counted: TenantStats, rate: Rate, series: Series | None, now: float) -> Tag:
    """Returns the row of a tenant. series: None if no samples are kept."""
    refused = sum(counted["refused"].values())
    most = tenant["limits"].get("max_connections")
    sessions = f"{counted['sessions']:,} of {most:,}" if most else f"{counted['sessions']:,}"
    median = slow = None
    traffic: Iterable[Tag] = ()
    latency: Iterable[Tag] = ()
    if series is not None:
        median, slow = series.latency(0.5), series.latency(0.99)
        traffic, latency = plot(size_text, series.bytes), plot(seconds_text, series.slow, series.medians)
    expires = [] if tenant["expires"] is None else [tags.small(f"next expires in {span(tenant['expires'] - now)}")]
    return tags.tr(
        tags.td(tags.span(namespace, tags.small(_warned("paused", True)))) if tenant["paused"] else tags.td(namespace),
        tags.td(str(tenant["index"])),
        tags.td(_warned(sessions, bool(most) and counted["sessions"] >= (most or 0))),
        tags.td(rate_text(rate.commands)),
        tags.td(f"{sum(counted['commands'].values()):,}"),
        sorted_cell(rate.bytes, size_text(rate.bytes), *traffic),
        sorted_cell(median, seconds_text(median)),
        sorted_cell(slow, seconds_text(slow), *latency),
        tags.td(_warned(f"{refused:,}", refused > 0)),
        tags.td(tags.span(str(tenant["credentials"]), *expires) if expires else str(tenant["credentials"])),
        tags.td(tags.span(*_limits(tenant["limits"], counted))),
        "\n",
    )


def _warned(text: str, warned: bool) -> str | Tag:
    return tags.span(text, class_="warn") if warned else text


def _limits(limits: Mapping[str, int], counted: TenantStats) -> Iterator[str | Tag]:
    """A tenant's limits, and their effects on it, now and since the start."""
    units = {
        "max_connections": "connections",
        "max_patterns": "patterns",
        "commands_per_second": "commands/s",
        "bytes_per_second": "bytes/s",
    }
    yield ", ".join(f"{limits[name]:,} {unit}" for name, unit in units.items() if name in limits) or "-"
    done = []
    if counted["held"]:
        done.append("throttled now")
    if counted["throttled"]:
        done.append(f"throttled for {span(counted['throttled'])}")
    if counted["turned_away"]:
        done.append(f"{counted['turned_away']:,} connections refused")
    if counted["memory"]:
        done.append(f"{size_text(counted['memory'])} unread or waiting")
    if done:
        yield tags.small(_warned(", ".join(done), counted["held"] > 0))
