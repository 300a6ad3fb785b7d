"""A Kubernetes API server with many tenants, in its own process: the proxy's CPU time stays apart.

    python -m benchmarks.tenants COUNT REDIS_URL

Prints the path of its kubeconfig. For each line on its standard input it prints the number of
requests so far. It ends when its standard input ends.
"""

from __future__ import annotations

import os
import sys

from tests.support.apiserver import ApiServer, Fault, Request
from tests.support.proxy import PREFIX, master, secret, tenant

from .peers import TENANT, TENANT_PASSWORD

#: Temporary credentials of each tenant, in addition to its own one.
TEMPORARY = 2
#: Other content that an object of a real cluster has.
BALLAST = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 400}


def documents(count: int, url: str) -> list[dict]:
    """Returns the master secret, and this many tenants with three secrets each. The first tenant is
    the one under load.
    """
    found = [master(url)]
    for index in range(count):
        name, password = (f"{PREFIX}{index:05}", f"password-{index}") if index else (TENANT, TENANT_PASSWORD)
        found += tenant(name, index, password)
        for number in range(TEMPORARY):
            connection = f"redis://:temporary-{number}-{index}@redisproxy:6379/{index}"
            found.append(
                secret(
                    name, f"redis-secret-temp-{number}", redis_connection_string=connection, valid_hours=str(24 * 365 * 50)
                )
            )
    for document in found:
        document["metadata"]["annotations"] = BALLAST
    return found


class UnchangingApi(ApiServer):
    """Computes each answer only once, so that it takes little CPU time here."""

    def __init__(self, *documents: dict) -> None:
        super().__init__(*documents, tls=True)
        self._answers: dict[tuple, Fault] = {}

    def answer(self, request: Request) -> Fault:
        if "watch" in request.query:
            return super().answer(request)
        key = (request.path, *sorted(request.query.items()))
        if key in self._answers:
            self.requests.append(request)
        else:
            self._answers[key] = super().answer(request)
        return self._answers[key]


def main() -> None:
    """Runs the process of the API server."""
    os.nice(5)  # a real one runs on another machine
    api = UnchangingApi(*documents(int(sys.argv[1]), sys.argv[2])).start()
    try:
        print(api.kubeconfig, flush=True)
        for _ in sys.stdin:
            print(len(api.requests), flush=True)
    finally:
        api.remove()


if __name__ == "__main__":
    main()
