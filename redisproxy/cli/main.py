"""The command line of `redisproxy`: its options, its output, and its exit status.

Owns the options and the exit statuses: 0 for success, 1 if something is wrong or was refused, 2 if
the command line or a setting is wrong. Options for settings are made from the table in `settings`.
Results go to standard output, everything else to standard error. It is longer than other modules,
because it has one function with options for each subcommand, and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

import click
import yaml
from click.shell_completion import CompletionItem

from ..net import reactor as _reactor

_reactor.install()  # before another import installs Twisted's default reactor

from twisted.internet import defer, task
from twisted.logger import LogPublisher, globalLogBeginner

from .. import __version__
from ..printable import printable
from ..processes.os_process import quiet_libraries
from ..service import ProxyService, source_of
from ..settings import Settings, SettingsError, described, option_name
from ..sources.secret_writer import WriteError
from ..tenants.allocation import ADDRESS, Refused
from ..tenants.urls import parse_address
from . import inspect, operations, pausing, render, rotation
from .inspect import Operator

#: Settings that say where tenants are read, and by which rules. `check` takes all settings.
_WHERE = ("ns_prefix", "redis_secret", "master_namespace", "master_secret", "manifests", "kubernetes_port")
_REDIS = ("connect_timeout", "redis_ca")


#: The value of a setting's option, as click passes it.
_Given = str | tuple[str, ...] | bool | None
_Command = TypeVar("_Command", bound=Callable[..., None])


def _settings(*names: str) -> Callable[[_Command], _Command]:
    """Adds the options of some settings, or of all if no names are given.

    The values stay text, which `Settings.read` parses.
    """

    def add(command: _Command) -> _Command:
        for setting in reversed(fields(Settings)):
            if names and setting.name not in names:
                continue
            option = f"--{option_name(setting.name)}"
            takes = setting.metadata["takes"]
            kind: dict[str, Any] = {
                "metavar": f"[{takes}]" if "|" in takes else takes,
                "multiple": setting.name == "listen",
                "shell_complete": partial(_complete, takes),
            }
            if not takes:
                option, kind = f"{option}/--no-{option_name(setting.name)}", {"default": None}
            command = click.option(option, setting.name, help=described(setting), **kind)(command)
        return command

    return add


def _complete(takes: str, _: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The completions of a setting's value: words, or paths. takes: see `settings._setting`."""
    if "|" in takes:
        return [CompletionItem(word) for word in takes.split("|") if word.startswith(incomplete)]
    return [CompletionItem(incomplete, type=takes.lower())] if takes in ("FILE", "DIR") else []


def _read_settings(given: dict[str, _Given]) -> Settings:
    """Removes the settings from `given` and reads them. Raises SettingsError."""
    options = {}
    for setting in fields(Settings):
        value = given.pop(setting.name, None)
        if isinstance(value, bool):
            options[option_name(setting.name)] = "yes" if value else "no"
        elif value:
            options[option_name(setting.name)] = " ".join(value) if isinstance(value, tuple) else value
        elif isinstance(value, str):
            options[option_name(setting.name)] = value  # an empty value is kept: it may be an error
    return Settings.read(options, os.environ)


def _output(*forms: str) -> Callable[[_Command], _Command]:
    help_text = "Form of the output. Default: table on a terminal, json elsewhere."
    if "yaml" in forms:
        help_text += " yaml: the manifest to write, with the password; only with --dry-run."
    return click.option("--output", "-o", type=click.Choice(forms), help=help_text)


_namespace = click.argument("namespace")


def _address(default: str) -> Callable[[_Command], _Command]:
    text = f"Address of the proxy in the connection string: HOST, HOST:PORT or rediss://HOST:PORT. Default: {default}."
    return click.option("--address", metavar="ADDRESS", callback=_at, help=text)


_dry_run = click.option("--dry-run", is_flag=True, help="Write nothing. Print what would be written.")
_show_password = click.option("--show-password", is_flag=True, help="Print the new connection string, with its password.")


def _at(_: click.Context, __: click.Parameter, address: str | None) -> str | None:
    try:
        return None if address is None else parse_address(address)
    except ValueError as error:
        # The value is not repeated, because it may be a tenant's whole URL.
        raise click.UsageError(f"--address takes {error}") from None


