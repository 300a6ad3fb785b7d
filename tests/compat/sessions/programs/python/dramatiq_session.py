"""A session of Dramatiq: a worker, results, groups, pipelines, retries, delays, rate limits."""

import time
from importlib.metadata import version

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.rate_limits import ConcurrentRateLimiter, WindowRateLimiter
from dramatiq.rate_limits.backends import RedisBackend as LimiterBackend
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from steps import LIMIT, URL, leave, show, step

show("version", version("dramatiq"))
broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)
tries = []


@dramatiq.actor(store_results=True)
def add(one, other):
    return one + other


@dramatiq.actor(store_results=True, max_retries=3, min_backoff=10, max_backoff=20)
def fails_once():
    tries.append(1)
    if len(tries) < 2:
        raise ValueError("no")
    return len(tries)


worker = dramatiq.Worker(broker, worker_threads=4, worker_timeout=100)
worker.start()
WAIT = {"block": True, "timeout": LIMIT * 1000}


@step("a message and its result")
def _():
    return add.send(1, 2).get_result(**WAIT)


@step("a message that is tried again")
def _():
    return fails_once.send().get_result(**WAIT)


@step("a delayed message")
def _():
    return add.send_with_options(args=(2, 2), delay=200).get_result(**WAIT)


@step("a group")
def _():
    return list(dramatiq.group([add.message(number, 1) for number in range(30)]).run().get_results(**WAIT))[-1]


@step("a pipeline")
def _():
    return (add.message(1, 2) | add.message(3)).run().get_result(**WAIT)


@step("a message of a megabyte")
def _():
    return len(add.send("x" * 1_000_000, "y").get_result(**WAIT))


@step("rate limits")
def _():
    backend = LimiterBackend(url=URL)
    window = WindowRateLimiter(backend, "window", limit=2, window=60)
    found = []
    for _ in range(3):
        with window.acquire(raise_on_failure=False) as acquired:
            found.append(acquired)
    one, other = (ConcurrentRateLimiter(backend, "mutex", limit=1) for _ in range(2))
    with one.acquire() as first, other.acquire(raise_on_failure=False) as second:
        return found, first, second


@step("the queue is empty at the end")
def _():
    broker.join("default", timeout=LIMIT * 1000)
    time.sleep(0.1)
    return broker.client.hlen("dramatiq:default.msgs")


worker.stop()
leave()
