"""The status page for people: what is served, what is wrong, and what to do about it.

Owns the HTML. The page refreshes itself and loads nothing. Its one script sorts tables; without the
script the page is complete. Must not show a secret. Its size is bounded: at most ROWS tenants and
ROWS problems are shown.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

from twisted.internet.defer import Deferred
from twisted.web.template import Tag, flattenString, tags

from .. import __version__, messages
from ..printable import printable
from .history import Rate
from .page_parts import PageContent, Pause, marked, plot, rate_text, seconds_text, size_text
from .page_style import SCRIPT, style
from .page_tables import TABLES, certificates, failed_log_ins, open_problems, refused_commands, tenants, without_secret
from .problems import UNREADY, why_unready
from .stats import Counts, RedisState, SnapshotState, State, WorkersState
from .time_text import moment, span

__all__ = ["HEADERS", "PageContent", "render", "render_runbooks"]

#: Seconds until the browser loads the page again.
REFRESH = 5
#: Other paths of this endpoint. They are relative, so that they also work through kubectl proxy.
_LINKS = (("Metrics", "metrics"), ("Readiness", "readyz"), ("Runbooks", "runbooks"))

_STYLE = style({table.name: table.columns for table in TABLES})


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


#: Headers of the page alone. They allow only its own style and its own script.
HEADERS = {
    b"content-security-policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        f"style-src {_hash(_STYLE)}; script-src {_hash(SCRIPT)}"
    ).encode(),
    b"x-frame-options": b"DENY",
}


def render(content: PageContent, pause: Pause = lambda: None) -> Deferred[bytes]:
    """Returns the HTML of the page. pause: see `page_parts.Pause`."""
    stats = content.stats
    state = stats["state"]
    head = tags.header(
        tags.h1("Redis Proxy"),
        tags.span(state["host"], class_="soft name"),
        tags.span(f"version {__version__}", class_="soft"),
        tags.span(moment(stats["time"]), class_="soft"),
        tags.span(f"refreshes every {REFRESH} s", class_="soft"),
        tags.nav(*(tags.a(text, href=path) for text, path in _LINKS), **{"aria-label": "More"}),
    )
    body = [
        head,
        *_banner(content),
        _overview(content),
        *open_problems(content, pause),
        *failed_log_ins(content),
        *refused_commands(stats),
        *certificates(state["tls"]["certificates"], stats["time"]),
        *without_secret(state["snapshot"]["without_secret"]),
        *tenants(content, pause),
    ]
    return _document(f"Redis Proxy: {_state(state)}", body, refreshes=True)


def render_runbooks(names: Iterable[str]) -> Deferred[bytes]:
    """Returns the HTML of the list of runbooks."""
    items = [tags.li(tags.a(name, href=f"runbooks/{name}")) for name in sorted(names)]
    body = [
        tags.header(tags.h1("Runbooks"), tags.nav(tags.a("Status", href="./"), **{"aria-label": "More"})),
        tags.p("What to do, by the name of the alert.", class_="soft"),
        tags.ul(*items),
    ]
    return _document("Redis Proxy: runbooks", body)


def _document(title: str, body: Iterable[Tag], refreshes: bool = False) -> Deferred[bytes]:
    refresh = [tags.meta(**{"http-equiv": "refresh", "content": str(REFRESH)})] if refreshes else []
    page = tags.html(
        tags.head(
            tags.meta(charset="utf-8"),
            tags.meta(name="viewport", content="width=device-width, initial-scale=1"),
            *refresh,
            tags.title(title),
            tags.style(_STYLE),
        ),
        tags.body(Tag("main")(*body), tags.script(SCRIPT)),
        lang="en",
    )
    return flattenString(None, page).addCallback(_finished)


def _finished(html: bytes) -> bytes:
    """Makes characters printable that a browser would not show as they are."""
    return b"<!DOCTYPE html>\n" + "\n".join(map(printable, html.decode().split("\n"))).encode()


def _state(state: State) -> str:
    return "draining" if _drains(state) else "not ready" if state["unready"] else "ready"


def _drains(state: State) -> bool:
    return state["unready_code"] == messages.DRAINING.code


def _banner(content: PageContent) -> Iterable[Tag]:
    """Why the proxy is not ready, since when, and what to do."""
    state = content.stats["state"]
    if not state["unready"]:
        return []
    if _drains(state):
        text = "Draining: the proxy is about to end. Sessions finish their commands, and no new client should connect."
        return [tags.p(text, class_="banner", role="alert")]
    unready = next((problem for problem in content.problems if problem.kind == UNREADY), None)
    ago = None if unready is None else content.since(unready)
    since = "" if ago is None else f", since {moment(content.stats['time'] - ago)} ({span(ago)})"
    what = [] if unready is None else [tags.small(unready.advice)]
    return [tags.p(f"Not ready{since}: {why_unready(state)}", *what, class_="banner", role="alert")]


# The cards.


def _card(title: str, value: object, more: str = "", kind: str = "", plotted: Iterable[Tag] = (), wide: bool = False) -> Tag:
    shown = [marked(str(value), kind), *plotted, *([tags.small(more)] if more else [])]
    card = tags.div(tags.dt(title), tags.dd(*shown), "\n")
    return card(class_="wide") if wide else card


def _overview(content: PageContent) -> Tag:
    stats, recent = content.stats, content.recent
    counts, state = stats["counts"], stats["state"]
    redis, snapshot = state["redis"], state["snapshot"]
    sessions, tenants = counts["sessions"], snapshot["tenants"]
    age = snapshot["age"]
    refreshes = snapshot["refreshes"]
    layers = {0: "not known yet", 1: "the proxy alone, no scripts", 2: "the proxy and Redis's ACLs"}
    used = len({tenant["index"] for tenant in tenants.values()})
    total = recent.total
    rate = Rate(sum(one.commands for one in recent.rates.values()), sum(one.bytes for one in recent.rates.values()))
    not_enrolled = len(snapshot["without_secret"])
    return tags.dl(
        _card("State", _state(state), "", "bad" if state["unready"] else "good"),
        _card(
            "Redis",
            _answers(redis),
            " · ".join(part for part in (redis["version"], redis["address"]) if part),
            "bad" if not redis["connected"] else "good" if redis["answers"] == "up" else "warn",
            wide=True,
        ),
        _card("Uptime", span(state["uptime"]), f"since {moment(stats['time'] - state['uptime'])}"),
        *_workers(state["workers"]),
        _card(
            "Sessions",
            f"{sum(sessions.values()):,} of {state['most_sessions']:,}",
            ", ".join(f"{n} {state}" for state, n in sessions.items() if n),
        ),
        _card(
            "Databases used",
            f"{used:,}" if redis["databases"] is None else f"{used:,} of {redis['databases']:,}",
            "Redis has not reported how many it has" if redis["databases"] is None else "",
        ),
        _card(
            "Tenants",
            f"{len(tenants):,}",
            f"namespaces without a secret: {not_enrolled:,}" if not_enrolled else "",
        ),
        _card(
            "Commands/s",
            rate_text(rate.commands),
            f"{counts['in_flight']:,} in flight",
            "",
            plot(rate_text, total.commands),
        ),
        _card("Bytes/s", size_text(rate.bytes), "from clients and from Redis", "", plot(size_text, total.bytes)),
        _card(
            "Latency of Redis",
            seconds_text(total.latency(0.99)),
            f"p99 of {total.timed:,} PINGs in {span(recent.seconds)}; p50 {seconds_text(total.latency(0.5))}"
            if total.timed
            else "no sample in the last minutes",
            "",
            plot(seconds_text, total.slow, total.medians),
        ),
        _card(
            "Connections to Redis",
            f"{sum(counts['connections'].values()):,}",
            ", ".join(f"{n} {u}" for u, n in counts["connections"].items()),
        ),
        _card(
            "Isolation layers",
            redis["isolation_layers"] or "-",
            layers.get(redis["isolation_layers"], ""),
            "warn" if redis["isolation_layers"] == 1 else "",
        ),
        *(_card("Limits of Redis", "missing", notice, "warn", wide=True) for notice in redis["notices"]),
        _card(
            "Credentials",
            "not read yet" if age is None else f"{span(age)} old",
            f"{snapshot['source']}, {_watched(snapshot)}; "
            f"{refreshes.get('failed', 0)} of {sum(refreshes.values())} reads failed",
            "bad" if age is None else "",
            wide=True,
        ),
        _card("Refused", f"{sum(counts['refused_names'].values()):,}", "commands, since the start"),
        _log_ins(counts),
    )


def _answers(redis: RedisState) -> str:
    """What Redis does."""
    if redis["answers"] == "hung":
        return f"has not answered for {span(redis['unanswered'])}"
    if redis["connected"]:
        return {"busy": "is busy with a script", "loading": "is loading its data"}.get(redis["answers"], "answers")
    return "no connection"


def _log_ins(counts: Counts) -> Tag:
    wrong = {outcome: count for outcome, count in counts["logins"].items() if outcome != "ok" and count}
    of_each = [f"{count:,} {outcome}" for outcome, count in sorted(wrong.items(), key=lambda each: -each[1])]
    return _card(
        "Failed log-ins", f"{sum(wrong.values()):,}", "; ".join([*of_each, f"{counts['logins'].get('ok', 0):,} succeeded"])
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
