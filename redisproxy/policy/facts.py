"""Facts about Redis's commands, from the connected server's answer to COMMAND, or built in.

Owns facts, not decisions (`policy` decides). Source: the COMMAND reply of Redis 5 to 8 and Valkey.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .builtin import FACTS

#: The facts that decisions depend on. Other words of a reply are not kept.
WORDS = frozenset(("keys", "admin", "dangerous", "pubsub", "scripting", "blocking"))


def named(text: str) -> frozenset[bytes]:
    """The names in a text of this package. text: names separated by spaces."""
    return frozenset(text.encode().split())


@dataclass(frozen=True, slots=True)
class Command:
    """One command, or one subcommand of a container.

    name: upper case, ``CONTAINER|SUBCOMMAND``; facts: some of WORDS.
    """

    name: bytes
    facts: frozenset[str]
    subcommands: tuple[Command, ...] = ()


def _text(value: object) -> str:
    """A word of a reply as str. value: bytes from a bulk string, or str from a simple string."""
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def _words(value: object) -> set[str]:
    return {_text(word).removeprefix("@") for word in value} if isinstance(value, list | set | tuple) else set()


def _command(entry: Sequence[object]) -> Command:
    words = _words(entry[2]) | (_words(entry[6]) if len(entry) > 6 else set())
    if entry[3] != 0 or "movablekeys" in words:
        words.add("keys")
    subcommands = entry[9] if len(entry) > 9 and isinstance(entry[9], list) else []
    return Command(
        _text(entry[0]).upper().encode(), frozenset(words & WORDS), tuple(_command(subcommand) for subcommand in subcommands)
    )


def parse(reply: Iterable[Sequence[object]]) -> Mapping[bytes, Command]:
    """The commands in an answer to COMMAND, by name. Raises ValueError if reply is no such answer.

    Servers before Redis 7 list no subcommands: their containers get the built-in ones. Servers
    before Redis 6 list no categories: their commands get the built-in facts as well.
    """
    known = builtin()
    commands = {}
    try:
        for entry in reply:
            command = _command(entry)
            if own := known.get(command.name):
                facts = command.facts if len(entry) > 6 else command.facts | own.facts
                command = Command(command.name, facts, command.subcommands or own.subcommands)
            commands[command.name] = command
    except (IndexError, TypeError, AttributeError):
        raise ValueError("not an answer to COMMAND") from None
    if b"GET" not in commands:
        raise ValueError("an answer to COMMAND without GET")
    return commands


def builtin() -> Mapping[bytes, Command]:
    """The commands of `builtin.FACTS`, by name."""
    flat = {name.upper().encode(): frozenset(facts.split()) for facts, names in FACTS for name in names.split()}
    subcommands: dict[bytes, list[Command]] = {}
    for name, facts in flat.items():
        if b"|" in name:
            subcommands.setdefault(name.split(b"|")[0], []).append(Command(name, facts))
    return {name: Command(name, facts, tuple(subcommands.get(name, ()))) for name, facts in flat.items() if b"|" not in name}


def without(commands: Mapping[bytes, Command], names: Collection[bytes]) -> Mapping[bytes, Command]:
    """The commands except those named, and except containers that have no other subcommands.

    names: as in `Command`.
    """
    if not names:
        return commands
    remaining = {}
    for name, command in commands.items():
        subcommands = tuple(subcommand for subcommand in command.subcommands if subcommand.name not in names)
        # Drop a container that lost all subcommands: it would be taken for a plain command.
        if name not in names and (subcommands or not command.subcommands):
            remaining[name] = replace(command, subcommands=subcommands)
    return remaining
