"""Shows what the operator's command found or did: text for people, JSON for programs.

Owns both forms. Must not show a password unless the operator asked for it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from ..messages import FIX_WHAT_IS_NAMED, Text
from ..ops.time_text import iso
from ..printable import listed, printable
from ..tenants.documents import Problem
from ..tenants.model import Credential
from ..tenants.urls import address_of
from .inspect import Findings, RedisView, State
from .operations import Written
from .pausing import Paused
from .rotation import OtherPassword, Rotated


def advice(reason: Text) -> str:
    """What to do about a problem."""
    return reason.remedy or FIX_WHAT_IS_NAMED


# JSON.


def _problem(problem: Problem) -> dict[str, object]:
    return {
        "namespace": problem.namespace,
        "secret": problem.secret or None,
        "code": problem.reason.code,
        "reason": problem.reason,
        "advice": advice(problem.reason),
    }


def _credential(credential: Credential, now: float) -> dict[str, object]:
    return {
        "secret": credential.secret,
        "expires": None if credential.expires is None else iso(credential.expires),
        "expired": not credential.valid_at(now),
    }


def tenants_document(found: Findings, now: float) -> dict[str, object]:
    """Returns the result of `redisproxy tenants`."""
    return {
        "source": found.source,
        "tenants": [
            {
                "namespace": view.namespace,
                "state": view.state.value,
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
        "scripts": view.scripts,
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
    """Returns the result of `redisproxy check`."""
    return {
        "ok": not found.problems,
        "redis": None if found.redis is None else _redis(found.redis),
        **tenants_document(found, now),
        "problems": [_problem(problem) for problem in found.problems],
        "warnings": found.warnings,
    }


def written_document(written: Written, dry_run: bool, show_password: bool) -> dict[str, object]:
    """Returns what was written, or would be."""
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
    """Returns the result of a rotation. The old password is not shown: its users know it."""
    grace = None if rotated.grace is None else written_document(rotated.grace, dry_run, False)
    others = rotated.others
    return {
        **written_document(rotated.written, dry_run, show_password),
        "grace": grace,
        "still_good": None if others is None else [_other(password) for password in others],
        "revoked": list(rotated.revoked),
        "unfinished": list(rotated.unfinished),
    }


def _other(password: OtherPassword) -> dict[str, object]:
    expires = None if password.expires is None else iso(password.expires)
    return {"secret": password.secret, "expires": expires, "old_password": password.old}


def paused_document(done: Paused, dry_run: bool) -> dict[str, object]:
    """Returns the result of `redisproxy pause` or `resume`."""
    return {
        "namespace": done.namespace,
        "paused": done.paused,
        "changed": done.changed,
        "dry_run": dry_run,
        "notes": list(done.notes),
    }


# Text.


def paused_lines(done: Paused, dry_run: bool) -> Iterator[str]:
    """Yields the result of `redisproxy pause` or `resume`."""
    now = "paused" if done.paused else "not paused"
    if not done.changed:
        yield f"{done.namespace} was {now} before: nothing to write"
    elif dry_run:
        yield f"{done.namespace} would be {now}"
    elif done.paused:
        yield f"{done.namespace} is paused: its commands wait, and its clients are closed after --hold-seconds"
        yield f"to go on: redisproxy resume {done.namespace}"
    else:
        yield f"{done.namespace} is not paused any more"
    yield from done.notes


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yields the lines of a table. Each column is as wide as its widest cell, as in kubectl."""
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
    """Yields the result of `redisproxy tenants`: a line for each credential."""
    rows: list[tuple[object, ...]] = []
    for view in found.namespaces:
        first = (view.namespace, "-" if view.index is None else view.index, view.state.value)
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
        yield from _wrapped(advice(problem.reason), width, "    -> ", "       ")


def check_lines(found: Findings, now: float, width: int) -> Iterator[str]:
    """Yields the result of `redisproxy check`."""
    facts = [("source", f"{found.source}: {_counts(found)}")]
    if found.redis is not None:
        facts += _redis_facts(found.redis)
    label_width = max(len(name) for name, _ in facts)
    for name, text in facts:
        yield from _wrapped(text, width, f"{name.ljust(label_width)}   ", " " * (label_width + 3))
    rows = [
        (
            view.namespace,
            "-" if view.index is None else view.index,
            sum(credential.valid_at(now) for credential in view.credentials),
            view.state.value,
        )
        for view in found.namespaces
    ]
    if rows:
        yield ""
        yield from table(("NAMESPACE", "DATABASE", "CREDENTIALS", "STATE"), rows)
    if found.warnings:
        yield ""
        for warning in found.warnings:
            yield from _wrapped(f"warning: {warning}", width, "", "  ")
    yield from _problem_lines(found.problems, width)
    if not found.problems:
        count = len(found.warnings)
        yield ""
        yield f"no problems, {count} warning{'s' if count > 1 else ''}" if count else "no problems"


