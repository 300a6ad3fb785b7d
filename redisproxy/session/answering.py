"""Commands that are answered here rather than by Redis: what a client asks about itself, its tenant, and the server.

Owns CLIENT, INFO, PUBSUB, CONFIG GET, and the errors to what is not there. What Redis has to be asked for is asked with the
master's rights, and the answer cut to the tenant's own.
"""

from __future__ import annotations

from collections.abc import Callable

from ..policy import server_config, unknown
from ..resp.value import Answer
from . import pubsub
from .conversation import Reply, Wait
from .info import sections, tenants_info
from .ports import Link
from .route import MovingConversation

OK = b"+OK\r\n"
SYNTAX = b"-ERR syntax error\r\n"
UNANSWERED = "ERR Redis did not answer the proxy, try again"
#: The master's user has no right to ask, or the server has no such command: a hosted Redis, mostly, without CONFIG.
NOT_ALLOWED = "NOPERM Redis does not let the proxy ask this"


class AnsweringConversation(MovingConversation):
    """A conversation that knows what its client may be told."""

    __slots__ = ("_library", "_name", "_subscriptions", "_then")

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self._name = b""
        self._library = {b"LIB-NAME": b"", b"LIB-VER": b""}
        self._subscriptions = pubsub.Subscriptions()
        # What is done with the answer to what was asked with the master's rights.
        self._then: Callable[[list[Answer]], None] | None = None

    # What is not there, or not for tenants.

    def _unknown(self, arguments: list[bytes]) -> None:
        """A command that the server does not have. Not passed on: it may have one of that name that it does not tell of."""
        self._forbid(_UNKNOWN, unknown.command_error(arguments, self._policy.before_7))

    def _unknown_subcommand(self, arguments: list[bytes]) -> None:
        """Not written down: clients try these to find out what the server can do, some at each connection."""
        container, subcommand = arguments[:2]
        self._refuse(unknown.subcommand_error(container, subcommand, self._policy.before_7))

    def _client(self, arguments: list[bytes]) -> None:
        if len(arguments) == 1:
            return self._arity_error(arguments)
        subcommand = arguments[1].upper()
        count = _CLIENT.get(subcommand)
        if count is None or (subcommand == b"CAPA" and subcommand not in self._policy.known.get(b"CLIENT", ())):
            return self._forbid_subcommand(arguments)
        if self._multi:
            return self._forbid(b"client|" + arguments[1])
        if len(arguments) != count and (count or len(arguments) == 2):
            return self._wrong_number(arguments)
        if subcommand == b"HELP":
            self._answer(_CLIENT_HELP)
        elif subcommand == b"CAPA":
            self._answer(OK)  # hints of what the client can do, of which nothing here makes use
        elif subcommand == b"ID":
            self._answer(b":%d\r\n" % self.link.id)
        elif subcommand == b"INFO":
            line = self._describe()
            self._answer(b"$%d\r\n%b\r\n" % (len(line), line))
        elif subcommand == b"REPLY":
            self._client_reply(arguments[2].upper())
        elif subcommand == b"GETNAME":
            if self._name:
                self._answer(b"$%d\r\n%b\r\n" % (len(self._name), self._name))
            else:
                self._answer(b"_\r\n" if self.protocol == 3 else b"$-1\r\n")
        elif subcommand == b"SETNAME":
            if not is_client_name(arguments[2]):
                return self._refuse(BAD_NAME)
            self._name = arguments[2]
            self._answer(OK)
        elif arguments[2].upper() not in self._library:
            self._refuse(b"-ERR Unrecognized option for CLIENT SETINFO: it takes LIB-NAME or LIB-VER\r\n")
        elif not is_client_name(arguments[3]):
            self._refuse(BAD_NAME.replace(b"Client names", arguments[2].lower()))
        else:
            self._library[arguments[2].upper()] = arguments[3]
            self._answer(OK)

    def _wrong_number(self, arguments: list[bytes]) -> None:
        """Of arguments of a subcommand that there is."""
        if self._policy.before_7:
            self._refuse(unknown.subcommand_error(arguments[0], arguments[1], before_7=True))
        else:
            self._arity_error([b"|".join(arguments[:2])])

    def _client_reply(self, mode: bytes) -> None:
        """ON, OFF or SKIP. Redis goes on answering; what is not to be heard is thrown away here."""
        if mode == b"ON":
            self._reply = Reply.ON
            self._answer(OK)
        elif mode == b"OFF":
            self._reply = Reply.OFF
        elif mode == b"SKIP":
            if self._reply is Reply.ON:
                self._reply = Reply.SKIP
        else:
            self._refuse(SYNTAX)

    def _describe(self) -> bytes:
        """A line as CLIENT INFO has it, of what is the tenant's to know."""
        tenant = self.credential.tenant
        channels, patterns, sharded = self._subscriptions.counts()
        return (
            b"id=%d addr=%b name=%b age=%d db=%d sub=%d psub=%d ssub=%d multi=%d user=%b lib-name=%b lib-ver=%b resp=%d\n"
        ) % (
            self.link.id,
            self.link.peer.encode(),
            self._name,
            self.link.age,
            tenant.index,
            channels,
            patterns,
            sharded,
            0 if self._multi else -1,
            tenant.namespace.encode(),
            self._library[b"LIB-NAME"],
            self._library[b"LIB-VER"],
            self.protocol,
        )

    def _container(self, arguments: list[bytes]) -> None:
        """A command of which some subcommands are passed on."""
        if len(arguments) == 1:
            return self._arity_error(arguments)
        if arguments[1].upper() in self._policy.subcommands.get(arguments[0].upper(), ()):
            return self._pass_on(arguments)
        return self._forbid_subcommand(arguments)

    def _forbid_subcommand(self, arguments: list[bytes]) -> None:
        if arguments[1].upper() in self._policy.known.get(arguments[0].upper(), ()):
            self._forbid(arguments[0] + b"|" + arguments[1])
        else:
            self._unknown_subcommand(arguments)

    # Questions that Redis answers about the whole server: asked with the master's rights, and cut to the tenant's own.

    def _question(self, arguments: list[bytes], commands: list[list[bytes]], then: Callable[[list[Answer]], None]) -> None:
        """Asks, once nothing is outstanding; then: called with the answer to each command, if Redis answered them all."""
        if self._multi:
            return self._refuse(b"-ERR %b inside MULTI is not allowed\r\n" % arguments[0].upper())
        if not self._in_order(arguments):
            return
        if not commands:
            return then([])
        self._then = then
        self._stop(Wait.CONTROL)
        return self.link.ask(commands)

    def told(self, answer: list[Answer] | Exception | None) -> None:
        """What was asked with the master's rights. answer: an Exception where it failed; its `told` is the reply then."""
        then, self._then = self._then, None
        if self.ended or then is None:
            return
        if isinstance(answer, Exception):
            self._answer(b"-%b\r\n" % getattr(answer, "told", UNANSWERED).encode())
        else:
            then(answer)
        self._release_if_done()
        self._go_on(Wait.CONTROL)

    def _info(self, arguments: list[bytes]) -> None:
        tenant = self.credential.tenant
        if self._policy.before_7 and len(arguments) > 2:
            return self._refuse(SYNTAX)

        def then(answers: list[Answer]) -> None:
            text = tenants_info(answers, tenant.index, self.link.stats()) if answers else b""
            if self.protocol == 3:
                self._answer(b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text))
            else:
                self._answer(b"$%d\r\n%b\r\n" % (len(text), text))

        return self._question(arguments, [[b"INFO", section] for section in sections(arguments[1:])], then)

    def _config(self, arguments: list[bytes]) -> None:
        """CONFIG GET of what is harmless; all else of CONFIG is refused."""
        if arguments[1:2] == [] or arguments[1].upper() != b"GET" or b"CONFIG|GET" not in self._policy.answered:
            return self._container(arguments)
        if len(arguments) == 2 or (self._policy.before_7 and len(arguments) > 3):
            return self._wrong_number(arguments)
        try:
            names = server_config.named(arguments[2:])
        except server_config.PatternError:
            return self._refuse(server_config.TOO_LONG)
        return self._question(
            arguments,
            [[b"CONFIG", b"GET", name] for name in names],
            lambda answers: self._answer(server_config.reply(names, answers, self.protocol)),
        )

    def _pubsub(self, arguments: list[bytes]) -> None:
        """PUBSUB: about own channels, by their own names."""
        if len(arguments) == 1:
            return self._arity_error(arguments)
        subcommand = arguments[1].upper()
        if subcommand not in self._policy.known.get(b"PUBSUB", ()):
            return self._unknown_subcommand(arguments)
        if self._multi:
            return self._refuse(b"-ERR PUBSUB inside MULTI is not allowed\r\n")
        prefix = self.credential.tenant.channel_prefix
        if subcommand in (b"CHANNELS", b"SHARDCHANNELS") and len(arguments) <= 3:
            pattern = arguments[2] if len(arguments) == 3 else b"*"
            self._question(
                arguments,
                [[b"PUBSUB", subcommand, prefix + pattern]],
                lambda found: self._answer(_array([c[len(prefix) :] for c in found[0] if c.startswith(prefix)])),
            )
        elif subcommand in (b"NUMSUB", b"SHARDNUMSUB"):
            self._question(
                arguments,
                [[b"PUBSUB", subcommand, *(prefix + channel for channel in arguments[2:])]],
                lambda found: self._answer(self._numbers(found[0])),
            )
        elif subcommand == b"NUMPAT" and len(arguments) == 2:
            # Redis's own number is all tenants'. It is asked all the same, as by INFO: to count takes the longer the more
            # sessions the tenant has, and a thousand such commands in one read would keep everybody waiting.
            self._question(
                arguments,
                [[b"PUBSUB", b"NUMPAT"]],
                lambda _: self._answer(b":%d\r\n" % self.link.stats()["pubsub_patterns"]),
            )
        elif subcommand == b"HELP" and len(arguments) == 2:
            self._answer(_PUBSUB_HELP)
        elif subcommand in _PUBSUB:
            self._wrong_number(arguments)
        else:
            self._forbid_subcommand(arguments)
        return None

    def _numbers(self, found: list[object]) -> bytes:
        """Channels and numbers in turn, as PUBSUB NUMSUB has them in RESP3 as well."""
        parts = [b"*%d\r\n" % len(found)]
        for channel, number in zip(found[::2], found[1::2], strict=True):
            bare = self.bare(channel)
            parts.append(b"$%d\r\n%b\r\n:%d\r\n" % (len(bare), bare, number))
        return b"".join(parts)

    def bare(self, channel: bytes) -> bytes:
        """See `pending.Owner`."""
        return channel.removeprefix(self.credential.tenant.channel_prefix)

    @property
    def subscriptions(self) -> pubsub.Subscriptions:
        """What it is subscribed to."""
        return self._subscriptions


