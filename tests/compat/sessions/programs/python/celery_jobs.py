"""The Celery application of the worker and of the session."""

import celery
from steps import URL

app = celery.Celery("jobs", broker=URL, backend=URL)
app.conf.update(broker_connection_retry_on_startup=True, worker_send_task_events=True, task_send_sent_event=True)


@app.task
def add(one: int, other: int) -> int:
    return one + other


@app.task(bind=True, max_retries=3)
def fails_twice(self) -> int:
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return self.request.retries


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def fails() -> None:
    raise ValueError("no")