def _index(_: click.Context, __: click.Parameter, value: str) -> int | None:
    if value != "auto" and not re.fullmatch(r"0|[1-9][0-9]{0,8}", value, re.ASCII):
        raise click.BadParameter(f"{value!r} is neither the number of a database nor auto")
    return None if value == "auto" else int(value)


def _ending(_: click.Context, __: click.Parameter, value: str) -> str:
    if value and not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,98}[a-z0-9])?", value, re.ASCII):
        raise click.BadParameter(f"{value!r} is not a name: use lower-case letters, digits and -")
    return value


_most_hours = 24 * 366
#: How many hours the old password stays valid after a rotation.
_GRACE_HOURS = 24
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


@click.group(context_settings=_CONTEXT, no_args_is_help=False)
@click.version_option(__version__, message="redisproxy %(version)s")
def command() -> None:
    """Manage the tenants of Redis Proxy for Containers.

    The command takes the settings of the proxy, as options or as environment variables. In a pod,
    it finds the Kubernetes API by the service account. Elsewhere, it reads KUBECONFIG or
    ~/.kube/config.

    Exit status: 0 if all is well, 1 if something is wrong or was refused, 2 if the command line or
    a setting is wrong.

    To start the proxy itself: twistd -n redisproxy. Shell completion and examples: docs/command.md.
    """


@command.command()
@_output("table", "json")
@_settings()
def check(output: str | None, **given: _Given) -> None:
    """Report what the proxy would find, and what is wrong.

    Checks the settings, the Kubernetes API, the secrets of each namespace, conflicts between
    namespaces, Redis and its sentinels. Writes nothing. Takes all options of the proxy.

    Exits with 1 if there is a problem. Warnings do not change the exit status.
    """
    settings = _read_settings(given)

    async def run(operator: Operator) -> int:
        # Made as twistd makes it, but not started. Settings that twistd refuses are refused here
        # too.
        proxy = ProxyService(settings, operator.reactor)
        found = await inspect.check(operator, proxy.embedded_backend)
        now = time.time()
        _show(output, render.check_document(found, now), partial(render.check_lines, found, now))
        return 1 if found.problems else 0

    _run(settings, run)


@command.command()
@_output("table", "json")
@_settings(*_WHERE)
def tenants(output: str | None, **given: _Given) -> None:
    """List the namespaces: databases, passwords, problems.

    Prints when each password expires, but no password. Does not connect to Redis: redisproxy check
    does.

    Exits with 1 if a secret or a namespace could not be read. Problems do not change the exit
    status.
    """
    settings = _read_settings(given)

    async def run(operator: Operator) -> int:
        found = await inspect.tenants(operator)
        now = time.time()
        _show(output, render.tenants_document(found, now), partial(render.tenants_lines, found, now))
        for warning in found.warnings:
            _complain(warning)
        return 0 if found.complete else 1

    _run(settings, run)


@command.command()
@_namespace
@click.option(
    "--index",
    default="auto",
    callback=_index,
    metavar="N|auto",
    help="Database to give. auto: the lowest free one, never 0. Default: auto.",
)
@click.option(
    "--databases",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="Number of databases in Redis, if the command cannot reach Redis. The command then does not see whether the "
    "database is empty.",
)
@click.option("--keep-data", is_flag=True, help="With --index: give a database that has keys. The tenant will see them.")
@_address(f"the address in the temporary secrets of NAMESPACE if it has any, else {ADDRESS}")
@_dry_run
@_show_password
@_output("table", "json", "yaml")
@_settings(*_WHERE, *_REDIS)
def enroll(
    namespace: str,
    output: str | None,
    index: int | None,
    databases: int | None,
    keep_data: bool,
    address: str | None,
    dry_run: bool,
    show_password: bool,
    **given: _Given,
) -> None:
    """Give NAMESPACE a database and a password.

    Creates the client secret of NAMESPACE. Never overwrites a secret.

    Needs the rights to list namespaces, to get the master secret, and to list, create and delete
    secrets. It deletes only the secret that it has just created, if another namespace got the same
    database at the same moment.
    """
    settings = _read_settings(given)
    _check_yaml(output, dry_run)
    if keep_data and index is None:
        raise click.UsageError("--keep-data needs --index N")

    async def run(operator: Operator) -> int:
        written = await operations.enroll(operator, namespace, index, address, databases, keep_data, dry_run)
        _show_written(
            output, written, dry_run, show_password, lambda: render.enrolled_lines(written, dry_run, show_password)
        )
        return 0

    _run(settings, run)


