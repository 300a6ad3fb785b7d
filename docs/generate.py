"""Writes the generated parts of docs/settings.md and docs/command.md: `make docs`.

A generated part stands between ``<!-- make docs: WHAT -->`` and ``<!-- end -->``. WHAT is one of:

- ``settings NAME …``: a table of these settings, made from the table in redisproxy/settings.py. A
  name is that of a field of Settings. Each setting is in one of these tables.
- ``command NAME``: the usage and the options of a subcommand, made from redisproxy/cli/main.py.

Everything else on both pages is written by hand. tests/test_docs.py fails if a generated part is
out of date.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import click

from redisproxy.cli.main import command
from redisproxy.settings import Settings, SettingsError, default_text, option_name

DOCS = Path(__file__).parent
_PART = re.compile(r"(<!-- make docs: ([^>]*) -->\n).*?(?=<!-- end -->)", re.DOTALL)
_SETTINGS = {setting.name: setting for setting in fields(Settings)}


def pages() -> dict[Path, str]:
    """The pages with generated parts, and what each has to be. Raises ValueError if a part names
    something unknown, or if a setting is in no table, or in two.
    """
    texts = {path: path.read_text() for path in (DOCS / "settings.md", DOCS / "command.md")}
    parts = [found[2].split() for text in texts.values() for found in _PART.finditer(text)]
    names = sorted(name for kind, *names in parts if kind == "settings" for name in names)
    if names != sorted(_SETTINGS):
        wrong = [name for name in {*names, *_SETTINGS} if names.count(name) != 1 or name not in _SETTINGS]
        raise ValueError(f"settings that are not in one table of docs/settings.md, or are none: {', '.join(sorted(wrong))}")
    commands = sorted(" ".join(names) for kind, *names in parts if kind == "command")
    if commands != sorted(command.commands):
        raise ValueError(f"docs/command.md has {commands}, the command has {sorted(command.commands)}")
    return {path: _PART.sub(lambda part: part[1] + _made(*part[2].split()), text) for path, text in texts.items()}


def _made(kind: str, *names: str) -> str:
    if kind == "settings":
        return _table(("variable and option", "default", "what it does"), map(_setting_row, names))
    if kind == "command":
        return _subcommand(*names)
    raise ValueError(f"a part of docs/ is {kind!r}: it can be settings or command")


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


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
