"""Reasons for tests: any text as a `messages.Text`, and states that have one."""

from __future__ import annotations

from typing import Any

from redisproxy import messages
from redisproxy.messages import Text


def reason(text: str) -> Text:
    """Returns a reason with this text, of a message that takes any."""
    return messages.NET_OTHER(error=text)


def set_unready(state: dict[str, Any], why: Text | None) -> None:
    """Makes a `stats.State` or a worker's report one of a proxy that is not ready; None: ready."""
    state |= {"unready": why or "", "unready_code": "" if why is None else why.code}


def set_fault(redis: dict[str, Any], fault: Text | None, **more: Any) -> None:
    """Makes a `stats.RedisState` one of a Redis with a fault; None: without. more: other fields."""
    redis |= {"fault": fault or "", "fault_code": "" if fault is None else fault.code, **more}
