"""Why a connection to Redis failed, as the log says it."""

from __future__ import annotations

from OpenSSL import SSL
from twisted.internet import defer
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionRefusedError,
    DNSLookupError,
    NoRouteError,
)
from twisted.trial import unittest

from redisproxy import messages
from redisproxy.upstream.client import NoReplyError
from redisproxy.upstream.endpoint import why


class WhyTests(unittest.SynchronousTestCase):
    def test_each_kind_has_its_advice(self) -> None:
        for error, code in (
            (defer.TimeoutError(), "net-timeout"),
            (ConnectionRefusedError(111), "net-refused"),
            (DNSLookupError("no results"), "net-name"),
            (NoRouteError(113), "net-unreachable"),
            (SSL.Error([("SSL routines", "", "certificate verify failed")]), "net-tls"),
            (ConnectionDone(), "net-closed"),
            (ConnectionAborted(), "net-aborted"),
            (OSError("what nobody has thought of"), "net-other"),
            (NoReplyError(messages.REDIS_NO_REPLY(seconds=10)), "redis-no-reply"),
        ):
            text = why(error)
            self.assertEqual(text.code, code, error)
            self.assertTrue(text.remedy, error)
            self.assertNotIn("ITCPTransport", text)
