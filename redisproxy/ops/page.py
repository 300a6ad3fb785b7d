"""The status page, for people: what is served, what is wrong, and what to do about it.

Owns the HTML. It refreshes itself, needs no script and nothing from elsewhere, and says nothing that is secret.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.template import Tag, flattenString, tags

from .. import __version__
from ..printable import printable
from .stats import (
    DRAINING,
    CertificateState,
    ProblemState,
    SnapshotState,
    Stats,
    TenantStats,
    WorkersState,
    no_tenant_stats,
)
from .time_text import moment, span

#: Seconds until the browser asks again.
REFRESH = 5
#: A certificate that has less of its time left should have been renewed: cert-manager does with a third of it left.
SOON = 0.2
#: Tenants, and problems, that are shown; of more, the busiest.
ROWS = 500

# Nothing in it may need escaping, or its hash were another one in the page.
_STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f9; --card: #fff; --ink: #1a1d21; --soft: #5c6470; --line: #dde1e7;
  --good: #15703a; --bad: #b3261e; --bad-ground: #fdecea; --warn: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --card: #1c2026; --ink: #e6e9ee; --soft: #9aa3af;
  --line: #2f353d; --good: #5fcf8d; --bad: #ff8a80; --bad-ground: #3a1d1d; --warn: #f0b95b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 16px; }
header { display: flex; flex-wrap: wrap; gap: 4px 16px; align-items: baseline; margin-bottom: 12px; }
h1 { font-size: 20px; margin: 0; }
h2 { font-size: 16px; margin: 24px 0 8px; }
.soft { color: var(--soft); }
.good { color: var(--good); font-weight: 600; }
.bad { color: var(--bad); font-weight: 600; }
.warn { color: var(--warn); font-weight: 600; }
.banner { background: var(--bad-ground); color: var(--bad); border-left: 4px solid; padding: 10px 14px; margin: 0 0 12px;
  border-radius: 4px; font-weight: 600; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 8px; margin: 0; }
dl div { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 8px 12px; }
dt { color: var(--soft); font-size: 13px; }
dd { margin: 0; font-size: 17px; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
dd small { display: block; font-size: 12px; color: var(--soft); }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
th { font-size: 12px; color: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; }
td.text { white-space: normal; min-width: 240px; overflow-wrap: anywhere; }
"""

#: For the page alone: nothing but its own style.
HEADERS = {
    b"content-security-policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'sha256-"
        + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
        + "'"
    ).encode(),
    b"x-frame-options": b"DENY",
}

_STAYS = "the last good one stays in force. Fix the files as told; they are read again by themselves."

#: What to do, by what the reason of a problem says; the first that matches.
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


def advice(reason: str) -> str:
    """What an operator can do about a problem."""
    return next((text for pattern, text in _ADVICE if re.search(pattern, reason)), "Fix it as told.")


def render(stats: Stats, rates: Mapping[str, float]) -> bytes:
    """The page. rates: commands a second, by namespace, of late."""
    state = stats["state"]
    body = [
        tags.header(
            tags.h1("Redis Proxy"),
            tags.span(f"version {__version__}", class_="soft"),
            tags.span(moment(stats["time"]), class_="soft"),
            tags.span(f"refreshes every {REFRESH} s", class_="soft"),
        ),
        *([tags.p(_banner(state["unready"]), class_="banner", role="alert")] if state["unready"] else []),
        _overview(stats, rates),
        *_problems(state["snapshot"]["problems"]),
        *_certificates(state["tls"]["certificates"], stats["time"]),
        *_tenants(stats, rates),
    ]
    page = tags.html(
        tags.head(
            tags.meta(charset="utf-8"),
            tags.meta(name="viewport", content="width=device-width, initial-scale=1"),
            tags.meta(**{"http-equiv": "refresh", "content": str(REFRESH)}),
            tags.title(f"Redis Proxy: {_state(state['unready'])}"),
            tags.style(_STYLE),
        ),
        tags.body(Tag("main")(*body)),
        lang="en",
    )
    return b"<!DOCTYPE html>\n" + _flat(page)


def _state(unready: str) -> str:
    return DRAINING if unready == DRAINING else "not ready" if unready else "ready"


