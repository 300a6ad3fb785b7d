"""The Celery application of the workers and of the producer."""

import os

import celery
from program import INDEX, MASTER, PASSWORD, SENTINELS, URL, event

broker = ";".join(f"sentinel://:{PASSWORD}@{host}:{port}/{INDEX}" for host, port in SENTINELS) or URL
app = celery.Celery("jobs", broker=broker, backend=broker)
app.conf.broker_connection_retry_on_startup = True
if SENTINELS:
    app.conf.broker_transport_options = {"master_name": MASTER}
    app.conf.result_backend_transport_options = {"master_name": MASTER}


@app.task
def work(number: int) -> int:
    event("worker", int(os.environ["WORKER"]), "did", number)
    return number
