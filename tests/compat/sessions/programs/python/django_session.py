"""A session of Django's own cache for Redis, and of its sessions in that cache."""

import django
from django.conf import settings
from steps import URL, leave, show, step, until

show("version", django.__version__)
settings.configure(
    CACHES={"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": URL}},
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    USE_TZ=True,
)
django.setup()

from django.contrib.sessions.backends.cache import SessionStore  # noqa: E402 - it reads the settings
from django.core.cache import cache  # noqa: E402


@step("set, get, add, touch, delete")
def _():
    cache.set("key", {"a": [1, 2]}, 100)
    return cache.get("key"), cache.add("key", 1), cache.touch("key", 10), cache.delete("key"), cache.get("key", "none")


@step("numbers")
def _():
    cache.set("n", 1)
    return cache.incr("n"), cache.incr("n", 10), cache.decr("n"), cache.get("n")


@step("many at once")
def _():
    cache.set_many({f"k{number}": number for number in range(100)}, timeout=100)
    found = cache.get_many(f"k{number}" for number in range(200))
    cache.delete_many(found)
    return len(found), len(cache.get_many(found))


@step("get_or_set, has_key, versions")
def _():
    cache.set("v", 1, version=1)
    return cache.get_or_set("made", lambda: 7), "made" in cache, cache.incr_version("v"), cache.get("v", version=2)


@step("a value that expires")
def _():
    cache.set("short", 1, 1)
    return until(lambda: cache.get("short") is None, 5)


@step("a value of 5 MB")
def _():
    cache.set("large", b"x" * 5_000_000)
    return len(cache.get("large"))


@step("a session")
def _():
    store = SessionStore()
    store["user"] = 42
    store.save()
    old = store.session_key
    again = SessionStore(old)
    found = again["user"]
    again.cycle_key()
    return found, SessionStore(again.session_key)["user"], SessionStore().exists(old)


@step("clear")
def _():
    cache.clear()
    return cache.get("n")


leave()
