"""A session of Celery: a worker, results, groups, chords, retries, remote control, events."""

import os
import subprocess
import sys
from pathlib import Path

import celery
from celery_jobs import add, app, fails, fails_twice, total
from steps import LIMIT, beside, leave, show, step, until

show("version", celery.__version__)
environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent)}
command = [sys.executable, "-m", "celery", "-A", "celery_jobs", "worker", "--concurrency", "2", "-n", "one@session", "-E"]
worker = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


@step("a worker answers a ping")
def _():
    return until(lambda: app.control.ping(timeout=0.5))


@step("a task and its result")
def _():
    return add.delay(1, 2).get(timeout=LIMIT)


@step("a task that fails")
def _():
    return fails.delay().get(timeout=LIMIT)


@step("a task that is tried again")
def _():
    return fails_twice.delay().get(timeout=LIMIT)


@step("a task with a countdown")
def _():
    return add.apply_async((1, 1), countdown=0.3).get(timeout=LIMIT)


@step("a task with a priority")
def _():
    return add.apply_async((1, 1), priority=9).get(timeout=LIMIT)


@step("a group of 50")
def _():
    return celery.group(add.s(number, 1) for number in range(50)).apply_async().get(timeout=LIMIT)[-1]


@step("a chain")
def _():
    return celery.chain(add.s(1, 2), add.s(3), add.s(4)).apply_async().get(timeout=LIMIT)


@step("a chord")
def _():
    return celery.chord([add.s(number, number) for number in range(10)], total.s()).apply_async().get(timeout=LIMIT)


@step("a task of a megabyte")
def _():
    return len(add.delay("x" * 1_000_000, "y").get(timeout=LIMIT))


@step("remote control")
def _():
    inspect = app.control.inspect(timeout=2)
    return sorted(inspect.registered()["one@session"])[-2:], inspect.active(), list(inspect.stats())


@step("events")
def _():
    heard = []
    with app.connection() as connection:
        receiver = app.events.Receiver(connection, handlers={"task-succeeded": lambda event: heard.append(event["result"])})
        beside(lambda: receiver.capture(limit=None, timeout=LIMIT, wakeup=False))
        until(lambda: add.delay(20, 22).get(timeout=LIMIT) and heard)
        return heard[0]


@step("a task that is revoked")
def _():
    late = add.apply_async((1, 1), countdown=1)
    app.control.revoke(late.id)
    return late.get(timeout=LIMIT)


@step("the queue is empty at the end, and purged")
def _():
    return app.control.purge()


worker.terminate()
show("the worker ends", worker.wait(LIMIT))
leave()
