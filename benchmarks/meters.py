"""Memory of a server while it is attacked: resident, and the kernel's for its sockets. The pod is
charged for both.
"""

from __future__ import annotations

import re
import subprocess
import threading
from dataclasses import dataclass

from .peers import Peer

MIB = 1 << 20
#: Seconds between two samples of resident memory, and how many of them come with one of the
#: kernel's: that takes more time.
EVERY, KERNEL_EVERY = 0.2, 3
#: What a socket's bytes are charged as: received, queued to be sent, and allocated ahead.
_MEMORY = re.compile(r"skmem:\(r(\d+),rb\d+,t\d+,tb\d+,f(\d+),w(\d+)")


def kernel(ports: list[int], upstream: int = 0) -> int:
    """Returns the kernel's bytes for the connections of a server. ports: where it listens;
    upstream: the port of the server that it is a client of.
    """
    wanted = [f"sport = :{port}" for port in ports if port] + ([f"dport = :{upstream}"] if upstream else [])
    # ss reads the kernel's own table: no root is needed, and no look at processes.
    command = ["ss", "-tmnH", f"( {' or '.join(wanted)} )"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(sum(map(int, sizes)) for sizes in _MEMORY.findall(done.stdout))


@dataclass
class Memory:
    """MiB. resident, kernel: each at its own peak; together: of both at the same time."""

    resident: float = 0.0
    kernel: float = 0.0
    together: float = 0.0


class Meter:
    """Samples the memory of a server in a thread, from its start to `stop`. redis: a second server,
    whose resident memory alone is sampled.
    """

    def __init__(self, peer: Peer, ports: list[int], upstream: int, redis: Peer) -> None:
        self._peer, self._ports, self._upstream, self._redis = peer, ports, upstream, redis
        self.peak, self.redis = Memory(), 0.0
        #: Whether the server ended.
        self.ended = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def sample(self, also_kernel: bool = True, before: float = 0.0) -> Memory:
        """Returns the memory now. before: the kernel's MiB if they are not asked for."""
        try:
            resident = self._peer.resident() / MIB
        except OSError:
            self.ended = True
            return Memory()
        held = kernel(self._ports, self._upstream) / MIB if also_kernel else before
        return Memory(resident, held, resident + held)

    def _run(self) -> None:
        turn, now = 0, Memory()
        while not self._stopped.is_set():
            now = self.sample(turn % KERNEL_EVERY == 0, now.kernel)
            turn += 1
            for name, value in vars(now).items():
                setattr(self.peak, name, max(getattr(self.peak, name), value))
            try:
                self.redis = max(self.redis, self._redis.resident() / MIB)
            except OSError:
                self.ended = True
            self._stopped.wait(EVERY)

    def stop(self) -> None:
        """Ends the sampling."""
        self._stopped.set()
        self._thread.join(10)
