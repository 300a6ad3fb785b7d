"""The messages between the processes of one proxy, over a pair of connected sockets.

Owns the framing, and the matching of questions with their answers. Each side has a table of the
kinds of messages that it accepts: see `supervisor.Workers.handlers` and `worker.Worker.handlers`. A
new kind of message is a new entry in the table of the side that accepts it. A message is

    4 bytes   length of what follows
    4 bytes   length of the header
    header    a JSON object: "kind", the message's own fields, and a number for a question or answer
    payload   bytes

Both ends are processes of one proxy. Bytes that are no message are a bug, and close the channel.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from twisted.internet import defer
from twisted.internet.interfaces import IConsumer, ITransport
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

from .. import bounds
from ..net.waiters import Waiters
from ..ops.bugs import log_bug

#: The descriptors that a worker inherits: its end of the channel, the memory of `listen.balance`,
#: and then the listening sockets.
CHANNEL, BALANCE, FIRST_PORT = 3, 4, 5

_LENGTH = struct.Struct("!I")
# Fields that the channel itself uses.
_QUESTION, _ANSWER, _FAILED = "question", "answer", "failed"


class ChannelError(Exception):
    """A question gets no answer: the other side is gone or failed. The text is for the log."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message. fields: by name; JSON can hold their values."""

    kind: str
    # Must not be logged: either may contain passwords.
    fields: Mapping[str, Any] = field(repr=False)
    payload: bytes = field(default=b"", repr=False)


#: The fields of an answer; None for an answer without fields.
Answer = Mapping[str, object] | None
#: Handles one kind of message. If the message is a question, the result is the answer.
Handler = Callable[[Message], Answer | defer.Deferred[Answer]]


async def handled(handler: Handler, message: Message) -> Answer:
    """Handles a message and waits for the answer."""
    answer = handler(message)
    return await answer if isinstance(answer, defer.Deferred) else answer


class IChannelTransport(ITransport, IConsumer):
    """Only for type checks: a transport that notifies a producer when it accepts no more."""


class Channel(Int32StringReceiver):
    """One end of the channel.

    handlers: by kind of message; lost: called when the other side is gone.
    """

    MAX_LENGTH = bounds.CHANNEL_MESSAGE_BYTES
    transport: IChannelTransport
    _log = Logger()

    def __init__(self, handlers: Mapping[str, Handler], lost: Callable[[], object]) -> None:
        self._handlers = handlers
        self._lost = lost
        self._numbers = itertools.count(1)
        self._asked: dict[int, defer.Deferred[Message]] = {}
        # Callers of `close`.
        self._ended: Waiters[None] = Waiters()
        self._is_over = False

    def close(self) -> defer.Deferred[None]:
        """Closes the channel after everything was sent. Fires when it is closed, also if the other
        side is gone.
        """
        if self._is_over or not self.connected:
            return defer.succeed(None)
        ended = self._ended.wait()
        self.transport.unregisterProducer()  # a transport with a paused producer would not close
        self.transport.loseConnection()
        return ended

    def send(self, kind: str, payload: bytes = b"", **fields: object) -> None:
        """Sends a message. It is lost if the other side is gone."""
        self._send({**fields, "kind": kind}, payload)

    def ask(self, kind: str, payload: bytes = b"", **fields: object) -> defer.Deferred[Message]:
        """Sends a question. Fires with the answer, or fails with ChannelError. The caller may
        cancel it.
        """
        if not self.connected:
            return defer.fail(ChannelError("it is gone"))
        number = next(self._numbers)

        def forget(_: defer.Deferred[Message]) -> None:
            self._asked.pop(number, None)

        answer: defer.Deferred[Message] = defer.Deferred(forget)
        self._asked[number] = answer
        self._send({**fields, "kind": kind, _QUESTION: number}, payload)
        return answer

    def _send(self, header: Mapping[str, object], payload: bytes) -> None:
        if self.connected:
            text = json.dumps(header).encode()
            self.sendString(b"".join((_LENGTH.pack(len(text)), text, payload)))

    def stringReceived(self, string: bytes) -> None:
        (length,) = _LENGTH.unpack_from(string)
        end = _LENGTH.size + length
        fields = json.loads(string[_LENGTH.size : end])
        kind, question, answer = fields.pop("kind"), fields.pop(_QUESTION, None), fields.pop(_ANSWER, None)
        message = Message(kind, fields, string[end:])
        if answer is not None:
            self._answered(answer, message)
            return
        done = defer.Deferred.fromCoroutine(self._handle(message))
        if question is not None:
            done.addCallback(lambda reply: self._send({**(reply or {}), "kind": kind, _ANSWER: question}, b""))
        done.addErrback(self._failed, kind, question)

    async def _handle(self, message: Message) -> Answer:
        return await handled(self._handlers[message.kind], message)

    def _answered(self, number: int, message: Message) -> None:
        asked = self._asked.pop(number, None)  # None: the question was cancelled
        if asked is None:
            return
        if _FAILED in message.fields:
            asked.errback(ChannelError("it failed; its own log says why"))
        else:
            asked.callback(message)

    def _failed(self, failure: Failure, kind: str, question: int | None) -> None:
        log_bug(self._log, "handling a message of kind {kind}", failure, kind=kind)
        if question is not None:
            self._send({"kind": kind, _ANSWER: question, _FAILED: True}, b"")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        asked, self._asked = self._asked, {}
        for answer in asked.values():
            answer.errback(ChannelError("it is gone"))
        self._is_over = True
        self._lost()
        self._ended.fire(None)


def factory_of(channel: Channel) -> ServerFactory:
    """Returns a factory for the one connection that becomes this channel."""
    factory = ServerFactory()
    factory.protocol = lambda: channel
    factory.noisy = False
    return factory
