"""Clients of redis-py, in threads.

    redis_sync.py [tenants]

tenants: with the settings that docs/tenants.md recommends; otherwise with the library's own. All
threads but the subscribers have one client and its pool.
"""

import os
import sys
import threading
import time

import redis
from program import (
    INDEX,
    LARGE,
    MASTER,
    PASSWORD,
    PAUSE,
    PORT,
    REST,
    SENTINELS,
    SLOW_PAUSE,
    ended,
    error,
    event,
    wait_for_the_end,
)
from redis.backoff import ExponentialBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

OPTIONS = {}
if "tenants" in sys.argv[1:]:
    OPTIONS = {"retry": Retry(ExponentialBackoff(cap=1, base=0.05), 6), "health_check_interval": 30}


def connect() -> redis.Redis:
    if SENTINELS:
        return Sentinel(SENTINELS).master_for(MASTER, db=INDEX, password=PASSWORD, **OPTIONS)
    return redis.Redis(host="127.0.0.1", port=PORT, db=INDEX, password=PASSWORD, **OPTIONS)


client = connect()


def commands(number: int) -> None:
    while not ended.is_set():
        for command in (client.incr, client.get):
            try:
                found = command(f"count:{number}")
            except Exception as problem:
                error("command", number, problem)
            else:
                event("command", number, "ok", found if isinstance(found, int) else "")
            time.sleep(PAUSE)


def repeats(role: str, done: str, action) -> None:
    """Calls the action with rising numbers. The event has what it returns."""
    number = 0
    while not ended.is_set():
        number += 1
        try:
            found = action(number)
        except Exception as problem:
            error(role, 0, problem)
        else:
            event(role, 0, done, found)
        time.sleep(SLOW_PAUSE)


def adds(number: int) -> int:
    client.rpush("queue", number)
    return number


def publishes(number: int) -> int:
    client.publish("news", number)
    return number


def sets(_: int) -> str:
    client.set("large", "x" * LARGE)
    return ""


def transacts(_: int) -> int:
    with client.pipeline() as pipe:
        return pipe.incr("transaction").get("transaction").execute()[0]


def consumes(number: int) -> None:
    while True:
        try:
            found = client.blpop(["queue"], 2)
        except Exception as problem:
            error("consumer", number, problem)
            time.sleep(PAUSE)
        else:
            event("consumer", number, *(("ok",) if found is None else ("did", int(found[1]))))


def subscribes_again() -> None:
    """Subscriber 0, an application that goes on after an error."""
    pubsub = connect().pubsub()
    pubsub.subscribe("news")
    while True:
        try:
            for message in pubsub.listen():
                if message["type"] == "message":
                    event("subscriber", 0, "heard", int(message["data"]))
        except Exception as problem:
            error("subscriber", 0, problem)
            time.sleep(PAUSE)


def subscribes() -> None:
    """Subscriber 1, by redis-py's own thread, which ends at an error that is raised."""
    pubsub = connect().pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(news=lambda message: event("subscriber", 1, "heard", int(message["data"])))
    pubsub.run_in_thread(sleep_time=1, daemon=True)


threading.excepthook = lambda problem: error("subscriber", 1, problem.exc_value)
event("command", 0, "note", f"redis-py {redis.__version__}")
threads = [
    *(lambda number=number: commands(number) for number in range(12)),
    lambda: repeats("publisher", "published", publishes),
    lambda: repeats("producer", "added", adds),
    lambda: repeats("large", "ok", sets),
    lambda: repeats("transaction", "ok", transacts),
    *(lambda number=number: consumes(number) for number in range(2)),
    subscribes_again,
    subscribes,
]
for target in threads:
    threading.Thread(target=target, daemon=True).start()
wait_for_the_end()
time.sleep(REST)
os._exit(0)
