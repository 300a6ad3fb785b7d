"""A Kubernetes API with many tenants, as a process of its own, so that its CPU time is not the
proxy's.

    python -m benchmarks.tenants COUNT REDIS_URL

prints where its kubeconfig is, and for each line on its standard input how many requests there were
so far. It ends with its standard input.
"""

from __future__ import annotations

import os
import sys

from tests.support.apiserver import ApiServer, Fault, Request
from tests.support.proxy import PREFIX, master, secret, tenant

from .peers import TENANT, TENANT_PASSWORD

#: Temporary credentials of each tenant, beside its own.
TEMPORARY = 2
#: What an object of a real cluster has beside what matters here.
BALLAST = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 400}


def documents(count: int, url: str) -> list[dict]:
    """The master secret, and so many tenants with three secrets each. The first is the one under
    load.
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
    """Makes each answer once: it is to cost little CPU time here."""

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
    """The API server's process."""
    os.nice(5)  # a real one has a machine of its own
    api = UnchangingApi(*documents(int(sys.argv[1]), sys.argv[2])).start()
    try:
        print(api.kubeconfig, flush=True)
        for _ in sys.stdin:
            print(len(api.requests), flush=True)
    finally:
        api.remove()


if __name__ == "__main__":
    main()
