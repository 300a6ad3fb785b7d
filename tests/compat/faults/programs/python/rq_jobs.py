"""The job of the RQ workers."""

import os

from program import event


def work(number: int) -> None:
    """Runs in a child process of the worker."""
    event("worker", int(os.environ["WORKER"]), "did", number)
