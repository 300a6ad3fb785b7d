"""Logs unexpected errors, which are bugs.

Owns the text of that line. The caller decides how to go on. `logs` leaves out the text of the
exception.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from .. import messages


def log_bug(log: Logger, what: str, failure: Failure, /, **fields: Any) -> None:
    """Logs an unexpected failure with its traceback.

    log: the logger of the module that has the bug; what: what failed, with names of fields in
    braces.
    """
    log.failure(messages.BUG.text.replace("{what}", what), failure, code=messages.BUG.code, **fields)


def bug(log: Logger, what: str, /, *expected: type[BaseException], **fields: Any) -> Callable[[Failure], None]:
    """Returns an errback that logs a failure like `log_bug`, and passes none on.

    expected: exceptions that are not bugs, which are not logged.
    """

    def log_failure(failure: Failure) -> None:
        if not failure.check(*expected):
            log_bug(log, what, failure, **fields)

    return log_failure
