"""Clients of redis-py's asyncio half.

    redis_asyncio.py [tenants]

tenants: with the settings that docs/tenants.md recommends; otherwise with the library's own. All
tasks but the subscribers have one client and its pool.
"""

import asyncio
import os
import sys

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
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialBackoff

OPTIONS = {}
if "tenants" in sys.argv[1:]:
    OPTIONS = {"retry": Retry(ExponentialBackoff(cap=1, base=0.05), 6), "health_check_interval": 30}


def connect() -> Redis:
    if SENTINELS:
        return Sentinel(SENTINELS).master_for(MASTER, db=INDEX, password=PASSWORD, **OPTIONS)
    return Redis(host="127.0.0.1", port=PORT, db=INDEX, password=PASSWORD, **OPTIONS)


async def commands(client: Redis, number: int) -> None:
    while not ended.is_set():
        for command in (client.incr, client.get):
            try:
                found = await command(f"count:{number}")
            except Exception as problem:
                error("command", number, problem)
            else:
                event("command", number, "ok", found if isinstance(found, int) else "")
            await asyncio.sleep(PAUSE)


async def repeats(client: Redis, role: str, done: str, action) -> None:
    """Calls the action with rising numbers. The event has what it returns."""
    number = 0
    while not ended.is_set():
        number += 1
        try:
            found = await action(client, number)
        except Exception as problem:
            error(role, 0, problem)
        else:
            event(role, 0, done, found)
        await asyncio.sleep(SLOW_PAUSE)


async def adds(client: Redis, number: int) -> int:
    await client.rpush("queue", number)
    return number


async def publishes(client: Redis, number: int) -> int:
    await client.publish("news", number)
    return number


async def sets(client: Redis, _: int) -> str:
    await client.set("large", "x" * LARGE)
    return ""


async def transacts(client: Redis, _: int) -> int:
    async with client.pipeline() as pipe:
        return (await pipe.incr("transaction").get("transaction").execute())[0]


async def consumes(client: Redis, number: int) -> None:
    while True:
        try:
            found = await client.blpop(["queue"], 2)
        except Exception as problem:
            error("consumer", number, problem)
            await asyncio.sleep(PAUSE)
        else:
            event("consumer", number, *(("ok",) if found is None else ("did", int(found[1]))))


async def subscribes_again() -> None:
    """Subscriber 0, an application that goes on after an error."""
    pubsub = connect().pubsub()
    await pubsub.subscribe("news")
    while True:
        try:
            async for message in pubsub.listen():
                if message["type"] == "message":
                    event("subscriber", 0, "heard", int(message["data"]))
        except Exception as problem:
            error("subscriber", 0, problem)
            await asyncio.sleep(PAUSE)


async def subscribes() -> None:
    """Subscriber 1, by redis-py's own loop, which ends at an error that is raised."""
    pubsub = connect().pubsub(ignore_subscribe_messages=True)
    await pubsub.subscribe(news=lambda message: event("subscriber", 1, "heard", int(message["data"])))
    try:
        await pubsub.run()
    except Exception as problem:
        error("subscriber", 1, problem)


async def main() -> None:
    event("command", 0, "note", f"redis-py {redis.__version__}, asyncio")
    client = connect()
    tasks = [
        *(commands(client, number) for number in range(12)),
        repeats(client, "publisher", "published", publishes),
        repeats(client, "producer", "added", adds),
        repeats(client, "large", "ok", sets),
        repeats(client, "transaction", "ok", transacts),
        *(consumes(client, number) for number in range(2)),
        subscribes_again(),
        subscribes(),
    ]
    running = [asyncio.ensure_future(task) for task in tasks]
    await asyncio.to_thread(wait_for_the_end)
    await asyncio.sleep(REST)
    assert running
    os._exit(0)


asyncio.run(main())