def _banner(unready: str) -> str:
    if unready == DRAINING:
        return "Draining: it is about to end. Sessions finish what they have begun, and nobody should come any more."
    return f"Not ready: {unready}"


def _flat(page: Tag) -> bytes:
    """Nothing in it waits for anything, so it is there at once. What a browser would not show as it is becomes printable."""
    done: list[bytes] = []
    flattening: Deferred[bytes] = flattenString(None, page)
    failed: list[Failure] = []
    flattening.addCallbacks(done.append, failed.append)
    if failed:
        failed[0].raiseException()
    return "\n".join(map(printable, done[0].decode().split("\n"))).encode()


def _card(title: str, value: object, more: str = "", kind: str = "") -> Tag:
    return tags.div(tags.dt(title), tags.dd(tags.span(str(value), class_=kind), tags.small(more) if more else ""))


def _overview(stats: Stats, rates: Mapping[str, float]) -> Tag:
    counts, state = stats["counts"], stats["state"]
    redis, snapshot = state["redis"], state["snapshot"]
    sessions = counts["sessions"]
    age = snapshot["age"]
    refreshes = snapshot["refreshes"]
    layers = {0: "not known yet", 1: "one: the proxy alone, no scripts", 2: "two: the proxy and Redis's ACLs"}
    refused = sum(sum(tenant["refused"].values()) for tenant in counts["tenants"].values())
    wrong = sum(count for outcome, count in counts["logins"].items() if outcome != "ok")
    return tags.dl(
        _card("State", _state(state["unready"]), "", "bad" if state["unready"] else "good"),
        _card(
            "Redis",
            "answers" if redis["connected"] else "does not answer",
            " · ".join(part for part in (redis["version"], redis["address"]) if part),
            "good" if redis["connected"] else "bad",
        ),
        _card("Isolation layers", redis["isolation_layers"] or "-", layers.get(redis["isolation_layers"], "")),
        _card(
            "Credentials",
            "not read yet" if age is None else f"{span(age)} old",
            f"{snapshot['source']}, {_watched(snapshot)}; "
            f"{refreshes.get('failed', 0)} of {sum(refreshes.values())} readings failed",
            "bad" if age is None else "",
        ),
        _card("Tenants", len(snapshot["tenants"]), f"{len(snapshot['problems'])} problems"),
        *_workers(state["workers"]),
        _card("Sessions", sum(sessions.values()), ", ".join(f"{n} {state}" for state, n in sessions.items() if n)),
        _card("Commands a second", _rate(sum(rates.values())), f"{counts['in_flight']} in flight"),
        _card(
            "Connections to Redis",
            sum(counts["connections"].values()),
            ", ".join(f"{n} {u}" for u, n in counts["connections"].items()),
        ),
        _card("Refused", f"{refused:,}", "commands, since the start"),
        _card("Failed log-ins", f"{wrong:,}", f"{counts['logins'].get('ok', 0):,} succeeded"),
    )


def _workers(workers: WorkersState | None) -> Iterable[Tag]:
    if workers is None:
        return []
    serving, wanted = workers["serving"], workers["wanted"]
    detail = (
        f"{workers['restarts']} restarts since the start; the log says why" if workers["restarts"] else "never restarted"
    )
    return [_card("Workers", f"{serving} of {wanted}", detail, "good" if serving == wanted else "bad")]


def _watched(snapshot: SnapshotState) -> str:
    watch = snapshot["watch"]
    return "watched" if watch is not None and watch["watching"] else "not watched"


def _problems(problems: Sequence[ProblemState]) -> Iterable[Tag]:
    if not problems:
        return [tags.h2("Problems"), tags.p("None.", class_="good")]
    rows = [
        tags.tr(
            tags.td(problem["namespace"]),
            tags.td(problem["secret"] or "-"),
            tags.td(problem["reason"], class_="text"),
            tags.td(advice(problem["reason"]), class_="text"),
        )
        for problem in problems[:ROWS]
    ]
    return [
        tags.h2(f"Problems ({len(problems)})", class_="bad"),
        _table(("Namespace", "Secret", "What is wrong", "What to do"), rows, len(problems)),
    ]


