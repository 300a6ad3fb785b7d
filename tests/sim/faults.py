"""Faults that reach rare branches of the proxy, some of them at the worst moment.

Owns when each begins and ends. `simulation` has the usual ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from redisproxy.session.route import DEDICATED, MULTIPLEXED
from redisproxy.session.session import Session
from redisproxy.session.state import Until

if TYPE_CHECKING:
    from .simulation import Simulation


def _cut(simulation: Simulation, reading: bool) -> None:
    simulation.redis.cut = lambda: simulation.forgive(None, 0)
    simulation.redis.cut_anywhere(reading)


def cut_reply(simulation: Simulation) -> None:
    """A connection to Redis ends at any byte that Redis sends."""
    _cut(simulation, reading=False)


def cut_command(simulation: Simulation) -> None:
    """A connection to Redis ends at any byte that Redis reads."""
    _cut(simulation, reading=True)


def fail_over(simulation: Simulation) -> None:
    """The master is gone. Its connections end, or nothing answers any more. After a while there is
    another one at another address, which may have other commands.
    """
    rng, redis = simulation.rng, simulation.redis
    if not redis.listens or simulation.straight:
        return
    seconds = rng.choice([0.2, 1, 5])
    simulation.forgive(None, seconds)
    silent = rng.random() < 0.6
    another = rng.random() < 0.7
    simulation.host, simulation.silent = "nowhere", silent
    if silent:
        redis.vanish()
    else:
        redis.stop()

    def promoted() -> None:
        redis.start()
        simulation.serve_at_another_address(abandon=True)
        if another:
            simulation.change_policy()

    simulation.world.after(seconds, simulation.reactor.callLater, 0, promoted)


def _leave_multiplexed(simulation: Simulation) -> None:
    """Closes all connections but the multiplexed ones."""
    left = [upstream.connection.transport.socket.peer for upstream in simulation.multiplexed_connections()]
    for connection in list(simulation.redis.connections.values()):
        if connection.end not in left:
            connection.leave()
            connection.end.close()


def fill_for_long(simulation: Simulation) -> None:
    """Redis takes no further clients, for longer than the proxy holds what was not sent, while a
    client does not read. Only multiplexed connections are left.
    """

    def fill(_: Session) -> None:
        simulation.forgive(None, 20)
        simulation.redis.fill(20)
        _leave_multiplexed(simulation)

    _at_worst(simulation, lambda session: session.replies.slow and session.route.state is MULTIPLEXED, fill)


def keep_busy(simulation: Simulation) -> None:
    """A script takes long, so that Redis prepares no connection, while a client does not read. Only
    multiplexed connections are left.
    """

    def run(_: Session) -> None:
        simulation.forgive(None, 0)
        _leave_multiplexed(simulation)
        simulation.redis.keep_busy(5)

    _at_worst(simulation, lambda session: session.replies.slow and session.route.state is MULTIPLEXED, run)


def abandon_unread(simulation: Simulation) -> None:
    """Redis is at another address, and the proxy gives up the connection of a client that does not
    read, when nothing is pending there. (One that Redis closes is not noticed then: the proxy does
    not read it either.)
    """

    def idle(session: Session) -> bool:
        own = session.replies.slow and session.route.state is DEDICATED and session.route.pool is not None
        return own and session.replies.drained and not (session.stateful or session.midway)

    def abandon(_: Session) -> None:
        simulation.forgive(None, 0)
        simulation.serve_at_another_address(abandon=True)

    _at_worst(simulation, idle, abandon)


def stand_still(simulation: Simulation) -> None:
    """Redis does nothing, for longer than the proxy waits for the answer to a control query."""

    def stall(_: Session) -> None:
        simulation.forgive(None, 14)
        simulation.redis.stall(14)

    _at_worst(simulation, lambda session: _waits(session, Until.QUERY), stall)


def kick(simulation: Simulation) -> None:
    """Redis closes all connections, and takes no further clients for a while."""
    seconds = simulation.rng.choice([0.1, 2, 5])
    simulation.forgive(None, seconds)
    simulation.redis.kick(seconds)


def rotate_late(simulation: Simulation) -> None:
    """Clients get another password before the proxy knows of it."""
    tenant = simulation.rng.choice(["blue", "green"])
    simulation.rotate(tenant, late=simulation.rng.uniform(0.5, 6))
    for actor in simulation.actors:
        if actor.tenant == tenant and actor.end is not None and not actor.expected:
            actor.do_come_again()


def rotate_within_a_message(simulation: Simulation) -> None:
    """Revokes a client that has got a message in part."""
    _at_worst(
        simulation,
        lambda session: session.replies.mid_message and session.credential is not None,
        lambda session: simulation.rotate(session.tenant.namespace),
    )


def replace_while_waiting(simulation: Simulation) -> None:
    """Redis is another one, with other commands, while a large command or a script waits for a
    connection.
    """

    def replaced(_: Session) -> None:
        simulation.forgive(None, 0)
        simulation.serve_at_another_address(abandon=False)
        simulation.change_policy()

    if simulation.rng.random() < 0.5:
        _at_worst(simulation, lambda session: _waits(session, Until.SCRIPTS), replaced)
    else:
        _at_worst(simulation, lambda session: _waits(session, Until.DEDICATED) and session.scanner.forwarding, replaced)


def replace_within_window(simulation: Simulation) -> None:
    """Redis is another one, with other commands, while commands wait for their tenant's window."""

    def replaced(_: Session) -> None:
        simulation.forgive(None, 10)  # they may wait for long
        simulation.serve_at_another_address(abandon=False)
        simulation.change_policy()

    _at_worst(simulation, lambda session: _waits(session, Until.WINDOW) and session.route.state is MULTIPLEXED, replaced)


