"""What commands about the connection, its state, and the tenant's limits mean: answered, rewritten, or refused.

Owns the methods for the commands that policy has the scanner hand over. The order of replies is `conversation`'s.
"""

from __future__ import annotations

from functools import partial

from ..policy import policy
from ..resp.framing import INSPECT_FIRST, INSPECT_LIMIT, REFUSE, UNAUTHENTICATED, encode
from ..tenants.model import AuthenticationError, TenantFullError
from . import pubsub
from .answering import BAD_NAME, OK, SYNTAX, AnsweringConversation, is_client_name
from .conversation import NOAUTH, Reply, Wait
from .pending import CONFIRMATIONS, HELLO, ReplyBatch

NOAUTH_HELLO = (
    b"-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> "
    b"<pass> option can be used to authenticate the client and select the RESP protocol version at the same time\r\n"
)


class Session(AnsweringConversation):
    """One client's conversation."""

    __slots__ = ()

    def _command(self, arguments: list[bytes]) -> None:
        """See `Conversation`."""
        self.commands += 1
        self.link.inspected(arguments[0])
        name = arguments[0].upper()
        if self.credential is None and name not in _BEFORE_LOGIN:
            self._answer(NOAUTH)
        else:
            self._perform(arguments)

    def _perform(self, arguments: list[bytes]) -> None:
        """See `Conversation`."""
        name = arguments[0].upper()
        if self.credential is not None:
            kind = self._policy.table.get(name)
            if kind is None:
                return self._unknown(arguments)
            if kind == REFUSE:  # by a policy that came since it was read
                return self._forbid(arguments[0])
        method = _METHODS.get(name)
        if method is None:
            method = Session._blocking if name in self._policy.blocking else Session._container
        method(self, arguments)
        return None

    def _oversize(self, name: bytes) -> None:
        """See `Conversation`."""
        if self.credential is not None and name.upper() not in self._policy.table:
            self._unknown([name])
        else:
            self._refuse(b"-ERR the arguments of '%b' are larger than %d bytes\r\n" % (name.lower(), INSPECT_LIMIT))

    def _headed(self, head: list[bytes]) -> None:
        """See `Conversation`: only PUBLISH and SPUBLISH come so."""
        self._streaming = False
        if self._dedicated(partial(self._headed, head)):
            self._streaming = True
            self._publish(head, 3)

    def _logged_in(self, then: list[bytes] | None) -> None:
        """See `Conversation`."""
        self._subscriptions = pubsub.Subscriptions()
        if then is None:
            self._answer(OK)
        else:
            self._hello(then)

    # Commands that are about the connection.

    def _auth(self, arguments: list[bytes]) -> None:
        if len(arguments) == 2:
            username, password = None, arguments[1]
        elif len(arguments) == 3:
            username, password = arguments[1], arguments[2]
        elif len(arguments) == 1:
            return self._arity_error(arguments)
        else:
            return self._refuse(SYNTAX)
        if self._multi:
            return self._refuse(b"-ERR AUTH inside MULTI is not allowed\r\n")
        self._log_in(arguments, username, password, None)

    def _log_in(self, arguments: list[bytes], username: bytes | None, password: bytes, hello: list[bytes] | None) -> None:
        """AUTH, or the AUTH of a HELLO: hello is what is left of it then, to be done after a success."""
        if not self._in_order(arguments):
            return
        try:
            name = None if username is None else username.decode("utf-8", "replace")
            credential = self.link.authenticate(name, password)
        except TenantFullError as error:
            # No wrong password. Redis, too, closes a connection that is one too many.
            self._answer(b"-%b\r\n" % str(error).encode())
            self.end(error.outcome)
            return
        except AuthenticationError as error:
            self._stop(Wait.LOGIN_DELAY)
            self.link.delay_login_error(b"-%b\r\n" % str(error).encode())
            return
        if self.credential is not None and self.credential.tenant == credential.tenant:
            self.credential = credential
            if hello is None:
                self._answer(OK)
            else:
                self._hello(hello)
            return
        self._move_in(credential, int(hello[1]) if hello else self.protocol, hello)

    def login_error_due(self, error: bytes, last: bool) -> None:
        """The time for a wrong password is over: its error may be told. last: and no other will be tried."""
        if self.ended:
            return
        self._answer(error)
        if last:
            self.end("wrong-passwords")
        self._go_on(Wait.LOGIN_DELAY)

    def _hello(self, arguments: list[bytes]) -> None:
        """HELLO [2|3 [AUTH user password] [SETNAME name]]. What AUTH leaves is asked of Redis, so it is its own answer."""
        if len(arguments) == 1:
            if self.credential is None:
                return self._answer(NOAUTH_HELLO)
            if self._multi:
                return self._refuse(b"-ERR HELLO inside MULTI is not allowed\r\n")
            return self._pass_hello(arguments, 0)
        if arguments[1] not in (b"2", b"3"):
            if arguments[1].isdigit():
                return self._refuse(b"-NOPROTO unsupported protocol version\r\n")
            return self._refuse(b"-ERR Protocol version is not an integer or out of range\r\n")
        rest = arguments[2:]
        login = name = None
        while rest:
            option = rest[0].upper()
            if option == b"AUTH" and len(rest) >= 3:
                login = rest[1:3]
                rest = rest[3:]
            elif option == b"SETNAME" and len(rest) >= 2:
                name = rest[1]
                rest = rest[2:]
            else:
                shown = b"".join(rest[0].split()).decode("ascii", "replace")[:32]
                return self._refuse(f"-ERR Syntax error in HELLO option '{shown}'\r\n".encode("ascii", "replace"))
        if name is not None and not is_client_name(name):
            return self._refuse(BAD_NAME)
        if self._multi:
            return self._refuse(b"-ERR HELLO inside MULTI is not allowed\r\n")
        if login is not None:
            bare = arguments[:2] + ([] if name is None else [b"SETNAME", name])
            return self._log_in(arguments, login[0], login[1], bare)
        if self.credential is None:
            return self._answer(NOAUTH_HELLO)
        if name is not None:
            self._name = name
        self._pass_hello(arguments[:2], int(arguments[1]))

    def _pass_hello(self, arguments: list[bytes], protocol: int) -> None:
        """protocol: what it asks for; 0: nothing. Multiplexed connections speak one: for the other, it moves to others."""
        if self.dedicated:
            # Whatever follows waits until it is known which protocol that is answered in.
            self._stop(Wait.HELLO)
            self._expect(encode(arguments), ReplyBatch(self, 1, HELLO, silent=not self._heard(), protocol=protocol))
        elif protocol in (0, self.protocol) and self.upstream is self.tenant_pool.upstream:
            self._pass_on(arguments)
        elif self._in_order(arguments):
            # Also where its upstream connection was left for another while this waited for replies: it may have been given
            # back by now.
            self._move_in(self.credential, protocol or self.protocol, arguments)

    def _quit(self, arguments: list[bytes]) -> None:
        self._answer(OK)
        self.end("quit")

    def _reset(self, arguments: list[bytes]) -> None:
        if len(arguments) != 1:
            return self._arity_error(arguments)
        if not self._in_order(arguments):
            return
        self._let_go_of_upstream()
        self._leave_tenant_pool()
        if self.credential is not None:
            self._received = self._scanner.buffered
            self.link.logged_out()
        self.credential = None
        self.protocol = 2
        self._multi = self._watching = False
        self._subscriptions = pubsub.Subscriptions()
        self._name = b""
        self._scanner.limits = UNAUTHENTICATED
        self._scanner.table = policy.UNAUTHENTICATED_TABLE
        if self._reply is Reply.OFF:
            self._reply = Reply.ON
        self._answer(b"+RESET\r\n")

    def _cross_protocol(self, arguments: list[bytes]) -> None:
        """``POST`` or ``Host:``: a browser was made to send this. No answer, as Redis does."""
        self.end("cross-protocol")

    def _select(self, arguments: list[bytes]) -> None:
        if len(arguments) != 2:
            return self._arity_error(arguments)
        tenant = self.credential.tenant
        text = arguments[1]
        if not (text.removeprefix(b"-").isdigit() and len(text) < 12):
            return self._refuse(b"-ERR value is not an integer or out of range\r\n")
        if text != b"%d" % tenant.index:
            error = b"-NOPERM this password opens database %d only: SELECT of any other is refused\r\n" % tenant.index
            self._forbid(b"select", error)
        elif self._multi:
            self._pass_on(
                [b"ECHO", b"OK"]
            )  # the upstream connection may not SELECT any more; this keeps its place in EXEC's reply
        else:
            self._answer(OK)

    # Commands that need an upstream connection to themselves: they leave a state on it, or keep it waiting.

    @property
    def _stateful(self) -> bool:
        return super()._stateful or bool(self._subscriptions) or self._then is not None

    def _blocking(self, arguments: list[bytes]) -> None:
        """What may wait for other commands, and must not have them wait behind it."""
        name = arguments[0].upper()
        if name in _READERS and b"BLOCK" not in map(bytes.upper, arguments):
            self._pass_on(arguments)
        elif self._dedicated(partial(self._blocking, arguments)):
            if name in _WAITERS and self.tenant_pool is not None and not self._multi:
                # It waits until replicas have what this connection wrote; the session wrote over another one. What is
                # sent to a channel that nobody has goes to replicas, too, behind all that was written before. Redis
                # before 7 has no such channels; there any command counts.
                channel = self.credential.tenant.channel_prefix + _UNHEARD
                sharded = self._policy.table.get(b"SPUBLISH") == INSPECT_FIRST
                mark = [b"SPUBLISH", channel, b""] if sharded else [b"PING"]
                self._expect(encode(mark), ReplyBatch(self, 1, silent=True))
            self.blocked = True  # also in a MULTI, where it does not wait: one that stands before the MULTI may
            self._pass_on(arguments)

    def _transaction(self, arguments: list[bytes]) -> None:
        """MULTI, EXEC, DISCARD, WATCH, UNWATCH: passed on, and remembered."""
        name = arguments[0].upper()
        if not self.dedicated and name in (b"MULTI", b"WATCH"):
            return self._begin_transaction(arguments)
        if name == b"MULTI":
            if self.protocol == 2 and self._subscriptions:
                # As Redis does. Not left to it: where a SUBSCRIBE fails, it would not, and the MULTI would not be noticed.
                return self._refuse(b"-ERR Can't execute 'multi': it is not allowed to subscribers that speak RESP2\r\n")
            self._multi = self._multi or len(arguments) == 1
        elif name == b"WATCH":
            self._watching = self._watching or not self._multi
        elif name == b"UNWATCH":
            self._watching = self._watching and (self._multi or len(arguments) > 1)
        elif self._multi and (name == b"EXEC" or len(arguments) == 1):
            # EXEC ends it even with arguments too many. Without a MULTI neither ends anything, a WATCH included.
            self._multi = self._watching = False
        self._pass_on(arguments)

    def _begin_transaction(self, arguments: list[bytes]) -> None:
        """MULTI or WATCH of a session at home: it moves to a dedicated connection, unless there will be no state to keep."""
        whole = None
        if len(arguments) == 1:
            whole = self._scanner.transaction() if arguments[0].upper() == b"MULTI" else None
        if whole is None:
            self._dedicated(partial(self._transaction, arguments))
        else:
            data, count = whole
            self.commands += count
            self._send(encode(arguments) + data, 1 + count)

    def _publish(self, arguments: list[bytes], count: int = 0) -> None:
        """PUBLISH and SPUBLISH: into an own channel. count: how many arguments it has, where these are only the first."""
        if len(arguments) == 1:
            return self._arity_error(arguments)
        head = [arguments[0], self.credential.tenant.channel_prefix + arguments[1], *arguments[2:]]
        self._send(b"*%d\r\n" % (count or len(head)) + encode(head).split(b"\r\n", 1)[1])

    def _subscription(self, arguments: list[bytes]) -> None:
        """(P|S)(UN)SUBSCRIBE: as many confirmations as it names channels."""
        if self._multi:
            return self._refuse(b"-ERR %b inside MULTI is not allowed\r\n" % arguments[0].upper())
        name = arguments[0].upper()
        kind = name.removesuffix(b"SUBSCRIBE").removesuffix(b"UN")  # none, P or S
        if len(arguments) == 1 and b"UNSUBSCRIBE" not in name:
            return self._arity_error(arguments)
        if not self._dedicated(partial(self._subscription, arguments)):
            return None
        try:
            channels = [pubsub.own_channel(self.credential.tenant, kind, channel) for channel in arguments[1:]]
        except pubsub.ForeignChannelError as error:
            return self._forbid(name, b"-NOPERM %b\r\n" % str(error).encode())
        joins = b"UNSUBSCRIBE" not in name
        if not joins:
            # Those that it has by name: their number is then known, whatever became of the SUBSCRIBE.
            channels = channels or sorted(self._subscriptions.of(kind))
        elif not self._subscriptions.room_for(kind, channels):
            return self._refuse(_TOO_MANY % (pubsub.MOST, pubsub.MOST_BYTES))
        change = pubsub.Change(kind, joins, channels)
        if kind == b"P" and joins:
            self._then = lambda _: self._subscribe(name, change)
            self._stop(Wait.CONTROL)
            self.link.permit(channels)
        else:
            self._subscribe(name, change)
        return None

    def _subscribe(self, name: bytes, change: pubsub.Change) -> None:
        self._upstream_clean = False
        self._heard()  # confirmations always are, and use up a SKIP
        self._subscriptions.ask(change)
        count = max(1, len(change.channels))
        self._expect(encode([name, *change.channels]), ReplyBatch(self, count, CONFIRMATIONS, change=change))

    def confirmed(self, change: object, refused: bool) -> bool:
        """See `pending.Owner`."""
        return self._subscriptions.settle(change, refused)

    # Commands that could leave the database.

    def _flushall(self, arguments: list[bytes]) -> None:
        """FLUSHALL empties the tenant's whole world, which is one database."""
        self._pass_on([b"FLUSHDB", *arguments[1:]])

    def _copy(self, arguments: list[bytes]) -> None:
        """COPY source destination [DB index] [REPLACE]: only within the own database."""
        index = b"%d" % self.credential.tenant.index
        options = arguments[3:]
        for position, option in enumerate(options):
            if option.upper() == b"DB" and options[position + 1 : position + 2] != [index]:
                return self._forbid(b"copy", b"-NOPERM COPY into another database than %b is refused\r\n" % index)
        self._pass_on(arguments)


