"""The raw RESP client of tests and benchmarks: sends bytes as they are, and reads whole replies of
RESP2 and RESP3.

Owns one blocking connection. The client does not retry and does not decode. It does not read with
the proxy's own framing, where a fault could hide itself. Tests of healthy clients use redis-py:
`support.clients`.
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
#: First bytes of replies with a length: that many bytes and a line break follow.
BULKS = b"$!="
#: By the first byte of a reply with a count: how many replies follow for each unit of the count.
AGGREGATES = {b"*": 1, b"~": 1, b">": 1, b"%": 2, b"|": 2}


class RawClient:
    """A connection to a port of 127.0.0.1, or to the path of a Unix socket.

    A command is either bytes, which are sent as they are, or a sequence of words, which is sent as
    an array of bulk strings.
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
        """Connects, and logs in if `login` is given.

        - login: the words of a command that must not be refused, for example AUTH and a password.
        - timeout: seconds for each wait.
        - tls: makes a TLS handshake, for the host 127.0.0.1.
        - receive_buffer: bytes that the kernel buffers before they are read, roughly; 0: the
          kernel's own choice.
        - source: the address to connect from.

        Raises AssertionError if the log-in is refused.
        """
        local = isinstance(address, str)
        self.socket = socket.socket(socket.AF_UNIX if local else socket.AF_INET)
        self._unread = bytearray()
        try:
            self.socket.settimeout(timeout)
            if receive_buffer:  # Before the TCP handshake, which announces the window to the peer.
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
        """Sends the command and returns the next whole reply."""
        self.send(command)
        return self.reply()

    def reply(self) -> bytes:
        """Returns exactly one whole reply, nested to any depth, with the attribute before it if
        there is one. A push is a reply, too.

        Raises EOFError, with all bytes that arrived, if the connection ends first. Raises
        TimeoutError, which loses no bytes. Raises AssertionError if the bytes are no RESP.
        """
        end, lacking = 0, 1
        while lacking:
            start, end = end, self._line_end(end)
            line = bytes(self._unread[start:end])
            kind = line[:1]
            if kind in AGGREGATES:
                lacking += AGGREGATES[kind] * max(0, _number(line))
                lacking -= kind != b"|"  # The reply that the attribute belongs to follows.
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
        """Returns the next line with its line break. Raises the same errors as `reply`."""
        return self._take(self._line_end(0))

    def exactly(self, count: int) -> bytes:
        """Returns `count` bytes. Raises the same errors as `reply`."""
        self._wait_for(count)
        return self._take(count)

    def some(self) -> bytes:
        """Returns all bytes that have arrived: at least one, or none if the connection has
        ended.
        """
        with contextlib.suppress(EOFError):
            if not self._unread:
                self._receive()
        return self._take(len(self._unread))

    def rest(self, or_reset: bool = False) -> bytes:
        """Returns all bytes until the other side closes. or_reset: treat a reset as the end,
        instead of raising ConnectionResetError.
        """
        try:
            while data := self.socket.recv(1 << 20):
                self._unread += data
        except ConnectionResetError:
            if not or_reset:
                raise
        return self._take(len(self._unread))

    def is_silent(self) -> bool:
        """Returns whether nothing unread has arrived, not even the end of the connection."""
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
        """Stops sending, and can still read. Not for TLS: reading would lose the TLS layer, too."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Closes so that the other side gets a reset instead of an end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.socket.close()

    def _line_end(self, start: int) -> int:
        """Returns where the line ends that begins at `start`. Waits for its end."""
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
    """Returns the length or count that a line announces: canonical decimal digits, or -1 for
    null.
    """
    assert re.fullmatch(rb".(0|[1-9][0-9]*|-1)\r\n", line), line
    return int(line[1:])


def raw_client(test: TestCase, address: int | str, *login: bytes, **options: object) -> RawClient:
    """Returns a `RawClient` that is closed when the test ends."""
    client = RawClient(address, *login, **options)
    test.addCleanup(client.close)
    return client
