"""A producer and two workers of RQ: `rq worker`, as an operator starts it."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import redis
import rq
from program import INDEX, MASTER, PASSWORD, SENTINELS, URL, ended, error, event, wait_for_the_end
from redis.sentinel import Sentinel

#: Seconds between two jobs, and for the workers to finish. A worker forks for each job. It survives
#: the loss of its connection only while it waits for a job, so there are few.
PAUSE, REST = 1.0, 6
HERE = Path(__file__).resolve().parent


def worker(number: int) -> subprocess.Popen:
    where = ["--url", URL]
    if SENTINELS:
        configuration = Path(tempfile.mkdtemp(dir=".")) / "settings_of_rq.py"
        configuration.write_text(
            f"SENTINEL = {{'INSTANCES': {SENTINELS!r}, 'MASTER_NAME': {MASTER!r}, 'DB': {INDEX}, 'PASSWORD': {PASSWORD!r}}}\n"
        )
        where = ["--path", str(configuration.parent), "--config", configuration.stem]
    environ = {**os.environ, "WORKER": str(number), "PYTHONPATH": str(HERE)}
    command = [str(Path(sys.executable).parent / "rq"), "worker", "--name", f"worker-{number}", *where, "jobs"]
    # The log is for people; events are written by the job itself.
    return subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL)


def watches(number: int, process: subprocess.Popen) -> None:
    status = process.wait()
    if not ended.is_set():
        event("worker", number, "error", f"the worker ended with status {status}")


def produces() -> None:
    client = Sentinel(SENTINELS).master_for(MASTER, db=INDEX, password=PASSWORD) if SENTINELS else redis.Redis.from_url(URL)
    queue = rq.Queue("jobs", connection=client)
    number = 0
    while not ended.is_set():
        number += 1
        try:
            queue.enqueue("rq_jobs.work", number)
        except Exception as problem:
            error("producer", 0, problem)
        else:
            event("producer", 0, "added", number)
        time.sleep(PAUSE)


event("producer", 0, "note", f"RQ {rq.VERSION}, redis-py {redis.__version__}")
workers = [worker(number) for number in range(2)]
for number, process in enumerate(workers):
    threading.Thread(target=watches, args=(number, process), daemon=True).start()
threading.Thread(target=produces, daemon=True).start()
wait_for_the_end()
time.sleep(REST)
for process in workers:
    process.kill()
os._exit(0)
