"""The session of redis-py and of valkey-py, whose interfaces are the same."""

import asyncio
import time

from steps import INDEX, LIMIT, PASSWORD, PORT, URL, beside, leave, show, step, until

#: What Redis 7 tells of a connection.
FIELDS = {
    *(
        "id",
        "addr",
        "laddr",
        "fd",
        "name",
        "age",
        "idle",
        "flags",
        "db",
        "sub",
        "psub",
        "ssub",
        "multi",
        "qbuf",
        "qbuf-free",
    ),
    *("argv-mem", "multi-mem", "rbs", "rbp", "obl", "oll", "omem", "tot-mem", "events", "cmd", "user", "redir", "resp"),
}


def session(library, client_class, prefix: str) -> None:
    """library: the module; client_class: its client; prefix: of URLs."""
    show("version", library.__version__)
    url = URL.replace("redis", prefix, 1)
    for protocol in (2, 3):
        _session(library, client_class, url, protocol)
    _asyncio(library, client_class, url)
    leave()


def _session(library, client_class, url: str, protocol: int) -> None:
    def named(name: str):
        return step(f"RESP{protocol}, {name}")

    def client(**options):
        return client_class(
            **{"host": "127.0.0.1", "port": PORT, "password": PASSWORD, "db": INDEX, "protocol": protocol, **options}
        )

    redis = client(decode_responses=True, client_name="session")
    one = client(decode_responses=True, single_connection_client=True)
    redis.flushdb()

    @named("log in with a URL")
    def _():
        return client_class.from_url(url, protocol=protocol).ping()

    @named("log in with the user name default")
    def _():
        return client(username="default").ping()

    # By default redis-py repeats a refused log-in ten times in RESP3, and the proxy's delays grow.
    once = library.retry.Retry(library.backoff.NoBackoff(), 0)

    @named("log in with a wrong password")
    def _():
        return client(password="not this one", retry=once).ping()

    @named("log in without a password")
    def _():
        return client(password=None, retry=once).ping()

    @named("another database")
    def _():
        return "its keys" if client(db=INDEX + 1).dbsize() == 0 else "others"

    @named("CLIENT ID, SETNAME, GETNAME")
    def _():
        return one.client_id() > 0, one.client_setname("mine"), one.client_getname()

    @named("CLIENT INFO without fields of Redis 7")
    def _():
        return sorted(FIELDS - set(one.client_info()))

    @named("CLIENT LIST")
    def _():
        return "session" in {each["name"] for each in redis.client_list()}

    @named("CLIENT NO-EVICT, NO-TOUCH")
    def _():
        return one.client_no_evict("ON"), one.client_no_touch("ON")

    @named("INFO")
    def _():
        found = redis.info()
        return [name in found for name in ("redis_version", "used_memory", "connected_clients", "role", f"db{INDEX}")]

    @named("CONFIG GET maxmemory")
    def _():
        return redis.config_get("maxmemory")

    @named("CONFIG SET")
    def _():
        return redis.config_set("maxmemory", "0")

    @named("ROLE")
    def _():
        return redis.role()[0]

    @named("types")
    def _():
        redis.set("key", "value", ex=100)
        redis.hset("hash", mapping={"one": 1, "two": 2})
        redis.zadd("sorted", {"low": 1.5, "high": 2.5})
        redis.sadd("set", "a", "b")
        redis.rpush("list", 1, 2, 3)
        return (
            redis.get("key"),
            redis.hgetall("hash"),
            redis.zscore("sorted", "high"),
            sorted(redis.smembers("set")),
            redis.lrange("list", 0, -1),
        )

    @named("an error of a type")
    def _():
        return redis.lpush("key", "x")

    @named("a value of 20 MiB")
    def _():
        large = b"x" * (20 << 20)
        raw = client()
        return raw.set("large", large), raw.get("large") == large, raw.delete("large")

    @named("a pipeline of 2,000 commands")
    def _():
        pipeline = redis.pipeline(transaction=False)
        for number in range(1000):
            pipeline.set(f"key:{number}", number).incr("sum")
        replies = pipeline.execute()
        return len(replies), replies[-1]

    @named("a pipeline with an error")
    def _():
        replies = redis.pipeline(transaction=False).set("a", 1).lpush("a", 1).get("a").execute(raise_on_error=False)
        return [str(reply) for reply in replies]

    @named("MULTI")
    def _():
        return redis.pipeline().set("a", 1).incr("a").get("a").execute()

    @named("MULTI with SELECT of the own index")
    def _():
        return redis.pipeline().execute_command("SELECT", INDEX).get("a").execute()

    @named("WATCH, changed meanwhile")
    def _():
        with redis.pipeline() as pipeline:
            pipeline.watch("a")
            redis.set("a", "changed")
            pipeline.multi()
            pipeline.set("a", "never")
            return pipeline.execute()

    @named("transaction() that tries again")
    def _():
        def change(pipeline):
            before = int(pipeline.get("counter") or 0)
            pipeline.multi()
            pipeline.set("counter", before + 1)

        return [redis.transaction(change, "counter") for _ in range(3)], redis.get("counter")

    @named("a script by EVALSHA, unknown at first")
    def _():
        script = redis.register_script(f"-- {protocol} {time.time_ns()}\nreturn {{redis.call('SET', KEYS[1], ARGV[1]), 7}}")
        return script(["key"], ["one"]), script(["key"], ["two"]), redis.get("key")

    @named("SCRIPT LOAD, EXISTS")
    def _():
        sha = redis.script_load("return 1")
        return redis.script_exists(sha), redis.evalsha(sha, 0)

    @named("SCRIPT FLUSH")
    def _():
        return redis.script_flush()

    @named("FUNCTION LIST")
    def _():
        return redis.function_list()

    @named("a script that publishes")
    def _():
        with client(decode_responses=True).pubsub(ignore_subscribe_messages=True) as listener:
            listener.subscribe("from-a-script")
            listener.get_message(timeout=0.2)
            count = redis.eval("return redis.call('PUBLISH', ARGV[1], ARGV[2])", 0, "from-a-script", "hello")
            found = until(lambda: listener.get_message(timeout=0.1))
            return count, found and (found["channel"], found["data"])

    @named("BLPOP that waits, and one that waits in vain")
    def _():
        waiting = client(decode_responses=True)
        popped = []
        thread = beside(lambda: popped.append(waiting.blpop(["first", "queue"], 10)))
        time.sleep(0.2)
        redis.rpush("queue", "job")
        thread.join(LIMIT)
        return popped, waiting.blpop("queue", 0.1), waiting.ping()

    @named("a stream with a group")
    def _():
        redis.xgroup_create("stream", "group", "0", mkstream=True)
        sent = redis.xadd("stream", {"field": "value"})
        read = redis.xreadgroup("group", "me", {"stream": ">"}, count=10, block=1000)
        entries = next(iter(read.values()))[0] if isinstance(read, dict) else read[0][1]
        pending = redis.xpending("stream", "group")["pending"]
        return (
            entries[0][1],
            pending,
            redis.xack("stream", "group", sent),
            [each["name"] for each in redis.xinfo_consumers("stream", "group")],
        )

    @named("pub/sub with a pattern")
    def _():
        heard = []
        listener = client(decode_responses=True).pubsub()
        listener.subscribe(news=lambda message: heard.append(message["data"]))
        listener.psubscribe(**{"n?ws": lambda message: heard.append((message["pattern"], message["data"]))})
        thread = listener.run_in_thread(sleep_time=0.01, daemon=True)
        until(lambda: redis.pubsub_numpat())
        counts = (
            redis.publish("news", "one"),
            redis.publish("other", "two"),
            redis.pubsub_numsub("news"),
            redis.pubsub_channels(),
        )
        until(lambda: len(heard) == 2)
        thread.stop()
        thread.join(LIMIT)
        return counts, heard

    @named("sharded pub/sub")
    def _():
        with client(decode_responses=True).pubsub(ignore_subscribe_messages=True) as listener:
            listener.ssubscribe("shard")
            listener.get_message(timeout=0.2)
            count = redis.spublish("shard", "hello")
            found = until(lambda: listener.get_sharded_message(timeout=0.1))
            return count, found and found["data"]

    @named("PING of a subscriber")
    def _():
        with client(decode_responses=True).pubsub() as listener:
            listener.subscribe("news")
            listener.get_message(timeout=1)
            listener.ping()
            return until(lambda: listener.get_message(timeout=0.1))

    for pattern in (f"__keyevent@{INDEX}__:expired", "__keyevent@*__:expired", f"__keyspace@{INDEX}__:gone"):

        @named(f"{pattern.replace(str(INDEX), 'INDEX').replace(':', ' ')}")
        def _(pattern=pattern):
            with client(decode_responses=True).pubsub(ignore_subscribe_messages=True) as listener:
                listener.psubscribe(pattern)
                listener.get_message(timeout=0.2)
                redis.set("gone", 1, px=20)
                found = until(lambda: redis.get("gone") is None and listener.get_message(timeout=0.1), 5)
                return found and (found["channel"].replace(str(INDEX), "INDEX"), found["data"])

    @named("a lock")
    def _():
        lock, other = redis.lock("lock", timeout=10), redis.lock("lock", timeout=10)
        found = lock.acquire(), other.acquire(blocking=False), lock.extend(5), lock.owned()
        lock.release()
        return found, other.acquire(blocking_timeout=1), lock.locked()

    @named("SCAN")
    def _():
        return len(set(redis.scan_iter("key:*", count=50)))

    @named("COPY, DUMP")
    def _():
        raw = client()
        redis.set("from", "value")
        copied = redis.copy("from", "to")
        return copied, type(raw.dump("from")).__name__

    @named("RESTORE")
    def _():
        raw = client()
        return raw.restore("again", 0, raw.dump("from")), redis.get("again")

    @named("MEMORY USAGE, OBJECT ENCODING")
    def _():
        return redis.memory_usage("from") > 0, redis.object("ENCODING", "from")

    @named("MONITOR")
    def _():
        with client().monitor() as monitor:
            return monitor is not None

    @named("SLOWLOG GET")
    def _():
        return type(redis.slowlog_get()).__name__

    @named("ACL WHOAMI")
    def _():
        return redis.acl_whoami() != ""

    @named("RESET")
    def _():
        return one.reset()

    @named("client-side caching")
    def _():
        return redis.execute_command("CLIENT", "TRACKING", "ON", "OPTIN")

    @named("twenty threads share a bounded pool")
    def _():
        pool = library.BlockingConnectionPool(
            host="127.0.0.1", port=PORT, password=PASSWORD, db=INDEX, max_connections=5, protocol=protocol
        )
        shared = client_class(connection_pool=pool)
        redis.delete("shared")
        threads = [beside(lambda: [shared.incr("shared") for _ in range(50)]) for _ in range(20)]
        for thread in threads:
            thread.join(LIMIT)
        return redis.get("shared")


def _asyncio(library, client_class, url: str) -> None:
    async def all_of_it() -> object:
        module = library.asyncio
        kind = getattr(module, client_class.__name__)
        async with kind.from_url(url, decode_responses=True) as redis:
            await redis.flushdb()
            values = await asyncio.gather(*(redis.incr("n") for _ in range(50)))
            async with redis.pipeline() as pipeline:
                replies = await pipeline.set("a", 1).get("a").execute()
            async with redis.lock("lock", timeout=5):
                held = await redis.exists("lock")
            async with redis.pubsub(ignore_subscribe_messages=True) as listener:
                await listener.subscribe("news")
                await listener.get_message(timeout=0.2)
                await redis.publish("news", "hello")
                message = None
                for _ in range(100):
                    message = message or await listener.get_message(timeout=0.05)
            popped = asyncio.create_task(redis.blpop("queue", 10))
            await asyncio.sleep(0.1)
            async with kind.from_url(url) as other:
                await other.rpush("queue", "job")
            return sorted(values) == list(range(1, 51)), replies, held, message and message["data"], await popped

    @step("asyncio, all of it")
    def _():
        return asyncio.run(all_of_it())
