"""Tests that the raw client reads exactly one reply at a time, however the reply is split, nested
or ended.
"""

from __future__ import annotations

import socket
import tempfile
import unittest
from pathlib import Path

from .raw import RawClient
from .waiting import LIMIT

#: One reply of each type of RESP2 and RESP3, and nested ones.
REPLIES = (
    *(b"+OK\r\n", b"-ERR no\r\n", b":-7\r\n", b"$5\r\na\r\nbc\r\n", b"$0\r\n\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n"),
    *(b"_\r\n", b"#t\r\n", b",1.5\r\n", b"(99999999999999999999\r\n", b"=7\r\ntxt:a\r\n\r\n", b"!6\r\nERR no\r\n"),
    *(b"~1\r\n:1\r\n", b">2\r\n+a\r\n+b\r\n", b"%1\r\n+a\r\n*1\r\n$1\r\nb\r\n"),
    *(b"|1\r\n+ttl\r\n:9\r\n+OK\r\n", b"*2\r\n|1\r\n+a\r\n*1\r\n_\r\n:1\r\n:2\r\n", b"*1\r\n" * 8000 + b"+deep\r\n"),
)


class RawClientTests(unittest.TestCase):
    def connected(self, **options: object) -> tuple[RawClient, socket.socket]:
        """Returns the client and the server's end of its connection."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = RawClient(listener.getsockname()[1], **options)
            self.addCleanup(client.close)
            server, _ = listener.accept()
        self.addCleanup(server.close)
        server.settimeout(LIMIT)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client, server

    def test_each_reply_ends_where_it_ends(self) -> None:
        client, server = self.connected()
        server.sendall(b"".join(REPLIES) + b"more")
        for reply in REPLIES:
            self.assertEqual(client.reply(), reply)
        self.assertEqual(client.exactly(4), b"more")
        self.assertTrue(client.is_silent())

    def test_a_reply_that_comes_in_pieces(self) -> None:
        client, server = self.connected()
        for reply in REPLIES[:-1]:
            for cut in range(len(reply)):
                client._unread[:] = reply[:cut]
                server.sendall(reply[cut:])
                self.assertEqual(client.reply(), reply)

    def test_a_time_out_loses_nothing(self) -> None:
        client, server = self.connected(timeout=0.01)
        server.sendall(b"*2\r\n+a\r\n$3\r\nb")
        self.assertRaises(TimeoutError, client.reply)
        server.sendall(b"cd\r\n")
        client.socket.settimeout(LIMIT)
        self.assertEqual(client.reply(), b"*2\r\n+a\r\n$3\r\nbcd\r\n")

    def test_what_is_no_reply(self) -> None:
        for line in (b"hello\r\n", b"$+1\r\n", b"*01\r\n", b"*1_0\r\n", b"$-2\r\n", b"%x\r\n", b"\r\n", b"*?\r\n"):
            client, server = self.connected()
            server.sendall(line)
            self.assertRaises(AssertionError, client.reply)

    def test_commands_are_words_or_bytes(self) -> None:
        client, server = self.connected()
        client.send(b"PING\r\n")
        client.send([b"GET", b"a"])
        client.half_close()
        sent = b"PING\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n"
        self.assertEqual(server.recv(1000, socket.MSG_WAITALL), sent)
        server.sendall(b"+still read\r\n")
        self.assertEqual(client.reply(), b"+still read\r\n")

    def test_the_end(self) -> None:
        client, server = self.connected()
        server.sendall(b"+OK\r\n*2\r\n+a\r\n$9\r\nb")
        server.close()
        self.assertEqual(client.reply(), b"+OK\r\n")
        with self.assertRaises(EOFError) as caught:
            client.reply()
        self.assertEqual(caught.exception.args, (b"*2\r\n+a\r\n$9\r\nb",))
        self.assertFalse(client.is_silent())
        self.assertEqual((client.some(), client.rest()), (b"", b""))

    def test_the_rest_includes_what_was_received_with_a_reply(self) -> None:
        client, server = self.connected()
        server.sendall(b"+OK\r\n+rest\r\n")
        server.close()
        self.assertEqual((client.reply(), client.rest()), (b"+OK\r\n", b"+rest\r\n"))

    def test_a_reset_is_told_from_an_end(self) -> None:
        client, server = self.connected()
        client.reset()
        self.assertRaises(ConnectionResetError, server.recv, 1)

    def test_a_unix_socket(self) -> None:
        with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
            path = str(Path(directory) / "socket")
            listener.bind(path)
            listener.listen()
            client = RawClient(path)
            server, _ = listener.accept()
            with client, server:
                server.sendall(b"-WRONGPASS no\r\n")
                self.assertEqual(client.ask([b"AUTH", b"x"]), b"-WRONGPASS no\r\n")
