"""A TCP relay between the proxy and Redis, which imitates a bad network: it can stall, cut
connections, and add bytes.
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


def hung_up(connection: socket.socket) -> bool:
    """Returns whether the other end has closed. Bytes from before may stay unread for ever."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


class Relay:
    """Listens on a free port of 127.0.0.1, and connects to another port there."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        # (the proxy's side, Redis's side) of each connection, oldest first.
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
            # Bytes that may not pass yet stay in the kernel, where `held` counts them.
            while source.recv(1, socket.MSG_PEEK):
                self._flows.wait()
                target.sendall(source.recv(65536))
        for connection in (source, target):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def connections(self) -> int:
        """The number of connections since the last `cut`."""
        return len(self._pairs)

    def lead_to(self, port: int) -> None:
        """Sends new connections to this port. Open connections stay."""
        self._target = port

    def stall(self) -> None:
        """Lets nothing pass, until `flow`."""
        self._flows.clear()

    def held(self) -> int:
        """Returns how many bytes from the proxy to Redis `stall` keeps back, on the connection with
        the most.
        """
        return max((_unread(near) for near, _ in self._pairs if not hung_up(near)), default=0)

    def flow(self) -> None:
        self._flows.set()

    def cut(self) -> None:
        """Closes all connections. New ones are accepted."""
        pairs, self._pairs = self._pairs, []
        for near, far in pairs:
            for connection in (near, far):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def say(self, data: bytes, held: int = 0) -> list[socket.socket]:
        """Sends these bytes to the proxy, as if from Redis, on every connection on which `stall`
        keeps back at least `held` bytes. Returns these connections.
        """
        told = []
        for near, _ in self._pairs:
            if hung_up(near):
                continue
            with contextlib.suppress(OSError):
                if not held or _unread(near) >= held:
                    near.sendall(data)
                    told.append(near)
        return told

    def stop(self) -> None:
        self.flow()
        self._listener.close()
        self.cut()


class BlackHole:
    """A port where nothing answers, as where a machine is gone: connections stay half open."""

    def __init__(self, port: int) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", port))
        # Linux drops what comes to a queue that is full, and it takes one more than it should.
        self._listener.listen(0)
        self._queued = socket.create_connection(("127.0.0.1", port))

    def close(self) -> None:
        """Refuses connections from now on."""
        self._queued.close()
        self._listener.close()