def _certificates(certificates: Sequence[CertificateState], now: float) -> Iterable[Tag]:
    if not certificates:
        return []
    rows = [
        tags.tr(
            tags.td(certificate["listener"]),
            tags.td(*_time_remaining(certificate, now)),
            tags.td(f"{certificate['problem']}: {_STAYS}" if certificate["problem"] else "-", class_="text"),
        )
        for certificate in certificates
    ]
    return [tags.h2("Certificates"), _table(("Endpoint", "Ends", "What is wrong with a newer one"), rows, len(rows))]


def _time_remaining(certificate: CertificateState, now: float) -> tuple[str | Tag, ...]:
    """How long it is good for yet."""
    begins, expires = certificate["begins"], certificate["expires"]
    if expires <= now:
        return (tags.span(f"ended {span(now - expires)} ago: clients refuse it", class_="bad"),)
    soon = expires - now < SOON * (expires - begins)
    return (tags.span(f"in {span(expires - now)}", class_="warn" if soon else ""), f", {moment(expires)}")


def _tenants(stats: Stats, rates: Mapping[str, float]) -> Iterable[Tag]:
    tenants = stats["state"]["snapshot"]["tenants"]
    counts = stats["counts"]["tenants"]
    nothing = no_tenant_stats()

    def busy(namespace: str) -> tuple[float, int, str]:
        return -rates.get(namespace, 0.0), -counts.get(namespace, nothing)["sessions"], namespace

    rows = []
    for namespace in sorted(tenants, key=busy)[:ROWS]:
        tenant, counted = tenants[namespace], counts.get(namespace, nothing)
        refused = sum(counted["refused"].values())
        rows.append(
            tags.tr(
                tags.td(namespace),
                _number(tenant["index"]),
                _number(f"{counted['sessions']:,}"),
                _number(_rate(rates.get(namespace, 0.0))),
                _number(f"{sum(counted['commands'].values()):,}"),
                _number(tags.span(f"{refused:,}", class_="warn" if refused else "")),
                _number(tenant["credentials"]),
                tags.td("-" if tenant["expires"] is None else f"in {span(tenant['expires'] - stats['time'])}"),
                tags.td(_limits(tenant["limits"])),
                tags.td(_limited(counted)),
            )
        )
    columns = (
        *("Namespace", "#Database", "#Sessions", "#Commands/s", "#Commands", "#Refused", "#Credentials", "Next expiry"),
        *("Limits", "Limited"),
    )
    if not rows:
        return [tags.h2("Tenants"), tags.p("None is known.", class_="soft")]
    return [tags.h2(f"Tenants ({len(tenants)})"), _table(columns, rows, len(tenants))]


def _limits(limits: Mapping[str, int]) -> str:
    units = {"max_connections": "connections", "commands_per_second": "commands/s", "bytes_per_second": "bytes/s"}
    return ", ".join(f"{limits[name]:,} {unit}" for name, unit in units.items() if name in limits) or "-"


def _limited(counted: TenantStats) -> Tag | str:
    """What the limits have done to a tenant, now and since the start."""
    done = []
    if counted["throttled"]:
        done.append(f"throttled for {span(counted['throttled'])}")
    if counted["turned_away"]:
        done.append(f"{counted['turned_away']:,} connections refused")
    if counted["held"]:
        done.insert(0, "throttled now")
    return tags.span(", ".join(done), class_="warn") if counted["held"] else ", ".join(done) or "-"


def _number(value: object) -> Tag:
    return tags.td(value if isinstance(value, Tag) else str(value), class_="number")


def _table(columns: Sequence[str], rows: Sequence[Tag], count: int) -> Tag:
    """columns: those of numbers begin with #."""
    heads = [tags.th(c.lstrip("#"), scope="col", class_="number" if c.startswith("#") else "") for c in columns]
    table = tags.div(tags.table(tags.thead(tags.tr(*heads)), tags.tbody(*rows)), class_="scroll", tabindex="0")
    if count <= len(rows):
        return table
    return tags.div(table, tags.p(f"{count - len(rows)} more are not shown.", class_="soft"))


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or not value else f"{value:.1f}"
