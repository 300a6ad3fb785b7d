"""Asks a Redis what it is, over a connection that the caller made.

Owns what is sent. All questions go in one write, so that Redis answers them in one turn of its
loop, and no tenant's script runs in between. Only unanswered questions are asked again.
`policy.probing` decides what the answers mean.
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

#: Servers (run ids) whose answers are remembered: the ones between which failovers may go back and
#: forth.
_REMEMBERED = 8
#: Rounds in which command names are left out that Redis does not know. The policy may then allow
#: another name instead, which Redis may not know either.
_ROUNDS = 3
_INFO = tuple(("INFO", section) for section in ("server", "persistence", "replication"))

#: Sends commands in one write: see `client.Connection.ask_all`.
AskAll = Callable[[Iterable[Sequence[Word]]], Awaitable[list[Answer | ErrorReply]]]
#: Gives the commands that a tenant's user needs the right to, on a server: see
#: `policy.probing.needed`.
Rights = Callable[[Server], frozenset[bytes]]


class Memory:
    """What each server has answered so far, by its run id; by its address if it has not said its
    run id.
    """

    def __init__(self) -> None:
        self._facts: dict[str, Facts] = {}

    def of(self, key: str) -> Facts:
        """Returns what is remembered of a server."""
        return self._facts.get(key, Facts())

    def keep(self, key: str, facts: Facts) -> None:
        """Remembers the facts of a server as the newest, and forgets the oldest ones past
        _REMEMBERED.
        """
        self._facts.pop(key, None)
        self._facts[key] = facts
        while len(self._facts) > _REMEMBERED:
            del self._facts[next(iter(self._facts))]


class Probe:
    """Finds out what the server at the other end of one connection is.

    ask_all: sends commands over it; address: of the server, for the memory; acl: whether ACL users
    are wanted there; rights: gives the commands that these users need; again: whether to ask about
    these users alone, because the server answered the rest over the same connection.
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
        # COMMAND is not asked again: its reply takes long to read.
        self._pending = [probing.ACL, probing.ACL_DATABASES] if again else list(probing.questions(acl))
        #: None if it has not answered enough yet
        self.server: Server | None = None
        #: what the operator has to know of it; None: nothing
        self.state: messages.Text | None = None
        #: the questions that have to be asked again, by name, with the error of each
        self.again: dict[str, ErrorReply] = {}
        #: whether it refuses to create tenants' users, though it allowed this before
        self.users_refused = False

    async def ask(self) -> None:
        """Asks once what is not known yet. Raises ControlError if the connection is lost."""
        words = [*_INFO, *(question.words for question in self._pending), *([probing.CLEAN_UP] if self._acl else [])]
        replies = await self._ask_all(words)
        infos = replies[: len(_INFO)]
        failed = {" ".join(words): info for words, info in zip(_INFO, infos, strict=True) if isinstance(info, ErrorReply)}
        if failed:
            # It is not known which server gave the other answers.
            self.again = failed
            return
        server, persistence, replication = map(probing.fields, infos)
        self.state = _state(server, persistence)
        if persistence.get("loading") == "1":
            # It refuses most questions. Nothing is concluded: tenants are not served meanwhile.
            self.again = {"INFO persistence": ErrorReply(messages.REDIS_IS_LOADING())}
            return
        key = server.get("run_id") or self._address
        if self._key not in ("", key):
            # Something in front of Redis, such as a load balancer, led the connection to another
            # server.
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
        """Returns the facts with the commands to which a tenant's user can have the right.

        The second value is the error, if that could not be found out. A name that Redis does not
        know makes Redis refuse all rules of a user. Such names come from the built-in table, if
        Redis does not answer COMMAND. So they are left out of the rules, and of what tenants may
        do.
        """
        commands = probing.known_commands(facts)
        unfit: frozenset[bytes] = frozenset()
        for _ in range(_ROUNDS):
            fits = probing.SELECT_RULE not in unfit
            needed = self._rights(replace(server, commands=without(commands, unfit), select_rule=fits))
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
        """Returns why no user can have the right to all of these commands; None if one can."""
        reply, _ = await self._ask_all([probing.rights_words(sorted(names)), probing.CLEAN_UP])
        return reply if isinstance(reply, ErrorReply) else None


async def calls_itself_replica(
    reactor: IConnectingReactor, address: BackendAddress, timeout: float, ca_file: Path | None
) -> bool:
    """Whether the server at this address calls itself a replica now.

    For timeout and errors see `client.ask_once`.
    """
    endpoint = endpoint_for(reactor, address, timeout, ca_file)
    info = await ask_once(reactor, address, endpoint, timeout, lambda connection: connection.ask("INFO", "replication"))
    return probing.is_replica(probing.fields(info))


def _state(server: Mapping[str, str], persistence: Mapping[str, str]) -> messages.Text | None:
    """Returns what is out of the ordinary, from two sections of INFO; None: nothing is."""
    mode = server.get("server_mode", server.get("redis_mode"))  # the first is Valkey's name for it
    if mode == "sentinel":
        return messages.REDIS_IS_SENTINEL()
    if mode == "cluster":
        return messages.REDIS_IS_CLUSTER()
    if persistence.get("loading") == "1":
        return messages.REDIS_IS_LOADING()
    return None