def pause_within_rounds(simulation: Simulation) -> None:
    """Pauses a tenant whose commands wait in a multiplexed connection, behind some that took
    long.
    """
    simulation.when(
        lambda: next((upstream for upstream in simulation.multiplexed_connections() if upstream._rounds.held_up), None),
        lambda upstream: simulation.pause(upstream.connection.tenant.namespace, 5),
    )


def hand_over_queued(simulation: Simulation) -> None:
    """Gives a database to another tenant while commands wait for the end of the turn."""
    simulation.when(
        lambda: next((upstream for upstream in simulation.multiplexed_connections() if upstream._queued), None),
        lambda _: simulation.hand_over(),
    )


def log_slow(simulation: Simulation) -> None:
    """Redis logs some of a tenant's commands as slow, and again after a while."""
    if simulation.straight:
        return
    tenant = simulation.rng.choice(["blue", "green"])
    names = simulation.rng.sample([b"GET", b"SET", b"INCR", b"RPUSH", b"DEL"], 3)
    simulation.log_slow(tenant, names)
    simulation.world.after(
        simulation.rng.uniform(0.5, 5), simulation.reactor.callLater, 0, simulation.log_slow, tenant, names
    )


def _at_worst(simulation: Simulation, condition: Callable[[Session], bool], call: Callable[[Session], object]) -> None:
    """Calls something with the first session for which a condition holds."""
    simulation.when(lambda: next(filter(condition, simulation.sessions()), None), call)


def _waits(session: Session, until: Until) -> bool:
    return session.step is not None and session.step.until is until


#: By name.
FAULTS: dict[str, Callable[[Simulation], None]] = {
    fault.__name__: fault
    for fault in (
        *(cut_reply, cut_command, fail_over, fill_for_long, stand_still, kick),
        *(rotate_late, rotate_within_a_message, replace_while_waiting, hand_over_queued, keep_busy, log_slow),
        *(abandon_unread, replace_within_window, pause_within_rounds),
    )
}
