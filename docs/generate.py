"""Writes the generated parts of the pages settings, command, troubleshoot and tenants: `make docs`.

A generated part stands between ``<!-- make docs: WHAT -->`` and ``<!-- end -->``. WHAT is one of:

- ``settings NAME …``: a table of these settings, made from the table in redisproxy/settings.py. A
  name is that of a field of Settings. Each setting is in one of these tables.
- ``command NAME``: the usage and the options of a subcommand, made from redisproxy/cli/main.py.
- ``messages WORD …``: the messages whose codes begin with one of these words, made from
  redisproxy/messages.py. Each message is in one of these tables.
- ``close-reasons``: the reasons why connections of clients end, from there, too;
- ``clients``: the client libraries that were run straight and through the proxy, from the results
  of ``tests/compat/run-sessions --write``;
- ``client-differences``: what differed, with the reasons, from tests/compat/sessions/reasons.yaml.

Everything else on these pages is written by hand. tests/test_docs.py fails if a generated part is
out of date.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import click

from redisproxy import messages
from redisproxy.cli.main import command
from redisproxy.messages import ClientError, CloseReason, Message
from redisproxy.settings import Settings, SettingsError, default_text, option_name
from tests.compat.sessions import outcomes

DOCS = Path(__file__).parent
_PAGES = ("settings.md", "command.md", "troubleshoot.md", "tenants.md")
_PART = re.compile(r"(<!-- make docs: ([^>]*) -->\n).*?(?=<!-- end -->)", re.DOTALL)
_SETTINGS = {setting.name: setting for setting in fields(Settings)}
#: Fields whose content is a text of its own, and is left out.
_TEXTS = frozenset(
    """
    detail error fault how limit line more named names nearest others problem reason
    scripts state status text users what who why
    """.split()  # noqa: SIM905 - a list of words
)
#: Fields that are numbers.
_NUMBERS = frozenset(
    """
    all busy commands count credentials cut_off databases delay index kib last left_out
    milliseconds most needed number own pid refused seconds served serving sessions size
    tenants waiting wanted worker
    """.split()  # noqa: SIM905 - a list of words
)
_FIELD = re.compile(r"\{(\w+)[^{}]*\}")


def pages() -> dict[Path, str]:
    """The pages with generated parts, and what each has to be. Raises ValueError if a part names
    something unknown, or if a setting is in no table, or in two.
    """
    texts = {path: path.read_text() for path in (DOCS / name for name in _PAGES)}
    parts = [found[2].split() for text in texts.values() for found in _PART.finditer(text)]
    names = sorted(name for kind, *names in parts if kind == "settings" for name in names)
    if names != sorted(_SETTINGS):
        wrong = [name for name in {*names, *_SETTINGS} if names.count(name) != 1 or name not in _SETTINGS]
        raise ValueError(f"settings that are not in one table of docs/settings.md, or are none: {', '.join(sorted(wrong))}")
    commands = sorted(" ".join(names) for kind, *names in parts if kind == "command")
    if commands != sorted(command.commands):
        raise ValueError(f"docs/command.md has {commands}, the command has {sorted(command.commands)}")
    words = [name for kind, *names in parts if kind == "messages" for name in names]
    codes = [message.code for _, message in messages.all_messages() if not isinstance(message, CloseReason)]
    if lost := sorted({code for code in codes if words.count(code.split("-")[0]) != 1}):
        raise ValueError(f"messages that are not in one table of docs/troubleshoot.md: {', '.join(lost)}")
    return {path: _PART.sub(lambda part: part[1] + _made(*part[2].split()), text) for path, text in texts.items()}


def _made(kind: str, *names: str) -> str:
    if kind == "settings":
        return _table(("variable and option", "default", "what it does"), map(_setting_row, names))
    if kind == "command":
        return _subcommand(*names)
    if kind == "messages":
        return _messages(*names)
    if kind == "close-reasons":
        return _close_reasons()
    if kind == "clients":
        return _clients()
    if kind == "client-differences":
        return _client_differences()
    known = "settings, command, messages, close-reasons, clients or client-differences"
    raise ValueError(f"a part of docs/ is {kind!r}: it can be {known}")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    first, *others = [[cell.replace("|", r"\|") for cell in row] for row in (head, *rows)]
    lines = [
        "| " + "".join(f"{cell} | " if cell else "| " for cell in row) for row in (first, ["---"] * len(first), *others)
    ]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _setting_row(name: str) -> tuple[str, str, str]:
    setting = _SETTINGS[name]
    option, takes = option_name(name), setting.metadata["takes"]
    options = f"`--{option} {takes}`" if takes else f"`--{option}`, `--no-{option}`"
    value, _, unit = default_text(setting).partition(" ")
    default = f"`{value}` {unit}".rstrip() if value else ""
    return f"`{setting.metadata['variable']}`<br>{options}", default, setting.metadata["doc"] + _range(option, takes)


def _range(option: str, takes: str) -> str:
    """The range of a number, in the words of the error for text that is none."""
    if takes not in ("N", "BYTES", "SECONDS", "PORT"):
        return ""
    try:
        Settings.read({option: "none"}, {})
    except SettingsError as error:
        least, most = re.search(r"from ([\d.]+) to ([\d.]+)", str(error)).groups()
        return f" From {least} to {int(most):,}."
    raise ValueError(f"--{option} takes any text, but its usage is {takes}")


def _subcommand(name: str) -> str:
    subcommand = command.commands[name]
    arguments = [parameter.human_readable_name for parameter in subcommand.params if isinstance(parameter, click.Argument)]
    options = [parameter for parameter in subcommand.params if isinstance(parameter, click.Option)]
    own = [_option_row(option) for option in options if option.name not in _SETTINGS]
    names = [f"`--{option_name(option.name)}`" for option in options if option.name in _SETTINGS]
    taken = "It also takes all [settings](settings.md) of the proxy, as options or as variables."
    if len(names) < len(_SETTINGS):
        taken = f"It also takes these [settings](settings.md), as options or as variables: {', '.join(names)}."
    usage = " ".join(["redisproxy", name, "[OPTIONS]", *arguments])
    wrapped = textwrap.fill(taken, 100, break_long_words=False, break_on_hyphens=False)
    return f"Usage: `{usage}`\n\n{_table(('option', 'what it does'), own)}\n{wrapped}\n"


def _option_row(option: click.Option) -> tuple[str, str]:
    kind = option.type
    takes = "|".join(kind.choices) if isinstance(kind, click.Choice) else "" if option.is_flag else option.metavar
    names = ", ".join(f"`{one}`" for one in sorted(option.opts, key=len))
    text = option.help
    if isinstance(kind, click.IntRange):
        text += f" From {kind.min} to {kind.max:,}."
    if option.required:
        text += " Required."
    return (f"{names[:-1]} {takes}`" if takes else names), text


def _messages(*parts: str) -> str:
    """A table of the messages whose codes begin with one of these words."""
    rows = []
    for _, message in messages.all_messages():
        if message.code.split("-")[0] in parts and not isinstance(message, CloseReason):
            mark = "-" if isinstance(message, ClientError) else ""
            rows.append((f"`{mark}{message.example or _shown(message.text)}`", _what_to_do(message), f"`{message.code}`"))
    return _table(("it says", "what to do", "code"), rows)


def _close_reasons() -> str:
    rows = [
        (f"`{message.code}`", message.text, _what_to_do(message))
        for _, message in messages.all_messages()
        if isinstance(message, CloseReason)
    ]
    return _table(("close reason", "what it means", "what to do"), rows)


def _clients() -> str:
    """A row for each client library that was run."""
    seen = _seen()
    rows = []
    for library, result in outcomes.read().items():
        numbers = [str(number) for number, (_, libraries) in enumerate(seen, 1) if library in libraries]
        same = result["steps"] - len(result["differ"])
        rows.append((f"{library} {result['version']}", str(result["steps"]), str(same), ", ".join(numbers)))
    return _table(("client", "steps straight to Redis", "the same through the proxy", "differences"), rows)


def _client_differences() -> str:
    """A row for each difference that a library showed."""
    rows = [
        (str(number), reason["what"], ", ".join(libraries), reason["why"], reason["instead"])
        for number, (reason, libraries) in enumerate(_seen(), 1)
    ]
    return _table(("", "what differs", "seen with", "why", "the way around"), rows)


def _seen() -> list[tuple[dict, list[str]]]:
    """The reasons of reasons.yaml that libraries showed, each with these libraries. Raises
    ValueError if a difference has no reason.
    """
    listed = outcomes.reasons()
    libraries: list[list[str]] = [[] for _ in listed]
    for library, result in outcomes.read().items():
        for reason in [outcomes.known(library, step, listed) for step in result["differ"]]:
            named = libraries[listed.index(reason)]
            named += [] if library in named else [library]
    return [(reason, named) for reason, named in zip(listed, libraries, strict=True) if named]


def _shown(text: str) -> str:
    """A message's text with capitals, or …, in place of its fields."""
    return _FIELD.sub(lambda field: _place(field[1]), text)


def _place(name: str) -> str:
    return "…" if name in _TEXTS else "N" if name in _NUMBERS else name.upper()


def _what_to_do(message: Message) -> str:
    parts = [message.remedy]
    if not message.remedy:
        follows = _FIELD.search(message.text) and any(name in _TEXTS for name in _FIELD.findall(message.text))
        ordinary = isinstance(message, CloseReason) or getattr(message, "level", "") in ("info", "debug")
        parts = [
            "Fix the command that the application sends."
            if isinstance(message, ClientError)
            else "Nothing to do."
            if ordinary
            else "See the reason that it gives."
            if follows
            else "The proxy tries again by itself."
        ]
    if message.runbook:
        parts.append(f"[Runbook](runbooks/RedisProxy{message.runbook}.md).")
    if message.see:
        parts.append(f"[More]({message.see}).")
    return " ".join(parts)


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
