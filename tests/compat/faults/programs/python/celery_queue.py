"""A producer and two workers of Celery, with Redis as broker and as result backend."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import celery
import redis
from celery_jobs import work
from program import ended, error, event, wait_for_the_end

#: Seconds between two jobs, and for the workers to finish.
PAUSE, REST = 0.1, 6
HERE = Path(__file__).resolve().parent


def worker(number: int) -> subprocess.Popen:
    environ = {**os.environ, "WORKER": str(number), "PYTHONPATH": str(HERE)}
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "celery_jobs",
        "worker",
        "--concurrency",
        "1",
        "-n",
        f"worker-{number}@%h",
    ]
    return subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL)


def watches(number: int, process: subprocess.Popen) -> None:
    status = process.wait()
    if not ended.is_set():
        event("worker", number, "error", f"the worker ended with status {status}")


def produces() -> None:
    number = 0
    while not ended.is_set():
        number += 1
        try:
            work.delay(number)
        except Exception as problem:
            error("producer", 0, problem)
        else:
            event("producer", 0, "added", number)
        time.sleep(PAUSE)


event("producer", 0, "note", f"Celery {celery.__version__}, redis-py {redis.__version__}")
workers = [worker(number) for number in range(2)]
for number, process in enumerate(workers):
    threading.Thread(target=watches, args=(number, process), daemon=True).start()
threading.Thread(target=produces, daemon=True).start()
wait_for_the_end()
time.sleep(REST)
for process in workers:
    process.kill()
os._exit(0)
