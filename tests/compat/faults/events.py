"""What a client program prints, and what follows from it for one cell of the table.

A program prints a line for each event, and nothing is kept elsewhere. So a program that dies in the
middle still has a result. A line is:

    TIME ROLE CLIENT EVENT [REST]

TIME is Unix time in seconds. ROLE is what the client does, CLIENT its number. The events:

- ``ok [VALUE]``: a command succeeded. VALUE: what INCR returned; each client has a counter of its
  own.
- ``error TEXT``: the application saw an error.
- ``added ITEM``: Redis has confirmed that the item is in the queue.
- ``did ITEM``: a consumer or a worker got the item.
- ``published ITEM``, ``heard ITEM``: the same for messages.
- ``note TEXT``: for people.

Does not start anything.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

#: Seconds. A client without a success in so long a time before the end is dead.
DEAD_AFTER = 4.0
#: The number of lost items that a result names.
SHOWN = 10
#: Events that show that a client works.
SUCCESSES = frozenset(["ok", "added", "did", "published", "heard"])
_LINE = re.compile(r"(\d+\.\d+) ([a-z]+) (\d+) (ok|error|added|did|published|heard|note)(?: (.*))?", re.DOTALL)


class Event(NamedTuple):
    """One line of a program. time: Unix time in seconds."""

    time: float
    role: str
    client: int
    kind: str
    rest: str


def parse(line: str) -> Event | None:
    """Returns the event of a line, or None: libraries print lines of their own."""
    found = _LINE.fullmatch(line.rstrip("\r\n"))
    if found is None:
        return None
    time, role, client, kind, rest = found.groups()
    return Event(float(time), role, int(client), kind, rest or "")


def working(events: Iterable[Event]) -> set[tuple[str, int]]:
    """Returns the clients, by role and number, that have succeeded at least once."""
    return {(event.role, event.client) for event in events if event.kind in SUCCESSES}


@dataclass
class Outcome:
    """What the clients of one program saw of one fault."""

    tried: int = 0
    failed: int = 0
    #: Seconds from the begin of the fault to the last error. None: no error.
    last_error: float | None = None
    #: Seconds: the longest time in which one of the clients that send plain commands had no
    #: success.
    longest_wait: float = 0.0
    #: Confirmed items that nobody got, confirmed INCRs that the counter does not have.
    lost: int = 0
    #: Items that were got once too often, INCRs that no client knows of and no error explains.
    twice: int = 0
    #: INCRs that were under way when the fault began, or were the next command. A library that
    #: repeats a command after a time-out may do as many twice.
    under_way: int = 0
    #: Messages that were published and that a subscriber did not hear, summed up over subscribers.
    missed: int = 0
    #: Clients that did not work any more at the end, as ``role number``.
    dead: list[str] = field(default_factory=list)
    #: The first of the lost items: when each was confirmed, in seconds from the begin of the fault.
    lost_items: dict[str, float] = field(default_factory=dict)
    #: By role and text: how many errors.
    errors: dict[str, int] = field(default_factory=dict)


def outcome(events: Iterable[Event], clients: Iterable[tuple[str, int]], began: float, ended: float) -> Outcome:
    """Returns what the events say.

    - clients: role and number of each client that has to be there.
    - began, ended: Unix times. When the fault began, and when the program was asked to end; later
      errors do not count.
    """
    events = sorted(events)
    found = Outcome()
    errors: Counter[str] = Counter()
    latest: dict[tuple[str, int], float] = {}
    for event in events:
        # A confirmed item is not one more command: it follows from the command that confirmed it.
        if event.kind in {"ok", "error", "added", "published"} and event.time <= ended:
            found.tried += 1
        if event.kind == "error" and event.time <= ended:
            found.failed += 1
            errors[f"{event.role}: {event.rest}"] += 1
            if event.time >= began:
                found.last_error = round(event.time - began, 1)
        if event.kind in SUCCESSES and event.time <= ended:
            client = (event.role, event.client)
            if event.role == "command" and event.time >= began:
                waited = event.time - max(began, latest.get(client, began))
                found.longest_wait = max(found.longest_wait, waited)
            latest[client] = event.time
    for client in sorted(clients):
        last = latest.get(client)
        if client[0] == "command":
            found.longest_wait = max(found.longest_wait, ended - max(began, last or began))
        if last is None or last < ended - DEAD_AFTER:
            found.dead.append(f"{client[0]} {client[1]}")
    found.longest_wait = round(found.longest_wait, 1)
    found.errors = dict(errors.most_common())
    _counters(events, began, found)
    _items(events, began, found)
    _messages(events, clients, found)
    return found


def _counters(events: list[Event], began: float, found: Outcome) -> None:
    """Compares what INCR returned last with how often INCR succeeded. After an error the client
    cannot know whether Redis ran the command, so as many more are no fault.
    """
    answered: set[tuple[str, int]] = set()
    confirmed: Counter[tuple[str, int]] = Counter()
    failed: Counter[tuple[str, int]] = Counter()
    value: dict[tuple[str, int], int] = {}
    for event in events:
        client = (event.role, event.client)
        increment = event.kind == "ok" and event.rest.isdecimal()
        if event.time >= began and event.kind in {"ok", "error"} and client not in answered:
            answered.add(client)
            found.under_way += increment
        if increment:
            confirmed[client] += 1
            value[client] = int(event.rest)
        elif event.kind == "error":
            failed[client] += 1
    for client, last in value.items():
        found.lost += max(0, confirmed[client] - last)
        found.twice += max(0, last - confirmed[client] - failed[client])


def _items(events: list[Event], began: float, found: Outcome) -> None:
    """Compares the items that were added with those that consumers got: a program has one queue."""
    added = {event.rest: event.time for event in events if event.kind == "added"}
    did = Counter(event.rest for event in events if event.kind == "did")
    lost = [item for item in added if item not in did]
    found.lost += len(lost)
    found.lost_items = {item: round(added[item] - began, 1) for item in lost[:SHOWN]}
    found.twice += sum(count - 1 for count in did.values())


def _messages(events: list[Event], clients: Iterable[tuple[str, int]], found: Outcome) -> None:
    published = [event.rest for event in events if event.kind == "published"]
    heard: defaultdict[int, set[str]] = defaultdict(set)
    first: dict[int, float] = {}
    for event in events:
        if event.kind == "heard":
            heard[event.client].add(event.rest)
            first.setdefault(event.client, event.time)
    # Messages from before the first one that a subscriber heard may be older than its subscription.
    when = {event.rest: event.time for event in events if event.kind == "published"}
    for number in {number for role, number in clients if role == "subscriber"}:
        since = first.get(number, 0.0)
        found.missed += sum(when[item] >= since and item not in heard[number] for item in published)
