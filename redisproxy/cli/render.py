"""How the operator's command shows what it found or did: text for people, JSON for programs.

Owns both forms. A password is in neither, unless it is asked for.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from ..ops import page
from ..ops.time_text import iso
from ..printable import printable
from ..tenants.documents import Problem
from ..tenants.model import Credential
from .inspect import Findings, NamespaceView, RedisView
from .operations import Rotated, Written

#: What to do about Redis, by what is wrong with it; the first that matches.
_REDIS_ADVICE = (
    (r"WRONGPASS|NOAUTH|invalid password", "Fix the password in the master secret."),
    (r"no connection", "Is the address in the master secret right, and may this place reach it (NetworkPolicy, TLS)?"),
    (r"sentinels", "Fix the sentinels in the master secret, or what each says above."),
)


def advice(problem: Problem) -> str:
    """What to do about it."""
    if problem.namespace == "Redis" and not problem.secret:
        return next((text for pattern, text in _REDIS_ADVICE if re.search(pattern, problem.reason)), "Fix it as told.")
    return page.advice(problem.reason)


# JSON.


def _problem(problem: Problem) -> dict[str, object]:
    return {
        "namespace": problem.namespace,
        "secret": problem.secret or None,
        "reason": problem.reason,
        "advice": advice(problem),
    }


def _credential(credential: Credential, now: float) -> dict[str, object]:
    return {
        "secret": credential.secret,
        "expires": None if credential.expires is None else iso(credential.expires),
        "expired": not credential.valid_at(now),
    }


def state(view: NamespaceView) -> str:
    """In a word or two."""
    if view.index is not None:
        return "problems" if view.problems else "ok"
    return "kept out" if view.problems else "not enrolled"


def tenants_document(found: Findings, now: float) -> dict[str, object]:
    """What `redisproxy tenants` says."""
    return {
        "source": found.source,
        "tenants": [
            {
                "namespace": view.namespace,
                "state": state(view),
                "index": view.index,
                "credentials": [_credential(credential, now) for credential in view.credentials],
                "problems": [_problem(problem) for problem in view.problems],
            }
            for view in found.namespaces
        ],
    }


def _redis(view: RedisView) -> dict[str, object]:
    found = view.inquiry
    return {
        "configured": view.backend.shown,
        "address": None if found is None else found.address,
        "version": None if found is None else found.server.version,
        "databases": None if found is None else found.server.databases,
        "acl_users": None if found is None else found.server.acl,
        "replica": None if found is None else found.server.replica,
        "sentinels": [
            {
                "address": sentinel.address,
                "master": None if sentinel.answer is None else f"{sentinel.answer.host}:{sentinel.answer.port}",
                "error": sentinel.error or None,
            }
            for sentinel in view.sentinels
        ],
    }


def check_document(found: Findings, now: float) -> dict[str, object]:
    """What `redisproxy check` says."""
    return {
        "ok": not found.problems,
        "redis": None if found.redis is None else _redis(found.redis),
        **tenants_document(found, now),
        "problems": [_problem(problem) for problem in found.problems],
        "warnings": found.warnings,
    }


def written_document(written: Written, dry_run: bool, show_password: bool) -> dict[str, object]:
    """What was written, or would be."""
    shown: dict[str, object] = {
        "namespace": written.namespace,
        "secret": written.secret,
        "index": written.index,
        "valid_hours": written.valid_hours,
        "dry_run": dry_run,
        "notes": list(written.notes),
    }
    if show_password:
        shown["connection_string"] = written.url
    return shown


def rotated_document(rotated: Rotated, dry_run: bool, show_password: bool) -> dict[str, object]:
    """Likewise of a rotation. The old password is not shown: who has to know it does."""
    grace = None if rotated.grace is None else written_document(rotated.grace, dry_run, False)
    return {**written_document(rotated.written, dry_run, show_password), "grace": grace}


# Text.


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Columns as wide as they need to be, as kubectl's are."""
    cells = [list(columns), *([printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[number]) for row in cells) for number in range(len(columns))]
    for row in cells:
        yield "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _wrapped(text: str, width: int, indent: str, more: str) -> list[str]:
    return textwrap.wrap(
        printable(text), max(width, 40), initial_indent=indent, subsequent_indent=more, break_on_hyphens=False
    )