def _counts(found: Findings) -> str:
    """Returns how many namespaces there are, as far as known."""
    if not found.listed:
        return "its namespaces could not be read"
    enrolled = sum(view.index is not None for view in found.namespaces)
    unknown = sum(view.state is State.NOT_READ for view in found.namespaces)
    return f"{len(found.namespaces)} namespaces, {enrolled} enrolled{f', {unknown} not read' if unknown else ''}"


def _redis_facts(view: RedisView) -> Iterator[tuple[str, str]]:
    for sentinel in view.sentinels:
        said: str | None = sentinel.error
        if sentinel.answer is not None:
            said = f"{view.backend.master_name} is at {sentinel.answer.host}:{sentinel.answer.port}"
        yield "sentinel", f"{sentinel.address}: {said}"
    found = view.inquiry
    if found is None:
        yield "Redis", f"{view.backend.shown}: cannot be asked"
        return
    many = "an unknown number of" if found.server.databases is None else found.server.databases
    users = "ACL users" if found.server.acl else "no ACL users"
    scripts = "scripts allowed" if view.scripts else "scripts refused"
    yield "Redis", f"{found.address}: {found.server.version}, {many} databases, {users}, {scripts}"


def written_lines(written: Written, done: str, dry_run: bool, show_password: bool) -> Iterator[str]:
    """Yields what was written, or would be. done: the beginning of the first line."""
    yield printable(f"{done}: database {written.index}, secret {written.namespace}/{written.secret}")
    for note in written.notes:
        yield printable(f"note: {note}")
    if show_password:
        yield printable(written.url)  # the tenant's own text, apart from the password
    elif not dry_run:
        yield (
            f"its connection string: kubectl get secret -n {written.namespace} {written.secret} "
            "-o jsonpath='{.data.redis-connection-string}' | base64 -d"
        )


def enrolled_lines(written: Written, dry_run: bool, show_password: bool) -> Iterator[str]:
    """Yields the result of an enrolment, with commands that try the new tenant."""
    done = "would be enrolled" if dry_run else "is enrolled"
    yield from written_lines(written, f"{written.namespace} {done}", dry_run, show_password)
    if not dry_run:
        yield f"to try it in a pod of {written.namespace}, with that connection string in REDIS_URL, run one of:"
        yield from (printable(f"  {line}") for line in try_lines(written.url))


def try_lines(url: str) -> Iterator[str]:
    """Yields shell commands that log in to the proxy: one for redis-cli, if the URL has an address,
    and one for Python, where redis-cli is missing.

    url: a tenant's connection string. Its password must not be in any line or in the arguments of a
    process, which other users of the machine can see. Both commands read it from the environment
    variable REDIS_URL.
    """
    scheme, _, location = address_of(url).partition("://")
    host, _, port = location.rpartition(":")
    log_in = """REDISCLI_AUTH=$(echo "$REDIS_URL" | sed 's|^[^:]*://[^:]*:||; s|@.*||')"""
    if location:
        yield f"{log_in} redis-cli{' --tls' if scheme == 'rediss' else ''} -h {host.strip('[]')} -p {port} PING"
    yield """python3 -c 'import os, redis; print(redis.Redis.from_url(os.environ["REDIS_URL"]).ping())'"""


def rotated_lines(rotated: Rotated, dry_run: bool, show_password: bool) -> Iterator[str]:
    """Yields the result of a rotation: also which other passwords are still valid, and until
    when.
    """
    written, grace, others = rotated.written, rotated.grace, rotated.others or ()
    would = "would have" if dry_run else "has"
    yield from written_lines(written, f"{written.namespace} {would} a new password", dry_run, show_password)
    if rotated.revoked:
        were = "to be deleted" if dry_run else "that were deleted"
        yield printable(f"temporary secrets {were}: {', '.join(rotated.revoked)}")
    if grace is not None:
        stays = "would stay" if dry_run else "stays"
        until = next((f", until {iso(one.expires)}" for one in others if one.secret == grace.secret and one.expires), "")
        yield printable(
            f"the old password {stays} valid for {grace.valid_hours} h{until}: secret {grace.namespace}/{grace.secret}"
        )
        others = tuple(password for password in others if password.secret != grace.secret)
    elif any(password.old for password in others):
        yield f"the old password {'would stay' if dry_run else 'stays'} valid, because a temporary secret has it too"
    elif rotated.others is not None:
        yield f"the old password {'would end' if dry_run else 'ends'} at once"
    if others:
        yield f"{'also ' if grace is not None else ''}still valid in {written.namespace}:"
        yield from ("  " + line for line in table(("SECRET", "EXPIRES", "PASSWORD"), map(_other_row, others)))
        yield from _how_to_end(written.namespace, others)


def _other_row(password: OtherPassword) -> tuple[str, ...]:
    expires = "never" if password.expires is None else iso(password.expires)
    return password.secret, expires, "the old one" if password.old else "another"


def _how_to_end(namespace: str, others: Sequence[OtherPassword]) -> Iterator[str]:
    if not others[0].files:
        names = " ".join(password.secret for password in others)
        yield printable(f"to end {'them' if others[1:] else 'it'}: kubectl delete secret -n {namespace} {names}")
        return
    for password in others:
        yield printable(f"to end {password.secret}: remove the Secret from {listed(password.files)}")