@command.command()
@_namespace
@click.option(
    "--hours", type=click.IntRange(1, _most_hours), required=True, metavar="N", help="Hours until the password expires."
)
@click.option(
    "--name", default="", callback=_ending, metavar="NAME", help="The secret is redis-secret-temp-NAME. Default: random."
)
@_address("the one in the tenant's own connection string")
@_dry_run
@_show_password
@_output("table", "json", "yaml")
@_settings(*_WHERE)
def temp(
    namespace: str,
    output: str | None,
    hours: int,
    name: str,
    address: str | None,
    dry_run: bool,
    show_password: bool,
    **given: _Given,
) -> None:
    """Give NAMESPACE a temporary password.

    Creates a secret redis-secret-temp-… in NAMESPACE. Its connection string is the tenant's own
    with another password. The sessions that use the password end when it expires.
    """
    settings = _read_settings(given)
    _check_yaml(output, dry_run)

    async def run(operator: Operator) -> int:
        written = await operations.temporary(operator, namespace, hours, name, address, dry_run)
        would = "would have" if dry_run else "has"
        done = f"{namespace} {would} a temporary password, valid for {hours} h from its creation"
        _show_written(
            output, written, dry_run, show_password, lambda: render.written_lines(written, done, dry_run, show_password)
        )
        return 0

    _run(settings, run)


@command.command()
@_namespace
@click.option(
    "--grace-hours",
    type=click.IntRange(0, _most_hours),
    metavar="N",
    help="Hours for which the old password stays valid. 0: it ends at once, and so do the sessions that use it. Default: "
    f"{_GRACE_HOURS}, or 0 with --revoke-all.",
)
@click.option(
    "--revoke-all",
    is_flag=True,
    help="End the old password and all temporary passwords of NAMESPACE at once: delete its temporary secrets.",
)
@_dry_run
@_show_password
@_output("table", "json", "yaml")
@_settings(*_WHERE)
def rotate(
    namespace: str,
    output: str | None,
    grace_hours: int | None,
    revoke_all: bool,
    dry_run: bool,
    show_password: bool,
    **given: _Given,
) -> None:
    """Give NAMESPACE a new password.

    The old password stays valid for --grace-hours, in a temporary secret, so that applications can
    be restarted one by one. Lists all other passwords that are still valid. Never overwrites a
    change that somebody else made at the same time.

    Exits with 1 if --revoke-all could not delete all temporary secrets.
    """
    settings = _read_settings(given)
    _check_yaml(output, dry_run)
    if revoke_all and grace_hours:
        raise click.UsageError("--revoke-all ends the old password at once, so --grace-hours can only be 0")
    if grace_hours is None:
        grace_hours = 0 if revoke_all else _GRACE_HOURS

    async def run(operator: Operator) -> int:
        rotated = await rotation.rotate(operator, namespace, grace_hours, dry_run, revoke_all)
        if output == "yaml":
            # The old password comes first, as when both are written.
            made = [rotated.written] if rotated.grace is None else [rotated.grace, rotated.written]
            _print_manifests([secret.manifest for secret in made], rotated.written.notes)
        else:
            document = render.rotated_document(rotated, dry_run, show_password)
            _show(output, document, lambda _: render.rotated_lines(rotated, dry_run, show_password))
        for text in rotated.unfinished:
            _complain(text)
        return 1 if rotated.unfinished else 0

    _run(settings, run)


@command.command()
@_namespace
@_dry_run
@_output("table", "json")
@_settings(*_WHERE)
def pause(namespace: str, output: str | None, dry_run: bool, **given: _Given) -> None:
    """Pause the tenant of NAMESPACE: nothing more of it goes to Redis.

    Its commands and log-ins wait, as while Redis is away. After --hold-seconds of the proxy, the
    clients that wait are closed, and so is who comes later. Commands that Redis has are still
    answered. Clients with a blocked command, a transaction or subscriptions are closed at once.

    Sets the annotation redisproxy/paused of the namespace. Needs the right to patch namespaces.
    """
    _set_paused(namespace, True, output, dry_run, given)