def _expiry(credential: Credential, now: float) -> str:
    if credential.expires is None:
        return "never"
    return iso(credential.expires) if credential.valid_at(now) else f"{iso(credential.expires)} (expired)"


def tenants_lines(found: Findings, now: float, width: int) -> Iterator[str]:
    """What `redisproxy tenants` says: a line for each credential."""
    rows: list[tuple[object, ...]] = []
    for view in found.namespaces:
        first = (view.namespace, "-" if view.index is None else view.index, state(view))
        if not view.credentials:
            rows.append((*first, "-", "-"))
        for credential in view.credentials:
            rows.append((*first, credential.secret, _expiry(credential, now)))
            first = ("", "", "")
    yield from table(("NAMESPACE", "DATABASE", "STATE", "SECRET", "EXPIRES"), rows)
    yield from _problem_lines([problem for view in found.namespaces for problem in view.problems], width)


def _problem_lines(problems: Sequence[Problem], width: int) -> Iterator[str]:
    if not problems:
        return
    yield ""
    yield f"{len(problems)} problem{'s' if problems[1:] else ''}:"
    for problem in problems:
        yield from _wrapped(str(problem), width, "  ", "    ")
        yield from _wrapped(advice(problem), width, "    -> ", "       ")


def check_lines(found: Findings, now: float, width: int) -> Iterator[str]:
    """What `redisproxy check` says."""
    enrolled = sum(view.index is not None for view in found.namespaces)
    facts = [("source", f"{found.source}: {len(found.namespaces)} namespaces, {enrolled} enrolled")]
    if found.redis is not None:
        facts += _redis_facts(found.redis)
    label_width = max(len(name) for name, _ in facts)
    for name, text in facts:
        yield from _wrapped(text, width, f"{name.ljust(label_width)}   ", " " * (label_width + 3))
    yield ""
    rows = [
        (
            view.namespace,
            "-" if view.index is None else view.index,
            sum(credential.valid_at(now) for credential in view.credentials),
            state(view),
        )
        for view in found.namespaces
    ]
    if rows:
        yield from table(("NAMESPACE", "DATABASE", "CREDENTIALS", "STATE"), rows)
    if found.warnings:
        yield ""
        for warning in found.warnings:
            yield from _wrapped(f"warning: {warning}", width, "", "  ")
    yield from _problem_lines(found.problems, width)
    if not found.problems:
        yield ""
        yield "no problems"


def _redis_facts(view: RedisView) -> Iterator[tuple[str, str]]:
    for sentinel in view.sentinels:
        said = sentinel.error
        if sentinel.answer is not None:
            said = f"{view.backend.master_name} is at {sentinel.answer.host}:{sentinel.answer.port}"
        yield "sentinel", f"{sentinel.address}: {said}"
    found = view.inquiry
    if found is None:
        yield "Redis", f"{view.backend.shown}: cannot be asked"
        return
    many = "an untold number of" if found.server.databases is None else found.server.databases
    users = "ACL users" if found.server.acl else "no ACL users"
    yield "Redis", f"{found.address}: {found.server.version}, {many} databases, {users}"


def written_lines(written: Written, done: str, dry_run: bool, show_password: bool) -> Iterator[str]:
    """done: what was done, or would be."""
    yield printable(f"{done}: database {written.index}, secret {written.namespace}/{written.secret}")
    for note in written.notes:
        yield printable(f"note: {note}")
    if show_password:
        yield printable(written.url)  # but for the password the tenant's own words
    elif not dry_run:
        yield (
            f"its connection string: kubectl get secret -n {written.namespace} {written.secret} "
            "-o jsonpath='{.data.redis-connection-string}' | base64 -d"
        )


def rotated_lines(rotated: Rotated, dry_run: bool, show_password: bool) -> Iterator[str]:
    """Likewise of a rotation."""
    written, grace = rotated.written, rotated.grace
    would = "would have" if dry_run else "has"
    yield from written_lines(written, f"{written.namespace} {would} a new password", dry_run, show_password)
    if grace is None:
        yield f"the old password {'would end' if dry_run else 'ends'} at once"
    else:
        goes = "would go" if dry_run else "goes"
        yield printable(f"the old password {goes} on for {grace.valid_hours} h: secret {grace.namespace}/{grace.secret}")
