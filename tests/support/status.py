"""An HTTP client of the status endpoint, which also parses its metrics."""

from __future__ import annotations

import http.client

from prometheus_client.parser import text_string_to_metric_families

from .proxy import Installation
from .waiting import LIMIT


def ask(port: int, path: str, host: str = "127.0.0.1", **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
    """Returns the status, headers and body of the answer to a GET. headers: of the request, with _
    for - in their names.
    """
    connection = http.client.HTTPConnection(host, port, timeout=LIMIT)
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def status_port(installation: Installation) -> int:
    """Returns the port that the proxy's log names. Waits for that line."""
    return int(installation.proxy.logged(r"the status page is at \S+:(\d+)")[1])


def metrics(port: int) -> dict[tuple[str, frozenset], float]:
    """Returns the value of each sample, by its name and the set of its (label, value) pairs."""
    _, _, text = ask(port, "/metrics")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
