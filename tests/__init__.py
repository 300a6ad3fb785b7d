"""The tests. Importing them corrects trial's ``-j`` (a failed subTest fails its test), and sets up
hypothesis.

TEST_DURATIONS names a file: a line for each test, ``SECONDS ID``, appended by the worker that ran
it.
"""

from __future__ import annotations

import os
import time
import unittest
from importlib.util import find_spec

from twisted.trial._dist.workerreporter import WorkerReporter


def _add_sub_test(self: WorkerReporter, test: unittest.TestCase, _: unittest.TestCase, error: tuple | None) -> None:
    """What unittest's own does keeps the failure in the worker's process, where nobody looks."""
    if error is None:
        return
    if issubclass(error[0], test.failureException):
        self.addFailure(test, error)
    else:
        self.addError(test, error)


WorkerReporter.addSubTest = _add_sub_test


def _start_test(self: WorkerReporter, test: unittest.TestCase) -> None:
    super(WorkerReporter, self).startTest(test)
    self._started = time.monotonic()


def _stop_test(self: WorkerReporter, test: unittest.TestCase) -> None:
    super(WorkerReporter, self).stopTest(test)
    with open(os.environ["TEST_DURATIONS"], "a") as durations:  # noqa: PTH123 - one short write, so lines do not mix
        durations.write(f"{time.monotonic() - self._started:.2f} {test.id()}\n")


if "TEST_DURATIONS" in os.environ:
    WorkerReporter.startTest = _start_test
    WorkerReporter.stopTest = _stop_test


def _set_up_hypothesis() -> None:
    """For all tests: what it finds must not depend on how fast a machine is, on what an earlier run
    has found, or on chance.

    Shrinking takes minutes where an example takes a server: with TEST_SHRINK=1, for whoever looks
    for the cause.
    """
    from hypothesis import HealthCheck, Phase, settings

    phases = [Phase.explicit, Phase.generate]
    settings.register_profile(
        "redisproxy",
        deadline=None,
        derandomize=True,
        database=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
        phases=[*phases, Phase.shrink] if os.environ.get("TEST_SHRINK") else phases,
    )
    settings.load_profile("redisproxy")


# the benchmarks, which have the servers of `support` in common with the tests, need none
if find_spec("hypothesis"):
    _set_up_hypothesis()