#: Commands that are understood without a log-in.
_BEFORE_LOGIN = frozenset((b"AUTH", b"HELLO", b"RESET", b"QUIT", b"POST", b"HOST:"))

_TOO_MANY = b"-ERR this would be more than %d subscriptions, or %d bytes of their names\r\n"

#: Blocking commands that wait only where they say BLOCK.
_READERS = frozenset((b"XREAD", b"XREADGROUP"))
#: Those that are about what the connection wrote before.
_WAITERS = frozenset((b"WAIT", b"WAITAOF"))
_UNHEARD = b"\0redisproxy"

_METHODS = {
    b"AUTH": Session._auth,
    b"CLIENT": Session._client,
    b"CONFIG": Session._config,
    b"COPY": Session._copy,
    b"DISCARD": Session._transaction,
    b"EXEC": Session._transaction,
    b"FLUSHALL": Session._flushall,
    b"HELLO": Session._hello,
    b"HOST:": Session._cross_protocol,
    b"INFO": Session._info,
    b"MULTI": Session._transaction,
    b"POST": Session._cross_protocol,
    b"PSUBSCRIBE": Session._subscription,
    b"PUBLISH": Session._publish,
    b"PUBSUB": Session._pubsub,
    b"PUNSUBSCRIBE": Session._subscription,
    b"QUIT": Session._quit,
    b"RESET": Session._reset,
    b"SELECT": Session._select,
    b"SPUBLISH": Session._publish,
    b"SSUBSCRIBE": Session._subscription,
    b"SUBSCRIBE": Session._subscription,
    b"SUNSUBSCRIBE": Session._subscription,
    b"UNSUBSCRIBE": Session._subscription,
    b"UNWATCH": Session._transaction,
    b"WATCH": Session._transaction,
}
