"""A session of RQ: a worker with its scheduler, results, dependencies, retries, registries,
commands."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import redis
import rq
from rq.command import send_shutdown_command
from rq.registry import FailedJobRegistry, FinishedJobRegistry
from steps import LIMIT, URL, leave, show, step, until

show("version", rq.VERSION)
client = redis.Redis.from_url(URL)
queue = rq.Queue("jobs", connection=client)
environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent)}
command = [str(Path(sys.executable).parent / "rq"), "worker", "--name", "one", "--with-scheduler", "--url", URL, "jobs"]
worker = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def ended(job: rq.job.Job) -> object:
    until(lambda: job.get_status(refresh=True) in ("finished", "failed"))
    return str(job.get_status(refresh=True)), job.return_value()


@step("a job and its result")
def _():
    return ended(queue.enqueue("rq_jobs.add", 1, 2))


@step("a job that fails")
def _():
    return ended(queue.enqueue("rq_jobs.fails"))


@step("a job that is tried again")
def _():
    return ended(queue.enqueue("rq_jobs.fails", retry=rq.Retry(max=1)))


@step("a job that waits for another")
def _():
    first = queue.enqueue("rq_jobs.add", 1, 1)
    return ended(queue.enqueue("rq_jobs.add", 2, 2, depends_on=first))


@step("a job of later, by the scheduler")
def _():
    return ended(queue.enqueue_in(timedelta(seconds=1), "rq_jobs.add", 3, 3))


@step("many jobs at once")
def _():
    jobs = queue.enqueue_many([rq.Queue.prepare_data("rq_jobs.add", (number, 1)) for number in range(5)])
    return [ended(job)[1] for job in jobs]


@step("workers")
def _():
    return [(each.name, each.queue_names()) for each in rq.Worker.all(connection=client)]


@step("registries")
def _():
    return len(FailedJobRegistry(queue=queue)), len(FinishedJobRegistry(queue=queue)), queue.count


@step("a job that is cancelled")
def _():
    job = queue.enqueue_in(timedelta(hours=1), "rq_jobs.add", 1, 1)
    job.cancel()
    return str(job.get_status(refresh=True))


@step("the worker ends when it is told by a channel")
def _():
    send_shutdown_command(client, "one")
    return worker.wait(LIMIT)


leave()
