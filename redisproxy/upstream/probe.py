"""Asks a Redis what it is, over a connection that somebody else made.

Owns the asking: all questions in one write, so that Redis answers them in one turn and no tenant's
script runs in between; and only those again that it did not answer. What the answers mean is
`policy.probing`'s.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from .. import messages
from ..net.reactor import IConnectingReactor
from ..policy import probing
from ..policy.facts import without
from ..policy.probing import Facts, Server
from ..resp.value import Answer, ErrorReply
from ..tenants.model import BackendAddress
from .client import Word, ask_once
from .endpoint import endpoint_for

#: Servers (run ids) of which is remembered what they told: those that a failover leads to and back
#: from.
_REMEMBERED = 8
#: Times that the names which Redis does not know are left out: what is allowed instead of them may
#: be another name.
_ROUNDS = 3
_INFO = tuple(("INFO", section) for section in ("server", "persistence", "replication"))

#: Sends commands in one write: see `client.Connection.ask_all`.
AskAll = Callable[[Iterable[Sequence[Word]]], Awaitable[list[Answer | ErrorReply]]]
#: The commands that a tenant's user needs the right to, on a server: see `policy.probing.needed`.
Rights = Callable[[Server], frozenset[bytes]]


class Memory:
    """What each server told so far, by its run id; by its address where it does not tell that."""

    def __init__(self) -> None:
        self._facts: dict[str, Facts] = {}

    def of(self, key: str) -> Facts:
        """What is remembered of it."""
        return self._facts.get(key, Facts())

    def keep(self, key: str, facts: Facts) -> None:
        """Remembers it, as the newest one."""
        self._facts.pop(key, None)
        self._facts[key] = facts
        while len(self._facts) > _REMEMBERED:
            del self._facts[next(iter(self._facts))]


class Probe:
    """What the server at the other end of one connection is.

    ask_all: sends commands over it; address: of the server, for the memory; acl: whether ACL users
    are wanted there; rights: what they need; again: whether it is asked for these users alone,
    since it told the rest over the same connection.
    """

    def __init__(
        self, ask_all: AskAll, address: str, memory: Memory, acl: bool, rights: Rights, again: bool = False
    ) -> None:
        self._ask_all = ask_all
        self._address = address
        self._memory = memory
        self._acl = acl
        self._rights = rights
        # Which server answers, for the memory.
        self._key = ""
        # COMMAND takes long to read.
        self._pending = [probing.ACL, probing.ACL_DATABASES] if again else list(probing.questions(acl))
        #: None: it has not told enough yet
        self.server: Server | None = None
        #: what its operator has to know of it, or None
        self.state: messages.Text | None = None
        #: what has to be asked again, by name, and why
        self.again: dict[str, ErrorReply] = {}
        #: whether it lets nobody make tenants' users now, though it did before
        self.users_refused = False

    async def ask(self) -> None:
        """Asks, once, what is not known yet. Raises ControlError where the connection is lost."""
        words = [*_INFO, *(question.words for question in self._pending), *([probing.CLEAN_UP] if self._acl else [])]
        replies = await self._ask_all(words)
        infos = replies[: len(_INFO)]
        failed = {" ".join(words): info for words, info in zip(_INFO, infos, strict=True) if isinstance(info, ErrorReply)}
        if failed:
            # Which server it is that answered the others is not known.
            self.again = failed
            return
        server, persistence, replication = map(probing.fields, infos)
        self.state = _state(server, persistence)
        key = server.get("run_id") or self._address
        if self._key not in ("", key):
            # Something before Redis led the connection elsewhere.
            self._pending = list(probing.questions(self._acl))
            self._key, self.server = key, None
            self.again = {"INFO server": ErrorReply(messages.REDIS_OTHER_SERVER)}
            return
        self._key = key
        answers = dict(zip(self._pending, replies[len(_INFO) :], strict=False))
        facts, again = probing.learn(self._memory.of(key), answers, lenient=not self._acl)
        self._memory.keep(key, facts)
        self.again = {question.name: error for question, error in again.items()}
        self._pending = list(again)
        info = {**server, "role": replication.get("role", "")}
        found = probing.conclude(info, facts, self._acl)
        if found is not None and found.acl:
            facts, refused = await self._try_rights(found, facts)
            self._memory.keep(key, facts)
            if refused is not None:
                self.again[probing.RIGHTS] = refused
            found = probing.conclude(info, facts, self._acl)
            if found is not None and refused is not None and not self._rights(found) <= facts.fit:
                found = None
        self.users_refused = self._acl and facts.has_acl and not {probing.ACL.name, probing.RIGHTS}.isdisjoint(self.again)
        self.server = found or self.server

    async def _try_rights(self, server: Server, facts: Facts) -> tuple[Facts, ErrorReply | None]:
        """Which commands a tenant's user can have the right to, and why that could not be found
        out, if so.

        A name that Redis does not know, as one of the built-in table where it does not tell its own
        commands, makes it refuse all rules of a user. So it is left out of these, and of what
        tenants may do.
        """
        commands = probing.known_commands(facts)
        unfit: frozenset[bytes] = frozenset()
        for _ in range(_ROUNDS):
            needed = self._rights(replace(server, commands=without(commands, unfit)))
            refused = await self._try(needed)
            if refused is None:
                return replace(facts, fit=needed, unfit=unfit), None
            if probing.unfit_name(refused) is None:
                break
            names = sorted(needed)
            replies = await self._ask_all([*(probing.rights_words([name]) for name in names), probing.CLEAN_UP])
            for name, reply in zip(names, replies, strict=False):
                if isinstance(reply, ErrorReply):
                    if probing.unfit_name(reply) != name:
                        return facts, reply
                    unfit |= {name}
        return facts, refused

    async def _try(self, names: frozenset[bytes]) -> ErrorReply | None:
        """Why no user can have the right to all of them; None: one can."""
        reply, _ = await self._ask_all([probing.rights_words(sorted(names)), probing.CLEAN_UP])
        return reply if isinstance(reply, ErrorReply) else None


async def calls_itself_replica(
    reactor: IConnectingReactor, address: BackendAddress, timeout: float, ca_file: Path | None
) -> bool:
    """Whether what the address leads to now does. For timeout and what is raised see
    `client.ask_once`.
    """
    endpoint = endpoint_for(reactor, address, timeout, ca_file)
    info = await ask_once(reactor, address, endpoint, timeout, lambda connection: connection.ask("INFO", "replication"))
    return probing.is_replica(probing.fields(info))


def _state(server: Mapping[str, str], persistence: Mapping[str, str]) -> messages.Text | None:
    """What is out of the ordinary, from two sections of INFO; None: nothing."""
    mode = server.get("server_mode", server.get("redis_mode"))  # Valkey calls it so
    if mode == "sentinel":
        return messages.REDIS_IS_SENTINEL()
    if mode == "cluster":
        return messages.REDIS_IS_CLUSTER()
    if persistence.get("loading") == "1":
        return messages.REDIS_IS_LOADING()
    return None
