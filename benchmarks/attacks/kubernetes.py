"""Attacks by what a tenant may write in its own namespace. The attacker is the Kubernetes API
server, because that is what the proxy sees of such a tenant.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from .row import Attack, Counters, Row, Target

if TYPE_CHECKING:
    from tests.support.apiserver import ApiServer

# What only these attackers need is imported in functions: the others start sooner without it.

NOISY, NOISY_PASSWORD = "team-noisy", "password-of-the-noisy-one"
#: Seconds between two writes, and writes between two signals that make the proxy read all secrets.
WRITE_EVERY, READ_EVERY = 0.01, 100
_servers: list[ApiServer] = []


def documents(redis_url: str, annotations: Mapping[str, str]) -> list[dict]:
    """Returns the master secret, the quiet tenant, and the noisy one with annotations."""
    from tests.support.proxy import master, tenant

    from ..peers import TENANT, TENANT_PASSWORD

    noisy = tenant(NOISY, 1, NOISY_PASSWORD)
    noisy[0]["metadata"]["annotations"] = dict(annotations)
    return [master(redis_url), *tenant(TENANT, 0, TENANT_PASSWORD), *noisy]


def api_server(redis_url: str, annotations: Mapping[str, str]) -> ApiServer:
    """Starts the API server. The attack of this process writes to it."""
    from tests.support.apiserver import ApiServer

    api = ApiServer(*documents(redis_url, annotations), tls=True).start()
    _servers.append(api)
    return api


def large(number: int) -> dict:
    """Returns a secret of 1 MB in base64."""
    from tests.support.proxy import secret

    return secret(NOISY, f"large-{number % 150}", value=f"{number}" + "x" * 750_000)


def temporary(number: int) -> dict:
    """Returns a temporary secret with a password of its own."""
    from tests.support.proxy import secret

    url = f"redis://:temporary-{number}-password@redisproxy:6379/1"
    return secret(NOISY, f"redis-secret-temp-{number % 400}", redis_connection_string=url, valid_hours="24")


def writes(make: Callable[[int], dict]) -> Attack:
    """Writes secrets again and again, as fast as an API server could."""

    def attack(target: Target, counters: Counters) -> Iterator[None]:
        yield
        for number in itertools.count():
            _servers[0].put(make(number))
            counters.rounds += 1
            if number % READ_EVERY == READ_EVERY - 1:
                with suppress(ProcessLookupError):
                    os.kill(target.pid, signal.SIGUSR1)
            time.sleep(WRITE_EVERY)
            yield

    return attack


KUBERNETES = {
    "secrets-150": Row(
        "150 secrets of 1 MB in its namespace", writes(large), straight=False, api=True, least={"rounds": 40}, needs=2_000
    ),
    "temporary-400": Row("400 temporary secrets", writes(temporary), straight=False, api=True, least={"rounds": 100}),
}
