"""A TCP relay between the proxy and Redis, which can stall, cut and add to what passes: a network
that misbehaves.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import select
import socket
import termios
import threading


def _unread(connection: socket.socket) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(connection, termios.FIONREAD, count)
    return count[0]


def _hung_up(connection: socket.socket) -> bool:
    """Whether the other end is gone. What it sent before may be unread for ever."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


class Relay:
    """Listens on a free port of 127.0.0.1, and connects to a port there."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        # (the proxy's side, Redis's side) of each connection, the oldest first.
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._flows = threading.Event()
        self._flows.set()
        self._start(self._accept)

    def _start(self, work: object, *arguments: object) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                self._pairs.append((near, far))
                self._start(self._pass, near, far)
                self._start(self._pass, far, near)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            # What may not pass yet stays in the kernel, where `held` counts it.
            while source.recv(1, socket.MSG_PEEK):
                self._flows.wait()
                target.sendall(source.recv(65536))
        for connection in (source, target):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def connections(self) -> int:
        """How many it took, since the last `cut`."""
        return len(self._pairs)

    def lead_to(self, port: int) -> None:
        """Where connections from now on lead; those that are open stay."""
        self._target = port

    def stall(self) -> None:
        """Nothing passes any more, until `flow`."""
        self._flows.clear()

    def held(self) -> int:
        """Bytes of the proxy, for Redis, that `stall` keeps back, of the connection that has
        most.
        """
        return max((_unread(near) for near, _ in self._pairs if not _hung_up(near)), default=0)

    def flow(self) -> None:
        self._flows.set()

    def cut(self) -> None:
        """All connections are gone; new ones are taken."""
        pairs, self._pairs = self._pairs, []
        for near, far in pairs:
            for connection in (near, far):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def say(self, data: bytes, held: int = 0) -> None:
        """The proxy hears this from Redis, on every connection of which `stall` keeps back so many
        bytes at least.
        """
        for near, _ in self._pairs:
            if _hung_up(near):
                continue
            with contextlib.suppress(OSError):
                if not held or _unread(near) >= held:
                    near.sendall(data)

    def stop(self) -> None:
        self.flow()
        self._listener.close()
        self.cut()
