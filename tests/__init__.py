"""The tests. Importing them mends trial, which with ``-j`` takes a test whose subTest failed for one that passed, and sets up hypothesis."""

from __future__ import annotations

import os
import unittest

from hypothesis import HealthCheck, Phase, settings
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


# Settings of hypothesis, for all tests: what it finds must not depend on how fast a machine is, on what an earlier run has found,
# or on chance. Shrinking takes minutes where an example takes a server: with TEST_SHRINK=1, for whoever looks for the cause.
_PHASES = [Phase.explicit, Phase.generate]
settings.register_profile(
    "redisproxy",
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[*_PHASES, Phase.shrink] if os.environ.get("TEST_SHRINK") else _PHASES,
)
settings.load_profile("redisproxy")
