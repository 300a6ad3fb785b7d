"""A long run under mixed load with the faults of production: is memory flat, and every error
expected?

Starts Redis, the proxy, and the small Kubernetes API server of `tests/support`. Sessions of two
tenants work like applications, and check every answer. Meanwhile a password is rotated, Redis is
killed and started again, loads its data, stands still, takes no more clients and closes
connections, the API is away, and the API answers with errors. All that happens once in each ten
minutes. An error that no such event explains is a failure.

    python -m benchmarks.soak [--minutes N] [--proxy OPTIONS]

Exits with 1 if an answer was wrong, an error was not expected, or memory, descriptors or
connections grew.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shlex
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.apiserver import ANY, ApiServer, refusal
from tests.support.proxy import ProxyProcess, master, secret, tenant
from tests.support.raw import RawClient
from tests.support.servers import RedisServer
from tests.support.waiting import until

#: Seconds after an event during which the errors that it explains are expected.
EXPLAINED = 15.0
#: Minutes in which each event happens once.
ROUND = 10.0
#: Keys, and microseconds for loading each of them: Redis loads its data for 4 s.
FILLER, LOAD_DELAY = 4000, 1000
#: Seconds between two samples of the proxy's resources.
SAMPLE = 5.0
#: The first part of the run, in which memory may still grow: pools fill, and code runs for the
#: first time.
WARM = 0.15
#: MiB of resident memory by which the median of the last quarter of the run may exceed that of the
#: first quarter after WARM.
GROWTH = 6.0

#: The errors that a client may get after an event, in addition to a lost connection.
CLEAR = (
    "invalid username-password pair",
    "A ConnectionError occurred while watching",
)
GONE = (redis.ConnectionError, redis.TimeoutError, OSError)

#: The work of a session: yields after each piece of work.
Work = Callable[["Soak", redis.Redis, str], Iterator[None]]


class Passwords:
    """The passwords in force. A rotation replaces one while sessions are connected."""

    def __init__(self) -> None:
        self.of = {"team-blue": ("blue-0", 3), "team-green": ("green-0", 5)}

    def rotate(self, namespace: str) -> list[dict]:
        """Returns the manifests with the next password."""
        password, index = self.of[namespace]
        stem, _, number = password.partition("-")
        self.of[namespace] = (f"{stem}-{int(number) + 1}", index)
        return tenant(namespace, index, self.of[namespace][0])


class Soak:
    """The installation, the results of its clients, and the events with their times."""

    def __init__(self, options: list[str]) -> None:
        self.passwords = Passwords()
        self.server = RedisServer().start()
        others = [document for n in range(20) for document in tenant(f"team-other-{n}", 10 + n, f"other-{n}")]
        enrolled = [d for name, (password, index) in self.passwords.of.items() for d in tenant(name, index, password)]
        self.api = ApiServer(master(self.server.url), *enrolled, *others)
        self.api.start()
        environ = {"KUBECONFIG": str(self.api.kubeconfig)}
        self.proxy = ProxyProcess("--refresh", "20", *options, environ=environ, fresh=True).ready()
        self.over = threading.Event()
        self.done: Counter[str] = Counter()
        self.explained: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.events: list[tuple[float, str]] = []

    def stop(self) -> None:
        self.proxy.stop()
        self.api.remove()
        self.server.stop()

    def happened(self, what: str) -> None:
        self.events.append((time.monotonic(), what))
        print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)

    def client(self, namespace: str, protocol: int = 2, **options: object) -> redis.Redis:
        password, index = self.passwords.of[namespace]
        options = {"socket_timeout": 30, "retry": Retry(NoBackoff(), 0), "protocol": protocol, **options}
        return redis.Redis(host="127.0.0.1", port=self.proxy.port, password=password, db=index, **options)

    def failed(self, kind: str, error: BaseException) -> None:
        """Records an error: explained by a recent event, or wrong."""
        recent = any(time.monotonic() - at < EXPLAINED for at, _ in self.events)
        if recent and (isinstance(error, GONE) or any(text in str(error) for text in CLEAR)):
            self.explained[f"{kind}: {type(error).__name__}"] += 1
        else:
            self.wrong.append(f"{kind}: {type(error).__name__}: {error}")

    def check(self, kind: str, found: object, wanted: object) -> bool:
        """Returns whether this was found. A session without a command in flight lives on when Redis
        was killed, and with it the latest data.
        """
        if found == wanted:
            return True
        if any("Redis" in what and time.monotonic() - at < EXPLAINED for at, what in self.events):
            self.explained[f"{kind}: other data"] += 1
        else:
            self.wrong.append(f"{kind}: {str(found)[:80]!r} is not {str(wanted)[:80]!r}")
        return False

    def session(self, kind: str, work: Work, namespace: str, protocol: int) -> None:
        """Works over one connection, and opens the next one if that is lost."""
        number = 0
        while not self.over.is_set():
            number += 1
            name = f"{kind}:{protocol}:{namespace}:{number}"
            try:
                with self.client(namespace, protocol, single_connection_client=True) as client:
                    for _ in work(self, client, name):
                        self.done[kind] += 1
                        if self.over.wait(random.uniform(0, 0.01)):
                            return
            except (redis.RedisError, OSError) as error:
                self.failed(kind, error)
                self.over.wait(0.2)


# The sessions' work. Each function yields after a piece of work.


def plain(soak: Soak, client: redis.Redis, name: str) -> Iterator[None]:
    number = 0
    while True:
        number += 1
        client.set(name, number)
        soak.check("plain", client.get(name), b"%d" % number)
        client.hset(f"{name}:h", mapping={"a": number, "b": "x" * 300})
        soak.check("plain", client.hget(f"{name}:h", "a"), b"%d" % number)
        client.delete(name, f"{name}:h")
        yield


def pipelined(soak: Soak, client: redis.Redis, name: str) -> Iterator[None]:
    while True:
        with client.pipeline(transaction=False) as pipe:
            for number in range(50):
                pipe.set(f"{name}:{number}", number).get(f"{name}:{number}")
            pipe.config_set("maxmemory", "1")
            pipe.delete(*(f"{name}:{number}" for number in range(50)))
            found = pipe.execute(raise_on_error=False)
        errors = [answer for answer in found[:100] if isinstance(answer, Exception)]
        if errors:
            raise errors[0]
        soak.check("pipelined", found[1:100:2], [b"%d" % number for number in range(50)])
        soak.check("pipelined", "not available here" in str(found[100]), True)
        yield


def transactions(soak: Soak, client: redis.Redis, name: str) -> Iterator[None]:
    number = 0
    while True:
        if not number:
            client.set(name, 0)
        number += 1
        with client.pipeline() as pipe:
            if number % 2:
                pipe.watch(name)
            pipe.multi()
            pipe.incr(name).get(name)
            if not soak.check("transactions", pipe.execute(), [number, b"%d" % number]):
                number = 0
        yield


def scripts(soak: Soak, client: redis.Redis, name: str) -> Iterator[None]:
    number = 0
    while True:
        number += 1
        found = client.eval("redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])", 1, name, number)
        soak.check("scripts", found, b"%d" % number)
        yield


def large(soak: Soak, client: redis.Redis, name: str) -> Iterator[None]:
    while True:
        value = random.randbytes(random.choice((70_000, 300_000, 2_000_000)))
        client.set(name, value)
        found = client.get(name)
        soak.check("large", found if found is None else found == value, True)
        client.delete(name)
        yield


def blocking(soak: Soak, client: redis.Redis, name: str) -> Iterator[None]:
    namespace = name.split(":")[2]
    number = 0
    with soak.client(namespace, single_connection_client=True) as other:
        while True:
            number += 1
            later = threading.Timer(0.02, lambda: _push(soak, other, name, number))  # noqa: B023
            later.start()
            try:
                found = client.blpop(name, 20)
            finally:
                later.join()
            if found is not None:
                soak.check("blocking", found[1], b"%d" % number)
            yield


def _push(soak: Soak, client: redis.Redis, name: str, number: int) -> None:
    try:
        client.rpush(name, number)
    except (redis.RedisError, OSError) as error:
        soak.failed("blocking", error)


def messages(soak: Soak, client: redis.Redis, name: str) -> Iterator[None]:
    namespace = name.split(":")[2]
    with soak.client(namespace, single_connection_client=True) as other, client.pubsub() as subscriber:
        subscriber.subscribe(name)
        until(lambda: subscriber.get_message(timeout=5), "the confirmation")
        number = 0
        while True:
            number += 1
            if other.publish(name, number) != 1:
                raise redis.ConnectionError("the subscriber is gone")
            message = subscriber.get_message(timeout=20)
            soak.check("messages", message and (message["channel"], message["data"]), (name.encode(), b"%d" % number))
            yield


def churn(soak: Soak) -> None:
    """Clients that connect, and leave in every possible way."""
    # A wrong password is answered late, so it is rare.
    ways = ("close", "quit", "half") * 10 + ("reset", "silent", "wrong")
    while not soak.over.wait(0.02):
        namespace = random.choice(list(soak.passwords.of))
        password, _ = soak.passwords.of[namespace]
        way = random.choice(ways)
        try:
            with RawClient(soak.proxy.port, timeout=30) as raw:
                if way == "silent":
                    continue
                raw.send(b"AUTH %b\r\nPING\r\n" % (b"nobodys" if way == "wrong" else password.encode()))
                if way == "reset":
                    raw.reset()
                    continue
                if way == "quit":
                    raw.send(b"QUIT\r\n")
                if way in ("half", "quit"):
                    raw.half_close()
                    raw.rest()
                else:
                    raw.some()
            soak.done["churn"] += 1
        except OSError as error:
            soak.failed("churn", error)


WORK = {
    "plain": plain,
    "pipelined": pipelined,
    "transactions": transactions,
    "scripts": scripts,
    "large": large,
    "blocking": blocking,
    "messages": messages,
}


# The events, and the part of a round at which each happens.


def rotate(soak: Soak) -> None:
    soak.happened("the password of team-blue is rotated")
    soak.api.put(*soak.passwords.rotate("team-blue"))


def restart_redis(soak: Soak) -> None:
    soak.happened("Redis is killed")
    soak.server.kill()
    soak.over.wait(3)
    soak.server.start()
    soak.happened("Redis is started again, empty")


def load_data(soak: Soak) -> None:
    with soak.server.client(9) as straight:
        straight.mset({f"filler:{number}": number for number in range(FILLER)})
        straight.save()
    soak.happened("Redis is killed")
    soak.server.kill()
    soak.server.change(f"key-load-delay {LOAD_DELAY}", "loading-process-events-interval-bytes 1024")
    soak.server.start()
    soak.happened("Redis loads its data")
    with soak.server.client(9, socket_timeout=30) as straight:
        until(lambda: not straight.info("persistence")["loading"], "Redis has loaded its data", 60)
        straight.flushdb()
    soak.server.change()
    (Path(soak.server.directory) / "dump.rdb").unlink()
    soak.happened("Redis has loaded its data")


def stop_redis(soak: Soak) -> None:
    soak.happened("Redis stands still for 7 s")
    os.kill(soak.server.pid, signal.SIGSTOP)
    soak.over.wait(7)
    os.kill(soak.server.pid, signal.SIGCONT)


def close_connections(soak: Soak) -> None:
    soak.happened("Redis closes each second connection")
    with soak.server.client() as straight:
        for client in straight.client_list()[::2]:
            with contextlib.suppress(redis.ResponseError):  # it has left
                straight.client_kill_filter(_id=client["id"], skipme=True)


def refuse_clients(soak: Soak) -> None:
    """All have to connect again, and Redis takes no connection for 3 s."""
    with soak.server.client(single_connection_client=True) as straight:
        before = straight.config_get("maxclients")["maxclients"]
        soak.happened("Redis takes no more clients")
        straight.config_set("maxclients", 1)
        for kind in ("normal", "pubsub"):
            straight.execute_command("CLIENT", "KILL", "TYPE", kind)
        soak.over.wait(3)
        straight.config_set("maxclients", before)
    soak.happened("Redis takes clients again")


def lose_api(soak: Soak) -> None:
    soak.happened("the API is away")
    soak.api.stop()


def confuse_api(soak: Soak) -> None:
    soak.api.start()
    soak.api.fail(ANY, refusal(500))
    soak.happened("the API answers with errors")


def fix_api(soak: Soak) -> None:
    soak.api.fix()
    soak.happened("the API is back")


def expire(soak: Soak) -> None:
    url = "redis://:temporary@redisproxy:6379/5"
    hour_ago = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600 + 20))
    soak.api.put(secret("team-green", "redis-secret-temp-soak", hour_ago, redis_connection_string=url, valid_hours="1"))
    soak.happened("a temporary credential is made that ends in 20 s")


def delete_user(soak: Soak) -> None:
    soak.happened("the ACL user of team-green is deleted")
    with soak.server.client() as straight:
        straight.acl_deluser("redisproxy:team-green:5")


SCHEDULE = (
    (0.15, load_data),
    (0.20, stop_redis),
    (0.25, rotate),
    (0.30, close_connections),
    (0.35, restart_redis),
    (0.40, refuse_clients),
    (0.45, expire),
    (0.50, lose_api),
    (0.55, confuse_api),
    (0.60, fix_api),
    (0.65, delete_user),
    (0.70, rotate),
)


class Stats:
    """The resources that the proxy used, over time."""

    def __init__(self, soak: Soak) -> None:
        self._soak = soak
        self.samples: list[tuple[float, float, int, int]] = []

    def take(self) -> tuple[float, int, int]:
        """Returns (MiB resident, descriptors, connections to Redis) of all processes of the
        proxy.
        """
        pids = [self._soak.proxy.process.pid, *_children(self._soak.proxy.process.pid)]
        resident = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * 4 / 1024
        descriptors = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
        try:
            with self._soak.server.client() as straight:
                connections = len(straight.client_list()) - 1
        except redis.RedisError:
            connections = -1
        return resident, descriptors, connections

    def watch(self) -> None:
        started = time.monotonic()
        while not self._soak.over.wait(SAMPLE):
            with contextlib.suppress(OSError):
                self.samples.append((time.monotonic() - started, *self.take()))

    def median(self, column: int, begin: float, end: float) -> float:
        """Returns the median of the samples between two parts of the run."""
        last = self.samples[-1][0]
        return statistics.median(s[column] for s in self.samples if begin * last <= s[0] <= end * last)


def _children(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


def run(soak: Soak, minutes: float) -> bool:
    """Returns whether everything passed."""
    stats = Stats(soak)
    until(lambda: stats.take()[2] > 0, "the proxy is connected")
    before = stats.take()
    threads = [threading.Thread(target=stats.watch, daemon=True)]
    for kind, work in WORK.items():
        for namespace in soak.passwords.of:
            for protocol in (2, 3):
                threads.append(threading.Thread(target=soak.session, args=(kind, work, namespace, protocol), daemon=True))
    threads += [threading.Thread(target=churn, args=(soak,), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    started = time.monotonic()
    rounds = max(1, int(minutes / ROUND))
    for number in range(rounds):
        for part, event in SCHEDULE:
            time.sleep(max(0.0, started + (number + part) * minutes * 60 / rounds - time.monotonic()))
            event(soak)
    time.sleep(max(0.0, started + minutes * 60 - time.monotonic()))
    soak.over.set()
    for thread in threads:
        thread.join(40)
    stuck = sum(thread.is_alive() for thread in threads)
    # Idle connections to Redis are closed after 30 s.
    with contextlib.suppress(AssertionError):
        until(lambda: stats.take()[2] <= before[2] + 4, "connections are given back", 90)
    after = stats.take()
    first, last = stats.median(1, WARM, WARM + 0.25), stats.median(1, 0.75, 1)
    print("\n| part of the run | MiB resident | descriptors | connections to Redis |\n| --- | ---: | ---: | ---: |")
    print(f"| before | {before[0]:.1f} | {before[1]} | {before[2]} |")
    for eighth in range(8):
        medians = [stats.median(column, eighth / 8, (eighth + 1) / 8) for column in (1, 2, 3)]
        print(f"| {eighth + 1}/8 | {medians[0]:.1f} | {medians[1]:.0f} | {medians[2]:.0f} |")
    print(f"| after | {after[0]:.1f} | {after[1]} | {after[2]} |\n")
    print(f"pieces of work: {dict(soak.done)}")
    print(f"errors that an event explains: {dict(soak.explained)}")
    problems = [f"{count} times {text}" for text, count in Counter(soak.wrong).most_common(20)]
    if last - first > GROWTH:
        problems.append(f"memory grew by {last - first:.1f} MiB")
    if after[2] > before[2] + 4:
        problems.append(f"{after[2] - before[2]} connections to Redis were not given back")
    if after[1] > before[1] + 8:
        problems.append(f"{after[1] - before[1]} descriptors were not given back")
    if stuck:
        problems.append(f"{stuck} sessions hang")
    if "Traceback" in soak.proxy.log:
        problems.append("a traceback is in the proxy's log")
    idle = [kind for kind in (*WORK, "churn") if not soak.done[kind]]
    if idle:
        problems.append(f"no work was done of: {', '.join(idle)}")
    status = soak.proxy.stop()
    if status:
        problems.append(f"the proxy ended with status {status}")
    print("\n".join(["FAILED", *problems]) if problems else f"passed: memory {last - first:+.1f} MiB")
    return not problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="default: 30")
    parser.add_argument("--proxy", default="", metavar="OPTIONS", help="further options of the proxy, as one word")
    options = parser.parse_args()
    soak = Soak(shlex.split(options.proxy))
    try:
        well = run(soak, options.minutes)
    finally:
        Path("soak.log").write_text(soak.proxy.log + "\n")
        soak.stop()
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
