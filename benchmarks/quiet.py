"""The quiet tenant: a process that sends a PING every 4 ms over one connection, and logs in over a
new one once a second. It also asks for /livez as the kubelet does, if there is a status port.

    python -m benchmarks.quiet PORT PASSWORD STATUS_PORT

For each line on its standard input, which has a number of seconds, it measures for so long, and
prints a line of JSON. It comes from 127.0.0.1.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from redisproxy.resp.framing import encode

#: Seconds between two PINGs, two log-ins, and two probes.
EVERY, LOGIN_EVERY, PROBE_EVERY = 0.004, 1.0, 0.5
#: Seconds after which a PING or a log-in has failed, and a probe: the timeout of the manifests.
LIMIT, PROBE_LIMIT = 6.0, 2.0
PING, PONG, OK = encode([b"PING"]), b"+PONG\r\n", b"+OK\r\n"


@dataclass
class Seen:
    """What the quiet tenant saw in one window. Times in ms, sorted; errors, failed: the errors of
    PINGs and probes, and of log-ins.
    """

    pings: list[float] = field(default_factory=list)
    log_ins: list[float] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def _ask(connection: socket.socket, command: bytes, expected: bytes) -> None:
    connection.sendall(command)
    answer = b""
    while len(answer) < len(expected) and not answer.endswith(b"\r\n"):
        piece = connection.recv(4096)
        if not piece:
            raise ConnectionResetError("closed")
        answer += piece
    if answer != expected:
        raise ConnectionError(answer[:60].decode("ascii", "replace").strip())


def log_in(port: int, password: str) -> socket.socket:
    """Returns a new connection that has logged in. Raises OSError."""
    connection = socket.create_connection(("127.0.0.1", port), LIMIT)
    try:
        _ask(connection, encode([b"AUTH", password.encode()]), OK)
    except OSError:
        connection.close()
        raise
    return connection


class Quiet:
    """The tenant, with the one connection of its PINGs."""

    def __init__(self, port: int, password: str, status_port: int) -> None:
        self._port, self._password, self._status_port = port, password, status_port
        self._connection: socket.socket | None = None

    def window(self, seconds: float) -> Seen:
        """Measures for so many seconds. A late answer makes it longer, by LIMIT at most."""
        seen, end = Seen(), time.monotonic() + seconds
        tasks: list[tuple[Callable[[Seen], None], float, list[str]]] = [
            (self._ping, EVERY, seen.errors),
            (self._log_in, LOGIN_EVERY, seen.failed),
        ]
        if self._status_port:
            tasks.append((self._probe, PROBE_EVERY, seen.errors))
        threads = [threading.Thread(target=self._repeat, args=(seen, end, *task)) for task in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for times in (seen.pings, seen.log_ins, seen.probes):
            times.sort()
        return seen

    def _repeat(self, seen: Seen, end: float, task: Callable[[Seen], None], every: float, failures: list[str]) -> None:
        due = time.monotonic()
        while True:
            try:
                task(seen)
            except (OSError, http.client.HTTPException) as error:
                failures.append(f"{task.__name__.strip('_')}: {error}")
            due = max(due + every, time.monotonic())
            time.sleep(max(0.0, min(due, end) - time.monotonic()))
            if due >= end:
                break

    def _ping(self, seen: Seen) -> None:
        if self._connection is None:
            self._connection = log_in(self._port, self._password)
        began = time.perf_counter()
        try:
            _ask(self._connection, PING, PONG)
        except OSError:
            self._connection.close()
            self._connection = None
            seen.pings.append((time.perf_counter() - began) * 1000)
            raise
        seen.pings.append((time.perf_counter() - began) * 1000)

    def _log_in(self, seen: Seen) -> None:
        began = time.perf_counter()
        try:
            connection = log_in(self._port, self._password)
        finally:
            seen.log_ins.append((time.perf_counter() - began) * 1000)
        with connection:
            _ask(connection, PING, PONG)

    def _probe(self, seen: Seen) -> None:
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self._status_port, timeout=PROBE_LIMIT)
        try:
            connection.request("GET", "/livez", headers={"Connection": "close"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise ConnectionError(f"status {answer.status}")
        finally:
            connection.close()
            seen.probes.append((time.perf_counter() - began) * 1000)


def main() -> None:
    """Runs the process."""
    with suppress(OSError):  # its own delays are not what is measured; needs root
        os.setpriority(os.PRIO_PROCESS, 0, max(-10, os.getpriority(os.PRIO_PROCESS, 0) - 10))
    quiet = Quiet(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    for line in sys.stdin:
        print(json.dumps(asdict(quiet.window(float(line)))), flush=True)


if __name__ == "__main__":
    main()
