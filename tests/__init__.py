"""The tests. Importing them mends trial: with ``-j`` it takes a test whose subTest failed for one that passed."""

from __future__ import annotations

import unittest

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
