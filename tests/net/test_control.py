"""What the control connection makes of a server's answers. Against real servers it is tested in `attacks` and `integration`."""

from __future__ import annotations

import re

from twisted.internet import defer, protocol, reactor
from twisted.trial import unittest

from redisproxy.core.tenants import Backend
from redisproxy.net.control import ControlService, Server

from ..support.relay import Relay
from ..support.servers import RedisServer


class Redis60(protocol.Protocol):
    """The answers of Redis 6.0.16, which no package brings any more: it has ACLs, and they do not know channels."""

    def dataReceived(self, data: bytes) -> None:
        words = re.findall(rb"\$\d+\r\n(.*?)\r\n", data, re.DOTALL)
        self.factory.asked.append(b" ".join(words[:2]))
        if words[0] == b"INFO":
            answer = b"$22\r\nredis_version:6.0.16\r\n\r\n"
        elif words[0] in (b"CONFIG", b"COMMAND"):
            answer = b"-ERR unknown command\r\n"
        elif words[:2] == [b"ACL", b"SETUSER"] and not {b"on", b"off", b"-@all"}.issuperset(words[3:]):
            answer = b"-ERR Error in ACL SETUSER modifier 'resetchannels': Syntax error\r\n"
        else:
            answer = b"+OK\r\n"
        self.transport.write(answer)


class ControlTests(unittest.TestCase):
    timeout = 10

    @defer.inlineCallbacks
    def test_what_comes_of_a_place_that_was_left_changes_nothing(self):
        """A log-in that was under way fails late, or succeeds: the connection to the new place is not given up for it."""
        told = []
        control = ControlService(reactor, 5.0, None, told.append)
        control.startService()
        self.addCleanup(control.stopService)
        server = RedisServer().start()
        self.addCleanup(server.stop)
        relay = Relay(server.port)
        self.addCleanup(relay.stop)
        password = server.password.encode()
        control.use(Backend(host="127.0.0.1", port=relay.port, password=password))
        left = control._factory
        control.use(Backend(host="127.0.0.1", port=server.port, password=password))
        self.assertEqual((yield defer.Deferred.fromCoroutine(control.ask("PING"))), "PONG")
        connection = control._connection
        left.connectionError("could not auth: Lost connection")
        protocol = left.buildProtocol(None)
        control._connected(protocol)
        self.assertEqual((yield defer.Deferred.fromCoroutine(control.ask("PING"))), "PONG")
        self.assertIs(control._connection, connection)
        self.assertEqual(len(told), 1)

    @defer.inlineCallbacks
    def test_acls_that_do_not_know_channels_are_no_wall(self):
        """Redis 6.0: a script could PUBLISH to anybody. As a wall it would also have had every ACL SETUSER refused."""
        factory = protocol.Factory.forProtocol(Redis60)
        factory.asked = []
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        told: defer.Deferred[Server] = defer.Deferred()
        control = ControlService(reactor, 5.0, None, told.callback)
        control.startService()
        self.addCleanup(control.stopService)
        control.use(Backend(host="127.0.0.1", port=port.getHost().port, password=b"master"))
        server = yield told
        self.assertEqual(server.version, "Redis 6.0.16")
        self.assertFalse(server.acl)
        self.assertFalse(server.acl_databases)
        self.assertIn(b"ACL SETUSER", factory.asked)
