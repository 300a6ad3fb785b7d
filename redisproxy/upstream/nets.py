"""Finds out which limits of its own Redis has. What they do not stop, one tenant can fill.

Owns the questions, and what follows from the answers. The proxy asks again now and then, because an
operator sets these limits while Redis runs. Redis may keep them secret: then nothing follows.
"""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from .. import bounds, messages
from ..messages import Text
from ..settings import Settings
from .client import Commands, ControlError, ReplyError
from .regular import RegularQuestions

_NAMES = ("maxmemory", "maxmemory-clients", "maxclients", "client-output-buffer-limit")


@dataclass(frozen=True)
class Nets:
    """Redis's own limits. None: it does not say, or has no such setting.

    memory: bytes of the keys and of all else; 0: no limit.
    clients_memory: what it keeps for all clients together, in Redis's words; "0": no limit.
    clients: connections.
    output: bytes of unread replies at which it closes a connection; 0: no limit.
    """

    memory: int | None = None
    clients_memory: str | None = None
    clients: int | None = None
    output: int | None = None


async def ask(redis: Commands) -> Nets:
    """Asks Redis. Raises ControlError if it does not answer."""
    memory, clients_memory, clients, output = [await _value(redis, name) for name in _NAMES]
    return Nets(_number(memory), clients_memory, _number(clients), _output_limit(output))


async def _value(redis: Commands, name: str) -> str | None:
    """The value of a setting; None: Redis does not say."""
    try:
        answer = await redis.ask("CONFIG", "GET", name)
    except ReplyError:
        return None
    match answer:
        case [bytes(), bytes(value)]:
            return value.decode("ascii", "replace")
        case _:
            return None


def missing(nets: Nets, address: str, multiplexed: bool, connections: int) -> list[Text]:
    """What should be known about these limits.

    address: of Redis; multiplexed: whether sessions have connections in common; connections: how
    many the proxy may need.
    """
    found = []
    if nets.memory == 0:
        found.append(messages.NO_MAXMEMORY(address=address))
    if nets.output and multiplexed and nets.output < bounds.LOW_OUTPUT_LIMIT_BYTES:
        found.append(messages.OUTPUT_LIMIT(address=address, size=f"{nets.output:,}"))
    if nets.output == 0 and nets.clients_memory in (None, "0"):
        found.append(messages.NO_OUTPUT_LIMIT(address=address))
    if nets.clients is not None and nets.clients <= connections:
        found.append(messages.LOW_MAXCLIENTS(address=address, clients=f"{nets.clients:,}", needed=f"{connections:,}"))
    return found


def connections_needed(settings: Settings, tenants: int) -> int:
    """How many connections one replica has while each tenant is active and no session blocks: see
    docs/sizing.md. settings: of one process.
    """
    if settings.connections == "dedicated":
        return settings.processes * settings.max_workers
    return settings.processes * (3 + settings.base_workers + 4 * tenants)


class NetsService(RegularQuestions):
    """Asks once in NETS_SECONDS. control: the control connection."""

    name = "nets"
    doing = "asking Redis for its limits"

    def __init__(self, clock: IReactorTime, control: Commands) -> None:
        super().__init__(clock, control, bounds.NETS_SECONDS)
        #: by the latest answer
        self.nets = Nets()

    async def _ask(self) -> None:
        try:
            self.nets = await ask(self._control)
        except ControlError:
            return  # the connection was lost, which the control connection logs


def _number(value: str | None) -> int | None:
    return int(value) if value is not None and value.isdigit() else None


def _output_limit(value: str | None) -> int | None:
    """The smaller limit for normal clients. value: each class with its two limits and seconds."""
    words = (value or "").split()
    if "normal" not in words:
        return None
    at = words.index("normal")
    return min((int(word) for word in words[at + 1 : at + 3] if word.isdigit() and int(word)), default=0)
