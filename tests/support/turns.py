"""Turns of a reactor whose clock is the test's."""

from __future__ import annotations

from twisted.internet import task


def turn(clock: task.Clock) -> None:
    """Makes one turn of the reactor. `Clock.advance` would make all that follow as well."""
    for call in [call for call in clock.calls if call.getTime() <= clock.seconds()]:
        clock.calls.remove(call)
        call.called = 1
        call.func(*call.args, **call.kw)
