"""Tests the messages between the processes of one proxy."""

from __future__ import annotations

import functools
from collections.abc import Callable

from twisted.internet import defer, task
from twisted.internet.testing import StringTransport, StringTransportWithDisconnection
from twisted.trial import unittest

from redisproxy.processes.channel import Channel, ChannelError, Message


class ChannelTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.taken: list[Message] = []
        self.lost: list[str] = []
        self.answer: Callable[[Message], object] = lambda message: {"twice": message.fields["number"] * 2}
        takes = {"note": self.taken.append, "double": lambda message: self.answer(message)}
        self.left = Channel({}, functools.partial(self.lost.append, "left"))
        self.right = Channel(takes, functools.partial(self.lost.append, "right"))
        self.left.makeConnection(StringTransport())
        self.right.makeConnection(StringTransport())

    def pump(self, piece: int = 1 << 20) -> None:
        """Passes on what each side has written, `piece` bytes at a time."""
        for source, target in ((self.left, self.right), (self.right, self.left)):
            data = source.transport.value()
            source.transport.clear()
            for start in range(0, len(data), piece):
                target.dataReceived(data[start : start + piece])

    def test_messages_whole_and_byte_by_byte(self) -> None:
        for piece in (1 << 20, 1):
            self.taken.clear()
            self.left.send("note")
            self.left.send("note", bytes(range(256)), text="grün \n", none=None, number=3)
            self.pump(piece)
            self.assertEqual(
                self.taken,
                [Message("note", {}), Message("note", {"text": "grün \n", "none": None, "number": 3}, bytes(range(256)))],
            )

    def test_answers_find_their_questions(self) -> None:
        waiting: dict[int, defer.Deferred] = {}

        def later(message: Message) -> defer.Deferred:
            return waiting.setdefault(message.fields["number"], defer.Deferred())

        self.answer = later
        asked = [self.left.ask("double", number=number) for number in (1, 2)]
        self.pump()
        for number in (2, 1):
            waiting[number].callback({"twice": number * 2})
        self.pump()
        self.assertEqual([self.successResultOf(answer).fields for answer in asked], [{"twice": 2}, {"twice": 4}])

    def test_an_answer_without_fields(self) -> None:
        asked = self.left.ask("note")
        self.pump()
        self.assertEqual(self.successResultOf(asked), Message("note", {}))

    def test_what_fails_is_logged_there_and_is_an_error_here(self) -> None:
        self.answer = lambda message: 1 / 0
        asked = self.left.ask("double", number=1)
        self.left.send("double", number=1)
        self.pump()
        self.failureResultOf(asked, ChannelError)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_what_nobody_takes_is_a_bug_and_no_end(self) -> None:
        asked = self.left.ask("nonsense")
        self.left.send("note")
        self.pump()
        self.failureResultOf(asked, ChannelError)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual(self.taken, [Message("note", {})])

    def test_questions_to_a_side_that_is_gone(self) -> None:
        asked = self.left.ask("double", number=1)
        self.left.connectionLost()
        self.left.connected = 0
        self.failureResultOf(asked, ChannelError)
        self.failureResultOf(self.left.ask("double", number=1), ChannelError)
        self.left.send("note")
        self.assertEqual(self.lost, ["left"])

    def test_a_question_may_be_given_up(self) -> None:
        clock = task.Clock()
        asked = self.left.ask("double", number=1).addTimeout(5, clock)
        clock.advance(5)
        self.failureResultOf(asked, defer.TimeoutError)
        self.pump()  # the answer comes too late, which is no bug
        asked = self.left.ask("double", number=2)
        self.pump()
        self.assertEqual(self.successResultOf(asked).fields, {"twice": 4})

    def test_one_that_is_closed_ends_after_what_was_sent(self) -> None:
        near = Channel({}, lambda: None)
        transport = StringTransportWithDisconnection()
        transport.protocol = near
        near.makeConnection(transport)
        near.send("last")
        transport.registerProducer(object(), True)
        ended = near.close()
        self.assertIn(b"last", transport.value())
        self.assertIsNone(transport.producer, "a paused producer would keep it open")
        self.assertIsNone(self.successResultOf(ended))
        self.assertIsNone(self.successResultOf(near.close()), "it is over")