@command.command()
@_namespace
@_dry_run
@_output("table", "json")
@_settings(*_WHERE)
def resume(namespace: str, output: str | None, dry_run: bool, **given: _Given) -> None:
    """End the pause of NAMESPACE: what waits goes on.

    Removes the annotation redisproxy/paused of the namespace. Needs the right to patch namespaces.
    """
    _set_paused(namespace, False, output, dry_run, given)


def _set_paused(namespace: str, paused: bool, output: str | None, dry_run: bool, given: dict[str, _Given]) -> None:
    settings = _read_settings(given)

    async def run(operator: Operator) -> int:
        done = await pausing.set_paused(operator, namespace, paused, dry_run)
        _show(output, render.paused_document(done, dry_run), lambda _: render.paused_lines(done, dry_run))
        return 0

    _run(settings, run)


# Printing.


def _check_yaml(output: str | None, dry_run: bool) -> None:
    if output == "yaml" and not dry_run:
        raise click.UsageError("--output yaml needs --dry-run: it prints the manifest to write, password included")


def _show_written(
    output: str | None,
    written: operations.Written,
    dry_run: bool,
    show_password: bool,
    lines: Callable[[], Iterable[str]],
) -> None:
    """lines: makes the text for people."""
    if output == "yaml":
        _print_manifests([written.manifest], written.notes)
        return
    document = render.written_document(written, dry_run, show_password)
    _show(output, document, lambda _: lines())


def _print_manifests(manifests: Sequence[Mapping[str, Any]], notes: Iterable[str]) -> None:
    """Prints YAML documents. The notes go to standard error."""
    _print([yaml.safe_dump_all([dict(manifest) for manifest in manifests], sort_keys=False).rstrip()])
    for note in notes:
        _complain(note)


def _show(output: str | None, document: dict[str, object], lines: Callable[[int], Iterable[str]]) -> None:
    """Prints a result. output: "table" or "json"; None for the default.

    lines: makes the text for a terminal with this many columns. The text is made printable, because
    manifests can have any names in them.
    """
    form = output or ("table" if sys.stdout.isatty() else "json")
    if form == "json":
        _print([json.dumps(document, indent=2)])
    else:
        _print(map(printable, lines(shutil.get_terminal_size((120, 24)).columns)))


def _print(lines: Iterable[str]) -> None:
    try:
        for line in lines:
            click.echo(line)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader closed the pipe. Python would report the same error again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(text: str) -> None:
    click.echo(f"redisproxy: {printable(' '.join(text.split()))}", err=True)


# Running.


def _run(settings: Settings, run: Callable[[Operator], Coroutine[Any, Any, int]]) -> None:
    """Runs the reactor until `run` is done. Raises SystemExit with the status."""
    # The command reports errors itself. urllib3 would warn of each attempt, and Twisted log each
    # connection.
    quiet_libraries()
    globalLogBeginner.beginLoggingTo([LogPublisher()], discardBuffer=True, redirectStandardIO=False)

    async def to_the_end(reactor: _reactor.IProxyReactor) -> None:
        # The reactor's own handlers would exit with status 0, and only after the thread that waits
        # for the API has ended.
        for number in (signal.SIGINT, signal.SIGTERM):
            reactor.callWhenRunning(signal.signal, number, signal.SIG_DFL)
        operator = Operator(reactor, settings, source_of(settings))
        try:
            status = await run(operator)
        except (Refused, WriteError) as error:
            _complain(str(error))
            status = 1
        except SettingsError as error:
            _complain(str(error))
            status = 2
        except Exception as error:
            # The text of an unexpected exception may quote anything. Its type and position are
            # enough for a report.
            frame = error.__traceback__
            while frame is not None and frame.tb_next is not None:
                frame = frame.tb_next
            where = "" if frame is None else f" at {frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}"
            _complain(f"a bug, please report it: {type(error).__name__}{where}")
            status = 1
        if status:
            raise SystemExit(status)

    task.react(lambda reactor: defer.Deferred.fromCoroutine(to_the_end(reactor)))


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of the console script. Raises SystemExit with the status."""
    try:
        status = command.main(arguments, prog_name="redisproxy", standalone_mode=False)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        path = "redisproxy" if context is None else context.command_path
        _complain(f"{error.format_message().rstrip('.')}; see {path} --help")
        raise SystemExit(error.exit_code) from None
    except SettingsError as error:
        _complain(str(error))
        raise SystemExit(2) from None
    except click.Abort:
        raise SystemExit(130) from None
    raise SystemExit(status or 0)