def _array(items: list[bytes]) -> bytes:
    """A reply of bulk strings."""
    return b"*%d\r\n" % len(items) + b"".join(b"$%d\r\n%b\r\n" % (len(item), item) for item in items)


def is_client_name(name: bytes) -> bool:
    """What Redis takes as a client's name: printable ASCII without spaces. Here it is kept, so it has a limit."""
    return len(name) <= NAME_LIMIT and all(33 <= byte <= 126 for byte in name)


def _help(container: str, *lines: str) -> bytes:
    """A reply as Redis's own to a container's HELP."""
    first = f"{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    lines = (first, *lines, "HELP", "    Print this help.")
    return b"*%d\r\n" % len(lines) + b"".join(b"+%b\r\n" % line.encode() for line in lines)


#: Bytes of a client's name, and of what it says of its library.
NAME_LIMIT = 4096
BAD_NAME = (
    b"-ERR Client names cannot contain spaces, newlines or special characters, or more than %d bytes.\r\n" % NAME_LIMIT
)

#: Subcommands of CLIENT that the proxy answers, and how many words they are; 0: three or more.
_CLIENT = {b"CAPA": 0, b"GETNAME": 2, b"HELP": 2, b"ID": 2, b"INFO": 2, b"REPLY": 3, b"SETINFO": 4, b"SETNAME": 3}
#: What is written down instead of a name that no command has: it may be anything, a mistyped password among others.
_UNKNOWN = b"unknown"

_CLIENT_HELP = _help(
    "CLIENT",
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "SETINFO <option> <value>",
    "    Set client meta attr. Options are LIB-NAME and LIB-VER.",
)
_PUBSUB_HELP = _help(
    "PUBSUB",
    "CHANNELS [<pattern>]",
    "    Return the currently active channels matching a <pattern> (default: '*').",
    "NUMPAT",
    "    Return number of subscriptions to patterns.",
    "NUMSUB [<channel> ...]",
    "    Return the number of subscribers for the specified channels, excluding",
    "    pattern subscriptions(default: no channels).",
    "SHARDCHANNELS [<pattern>]",
    "    Return the currently active shard level channels matching a <pattern> (default: '*').",
    "SHARDNUMSUB [<shardchannel> ...]",
    "    Return the number of subscribers for the specified shard level channel(s)",
)
#: Subcommands of PUBSUB.
_PUBSUB = frozenset((b"CHANNELS", b"HELP", b"NUMPAT", b"NUMSUB", b"SHARDCHANNELS", b"SHARDNUMSUB"))
