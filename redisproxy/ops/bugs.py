"""Logs what nobody expected: a bug.

Owns the words of that line. Whoever calls decides what goes on afterwards; the text of the error is
left out by `logs`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from .. import messages


def log_bug(log: Logger, what: str, failure: Failure, /, **fields: Any) -> None:
    """Logs a failure that nobody expected, with its traceback.

    log: of the module whose bug it is; what: what failed, with names of fields in braces.
    """
    log.failure(messages.BUG.text.replace("{what}", what), failure, code=messages.BUG.code, **fields)


def bug(log: Logger, what: str, /, *expected: type[BaseException], **fields: Any) -> Callable[[Failure], None]:
    """An errback that logs a failure as `log_bug` does, and passes none on. expected: errors that
    are no bugs.
    """

    def log_failure(failure: Failure) -> None:
        if not failure.check(*expected):
            log_bug(log, what, failure, **fields)

    return log_failure
