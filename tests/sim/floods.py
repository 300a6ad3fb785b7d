"""Attacks on the proxy's time in the simulation: those of `make noise`, from the same data.

There work costs simulated time, so the slowest PING of another tenant is a number without noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.attacks import ROWS
from benchmarks.attacks.row import Attack, Together
from benchmarks.attacks.streams import Renew, Streams

from .actors import Actor, Pinger
from .simulation import Options, Simulation

if TYPE_CHECKING:
    from .kernel import Socket

#: The rows that are simulated, and the part of their connections that keeps the test short.
FLOODS = {
    **dict.fromkeys(
        ("unknown", "unsubscribe", "multi", "subscribe", "reset", "client-info", "select", "hello", "lines"), 1.0
    ),
    **dict.fromkeys(("unknown-20", "nobody-50", "inline-gets", "empty-arrays"), 1.0),
    **dict.fromkeys(("words-unsubscribe", "words-xread", "words-numsub", "subscribe-9999"), 1.0),
    **dict.fromkeys(("nobody-300", "nobody-900", "subscribers-900", "subscribe-500", "info-900"), 0.25),
    **dict.fromkeys(("inline-bytes", "connect-storm", "log-ins", "wrong-passwords", "gets-by-byte", "blocked-900"), 0.25),
}
#: Rows of attacks on the proxy's time that are not simulated: HTTP, TLS, and bytes, which call no
#: functions. By name: what tests the bound.
ELSEWHERE = {
    "livez-pipelined": "tests.ops.test_http_port",
    "status-slow": "tests.ops.test_http_port",
    "nowhere": "tests.ops.test_http_port",
    "client-hello": "tests.listen.test_handshakes",
    "plain-900": "tests.clients.test_work.PlainTests",
}
#: Seconds between two pieces of a client that sends a command piece by piece, and until a client
#: that leaves comes again.
PIECE_SECONDS = 0.002


def streams(attack: Attack) -> Iterable[Streams]:
    """Returns the parts of a row's attack."""
    if isinstance(attack, Together):
        for each in attack.attacks:
            yield from streams(each)
    elif isinstance(attack, Streams):
        yield attack
    else:
        raise TypeError(f"only Streams can be simulated, not {attack}")


class Flooder(Actor):
    """One connection of an attack. It ignores what it is told."""

    def __init__(self, simulation: Simulation, tenant: str, attack: Streams) -> None:
        super().__init__(simulation, tenant, [], 0)
        self._attack = attack
        self._payload = attack.payload(simulation.password(tenant).decode())
        self._attacks, self._repeats, self._waits, self._times = False, True, False, 0

    def open(self) -> None:
        self._attacks, self._repeats = False, True
        super().open()
        if not self._attack.log_in:
            self._begin()

    def _log_in(self) -> None:
        if self._attack.log_in:
            super()._log_in()

    def _step(self, end: Socket) -> None:
        """It does not rest behind its log-in."""

    def _begin(self) -> None:
        self._attacks = True
        self._outgoing += self._attack.first
        self._write()

    def _write(self) -> None:
        if not self._attacks:
            return super()._write()
        if self._waits or self.end is None:
            return None
        attack = self._attack
        while self._outgoing or self._repeats:
            if not self._outgoing:
                self._repeats = not (attack.once or attack.lockstep or attack.renew in (Renew.ANSWERED, Renew.SENT))
                self._outgoing += self._payload(self._times)
                self._times += 1
            if not self._outgoing:
                break
            try:
                size = self.end.send(self._outgoing[: attack.pieces or len(self._outgoing)])
            except BlockingIOError:
                return None
            except OSError:
                return self._lost("reset")
            del self._outgoing[:size]
            if attack.pieces:
                self._waits = True
                self.world.after(PIECE_SECONDS, self._goes_on)
                return None
        if attack.renew is Renew.SENT:
            self._again()
        return None

    def _goes_on(self) -> None:
        self._waits = False
        self._write()

    def _again(self) -> None:
        self._forget()
        self.world.after(PIECE_SECONDS, self.open)

    def _lost(self, how: str) -> None:
        if self._attack.renew is not Renew.NEVER:
            self._again()
        else:
            self._forget()

    def _read(self) -> None:
        if self._attack.reads or not self._attacks:
            super()._read()

    def _take_replies(self) -> None:
        if not self._attacks:
            super()._take_replies()
            if self.end is None or self.expected:
                return
            if self._attack.again:
                return self._begin()
        self._incoming.clear()
        if self._attack.renew is Renew.ANSWERED:
            self._again()
        elif self._attack.lockstep:
            self._repeats = True
            self._write()
        return None


def slowest_ping(attack: Attack | None = None, seconds: float = 0.15, part: float = 1.0) -> float:
    """Returns the seconds that one tenant's slowest PING takes while another attacks the proxy.

    part: of the attack's connections. A simulated second is a million function calls of the proxy:
    see `kernel.Reactor`. Raises AssertionError if the proxy had an error of its own.
    """
    simulation = Simulation(0, Options(limits=(), clients=0, measured=True))
    simulation.world.latency, simulation.world.window, simulation.world.buffer = 0.0001, 262144, 262144
    pinger = Pinger(simulation, "blue")
    simulation.actors.append(pinger)
    for each in streams(attack) if attack is not None else ():
        count = max(1, round(part * each.connections))
        simulation.actors += [Flooder(simulation, "green", each) for _ in range(count)]
    simulation.run_for(seconds)
    crashes = [wrong for wrong in simulation.found if wrong.kind == "crash"]
    if crashes:
        raise AssertionError(crashes[0].text)
    if not pinger.slowest:
        raise AssertionError("no PING was sent")
    return pinger.slowest


def beside(name: str) -> partial[float]:
    """Returns `slowest_ping` beside a row of FLOODS."""
    return partial(slowest_ping, ROWS[name].attack, part=FLOODS[name])
