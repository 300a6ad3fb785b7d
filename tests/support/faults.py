"""A Redis that answers some commands with errors: a real one behind a TCP server that speaks RESP
and knows which commands to refuse.
"""

from __future__ import annotations

import contextlib
import socket
import threading

from redisproxy.resp.framing import ReplyMeasurer


class FaultyRedis:
    """Listens on a free port of 127.0.0.1, and forwards commands without a fault to a Redis on
    another port there.

    Commands are forwarded one by one: each waits for its reply. Messages that Redis sends unasked
    are not forwarded.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        #: By the beginning of a command: the error that answers it, without the ``-``; None: no
        #: answer
        self.faults: dict[str, str | None] = {}
        #: the commands that were refused, or not answered
        self.refused: list[str] = []
        #: all commands that arrived
        self.asked: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, password: str) -> str:
        return f"redis://:{password}@127.0.0.1:{self.port}/0"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                for connection in (near, far):
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pairs.append((near, far))
                threading.Thread(target=self._serve, args=(near, far), daemon=True).start()

    def _serve(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), near.makefile("rb") as commands:
            while (count := commands.readline())[:1] == b"*":
                words = []
                for _ in range(int(count[1:])):
                    words.append(commands.read(int(commands.readline()[1:]) + 2)[:-2])
                near.sendall(self._answer(words, far))
        for connection in (near, far):
            connection.close()

    def _answer(self, words: list[bytes], far: socket.socket) -> bytes:
        command = b" ".join(words).decode("utf-8", "replace")
        self.asked.append(command)
        for beginning, error in list(self.faults.items()):
            if command.upper().startswith(beginning.upper()):
                self.refused.append(command)
                return b"" if error is None else b"-%b\r\n" % error.encode()
        far.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))
        reply = b""
        while True:
            received = far.recv(1 << 20)
            if not received:
                raise OSError("Redis is gone")
            reply += received
            end, done = ReplyMeasurer().measure(reply, 0, 1)
            if done:
                return reply[:end]

    def cut(self) -> None:
        """Closes all connections. New connections are accepted."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for connection in pair:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self._listener.close()
        self.cut()
