"""The tests of the project. Importing this package sets up hypothesis, and fixes trial's ``-j``: a
failed subTest then fails its test.

If the environment variable TEST_DURATIONS names a file, each worker appends a line ``SECONDS ID``
to that file for each test that it ran.
"""

from __future__ import annotations

import os
import time
import unittest
from importlib.util import find_spec

from twisted.trial._dist.workerreporter import WorkerReporter


def _add_sub_test(self: WorkerReporter, test: unittest.TestCase, _: unittest.TestCase, error: tuple | None) -> None:
    """Sends the failure of a subTest to the main process. unittest's own method leaves the failure
    in the worker's process, where nobody sees it.
    """
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
    """Makes hypothesis repeatable for all tests: a result must not depend on the machine's speed,
    on an earlier run, or on chance.

    TEST_SHRINK=1 turns shrinking on, to look for the cause of a failure. Shrinking is off by
    default, because it takes minutes if each example starts a server.
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


# The benchmarks import this package for the servers of `support`, and need no hypothesis.
if find_spec("hypothesis"):
    _set_up_hypothesis()
