"""The raw RESP client of tests and benchmarks: sends bytes as they are, and reads whole replies of
RESP2 and RESP3.

Owns one blocking connection. It does not try again, does not decode, and does not use the proxy's
own framing to read, so that a fault there cannot hide itself. What is asked of a healthy client is
redis-py's part: `support.clients`.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
from collections.abc import Sequence
from typing import Self
from unittest import TestCase

from redisproxy.resp.framing import encode

from .waiting import LIMIT

#: First bytes of replies that are one line.
LINES = b"+-:_#,("
#: First bytes of replies with a length, after which so many bytes follow, and a line break.
BULKS = b"$!="
#: By the first byte of a reply with a count: how many further replies each counts.
AGGREGATES = {b"*": 1, b"~": 1, b">": 1, b"%": 2, b"|": 2}


class RawClient:
    """A connection to a port of 127.0.0.1 or to the path of a Unix socket.

    A command is bytes, which are sent as they are, or a sequence of words, which are sent as an
    array of bulk strings.
    """

    def __init__(
        self,
        address: int | str,
        *login: bytes,
        timeout: float = LIMIT,
        tls: ssl.SSLContext | None = None,
        receive_buffer: int = 0,
        source: str = "",
    ) -> None:
        """login: the words of a command that must not be refused, as AUTH and a password. timeout:
        seconds for each wait.

        tls: a handshake is made, for 127.0.0.1. receive_buffer: bytes that the kernel keeps unread,
        more or less; 0: its own choice. source: the address to come from. Raises AssertionError if
        the log-in is refused.
        """
        local = isinstance(address, str)
        self.socket = socket.socket(socket.AF_UNIX if local else socket.AF_INET)
        self._unread = bytearray()
        try:
            self.socket.settimeout(timeout)
            if receive_buffer:  # before the handshake of TCP, which tells the peer
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if not local:
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if source:
                self.socket.bind((source, 0))
            self.socket.connect(address if local else ("127.0.0.1", address))
            if tls is not None:
                self.socket = tls.wrap_socket(self.socket, server_hostname="127.0.0.1")
            if login:
                answer = self.ask(login)
                assert not answer.startswith(b"-"), answer
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def send(self, command: bytes | Sequence[bytes]) -> None:
        self.socket.sendall(command if isinstance(command, bytes) else encode(command))

    def ask(self, command: bytes | Sequence[bytes]) -> bytes:
        """The whole next reply, once the command is sent."""
        self.send(command)
        return self.reply()

    def reply(self) -> bytes:
        """Exactly one whole reply, with an attribute that precedes it; a push is a reply, too. It
        may be nested in any depth.

        Raises EOFError, with all that had come of it, if the connection ends before; TimeoutError,
        which loses nothing; and AssertionError if it is no RESP.
        """
        end, lacking = 0, 1
        while lacking:
            start, end = end, self._line_end(end)
            line = bytes(self._unread[start:end])
            kind = line[:1]
            if kind in AGGREGATES:
                lacking += AGGREGATES[kind] * max(0, _number(line))
                lacking -= kind != b"|"  # what it is an attribute of follows
                continue
            lacking -= 1
            if kind in BULKS:
                if (size := _number(line)) >= 0:
                    end += size + 2
                    self._wait_for(end)
            else:
                assert kind in LINES, line
        return self._take(end)

    def line(self) -> bytes:
        """With its line break. Raises as `reply` does."""
        return self._take(self._line_end(0))

    def exactly(self, count: int) -> bytes:
        """So many bytes. Raises as `reply` does."""
        self._wait_for(count)
        return self._take(count)

    def some(self) -> bytes:
        """What has come, at least one byte, or none if the connection has ended."""
        with contextlib.suppress(EOFError):
            if not self._unread:
                self._receive()
        return self._take(len(self._unread))

    def rest(self, or_reset: bool = False) -> bytes:
        """All until the other side closes. or_reset: a reset is an end, too, instead of
        ConnectionResetError.
        """
        try:
            while data := self.socket.recv(1 << 20):
                self._unread += data
        except ConnectionResetError:
            if not or_reset:
                raise
        return self._take(len(self._unread))

    def is_silent(self) -> bool:
        """Whether nothing has come that was not read, not even an end."""
        if self._unread:
            return False
        timeout = self.socket.gettimeout()
        self.socket.setblocking(False)
        try:
            self._receive()
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except EOFError:
            return False
        finally:
            self.socket.settimeout(timeout)
        return False

    def half_close(self) -> None:
        """Sends no more, and still reads. Not with TLS, whose layer would be gone for reading,
        too.
        """
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Closes so that the other side gets a reset instead of an end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.socket.close()

    def _line_end(self, start: int) -> int:
        """Where the line ends that begins there, once it has come."""
        searched = start
        while (found := self._unread.find(b"\r\n", searched)) < 0:
            searched = max(start, len(self._unread) - 1)
            self._receive()
        return found + 2

    def _wait_for(self, count: int) -> None:
        while len(self._unread) < count:
            self._receive()

    def _receive(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise EOFError(self._take(len(self._unread)))
        self._unread += data

    def _take(self, count: int) -> bytes:
        taken = bytes(self._unread[:count])
        del self._unread[:count]
        return taken


def _number(line: bytes) -> int:
    """The length or count that a line announces: canonical decimal digits, or -1 for null."""
    assert re.fullmatch(rb".(0|[1-9][0-9]*|-1)\r\n", line), line
    return int(line[1:])


def raw_client(test: TestCase, address: int | str, *login: bytes, **options: object) -> RawClient:
    """A `RawClient` that is closed when the test ends."""
    client = RawClient(address, *login, **options)
    test.addCleanup(client.close)
    return client
