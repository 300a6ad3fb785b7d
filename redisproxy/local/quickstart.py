"""Prints the tour of ``make run``: for each tenant a command to try and what the proxy answers, and
where to read on.

Owns text for a user who sees the proxy for the first time. It must run only with ``--embedded
--manifests``, because it prints passwords, and there they are those of an example. The answers that
it prints come from commands that it has just tried through the proxy.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from twisted.internet import defer
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError

from ..net.reactor import IProxyReactor
from ..tenants.documents import FullRead
from ..tenants.enrolment import parse_tenant
from ..tenants.model import BackendAddress
from ..tenants.urls import MalformedError
from ..upstream.client import Connection, ControlError, ReplyError, Word, ask_once
from ..upstream.endpoint import why

#: Seconds to connect, and seconds for all commands of one tenant.
_LIMIT = 5.0


def _tenants(reading: FullRead, secret_name: str) -> Iterator[tuple[str, bytes, int]]:
    """(namespace, password, index) of each well-formed client secret."""
    for namespace, secrets in sorted(reading.secrets.items()):
        for secret in secrets if isinstance(secrets, tuple) else ():
            if secret.name == secret_name:
                try:
                    _, password, index = parse_tenant(secret.data)
                except MalformedError:
                    continue
                yield namespace, password, index


async def tour(
    reactor: IProxyReactor,
    reading: FullRead,
    secret_name: str,
    host: str,
    port: int,
    further: Sequence[str] = (),
    out: TextIO | None = None,
) -> None:
    """Tries each tenant through the proxy, and prints the answers.

    reading: has the tenants; secret_name: of the client secret; host, port: of the proxy; further:
    lines to print after the tenants; out: default standard output.
    """
    # Not sys.stdout: while twistd logs, that is the log, and these lines do not belong there.
    out = sys.__stdout__ if out is None else out
    tenants = list(_tenants(reading, secret_name))
    print(f"\nThe proxy serves {len(tenants)} tenants on {host}:{port}. Try:\n", file=out)
    for namespace, password, index in tenants:
        line = f"redis-cli -h {host} -p {port} -a {_quoted(password)} --no-auth-warning -n {index}"
        print(f"  {namespace} (database {index}):\n    {line} SET greeting hello", file=out)
        others = [other for _, _, other in tenants if other != index]
        for outcome in await _try(reactor, host, port, password, index, others[0] if others else index + 1):
            print(f"    {outcome}", file=out)
        print(file=out)
    for line in further:
        print(line, file=out)
    print("Ctrl-C stops the proxy and its Redis server; no data is kept.\n", file=out, flush=True)


def _quoted(password: bytes) -> str:
    """A password as a word of the shell. If it is not printable UTF-8, the word has the form
    ``$'…'``, which bash and zsh know.
    """
    text = password.decode("utf-8", "backslashreplace")
    if text.encode() == password and text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(chr(c) if c < 128 and chr(c).isalnum() else f"\\x{c:02x}" for c in password) + "'"


def tenants_command(manifests: Path, ns_prefix: str) -> str:
    """The command that lists the tenants. It uses the ``redisproxy`` in the directory of the
    running program (``.venv/bin/twistd``), else the one on the PATH.
    """
    beside = Path(sys.argv[0]).with_name("redisproxy")
    program = str(beside) if beside.is_file() else "redisproxy"
    return shlex.join([program, "tenants", "--manifests", str(manifests), "--ns-prefix", ns_prefix])


async def _try(reactor: IProxyReactor, host: str, port: int, password: bytes, index: int, other: int) -> list[str]:
    """Tries some commands as a client of this tenant. Returns lines with the answers.

    index: the tenant's database; other: a database that it may not select.
    """

    async def trying(connection: Connection) -> list[str]:
        steps: list[str] = []
        commands: list[list[Word]] = [
            ["AUTH", password],
            ["SET", "greeting", f"hello from database {index}"],
            ["GET", "greeting"],
            ["DEL", "greeting"],
            ["SELECT", str(other)],
        ]
        for words in commands:
            try:
                answer = await connection.ask(*words)
            except ReplyError as error:
                shown = f"(error) {error}"
            else:
                shown = answer.decode() if isinstance(answer, bytes) else str(answer)
            command = "AUTH ***" if words[0] == "AUTH" else " ".join(map(str, words))
            if words[0] != "DEL":
                steps.append(f"tried: {command} -> {shown}")
        await connection.close()
        return steps

    # The address has no password: the AUTH above is one of the steps.
    endpoint = HostnameEndpoint(reactor, host, port, timeout=_LIMIT)
    try:
        return await ask_once(reactor, BackendAddress(host, port), endpoint, _LIMIT, trying)
    except (ControlError, ConnectError, OSError, defer.TimeoutError) as error:
        # The proxy is ending, or is busy.
        return [f"tried: no answer from the proxy ({why(error)})"]
