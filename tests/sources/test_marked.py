"""Manifests whose secrets are no YAML, another kind of YAML, or of a wrong form: nothing that is
logged has a value of theirs.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from twisted.internet import defer, task
from twisted.logger import globalLogPublisher
from twisted.trial import unittest

from redisproxy.cli import render
from redisproxy.ops.logs import observer
from redisproxy.sources.manifests import ManifestsSource
from redisproxy.tenants.enrolment import Enrolment

from ..support.kept import KeptSnapshot
from ..support.marked import MARKER, scalars, traces, urls

MASTER = ("kube-system", "redis-secret-master")
GOOD = """\
apiVersion: v1
kind: Namespace
metadata: {name: team-good}
---
apiVersion: v1
kind: Secret
metadata: {name: redis-secret-master, namespace: team-good}
stringData: {redis-connection-string: "redis://:good@h/1"}
"""

#: Where a value may stand. {}: it
PLACES = (
    "kind: Secret\nmetadata: {name: redis-secret-master, namespace: team-a}\nstringData:\n  redis-connection-string: {}\n",
    "kind: Secret\nmetadata: {name: redis-secret-master, namespace: kube-system}\nstringData:\n  redis-connection-string: "
    "redis://h/0\n  redis-password: {}\n",
    "kind: Secret\nmetadata: {name: redis-secret-master, namespace: kube-system}\ndata:\n  redis-connection-string: {}\n",
    "kind: Secret\nmetadata: {name: redis-secret-temp-a, namespace: team-a}\nstringData:\n  redis-connection-string: "
    "redis://:x@h/3\n  valid_hours: {}\n",
    "kind: Secret\nmetadata: {name: redis-secret-master, namespace: team-a}\nstringData: {}\n",
    "kind: Secret\nmetadata: {name: redis-secret-master, namespace: team-a}\ndata: {}\n",
    "kind: Secret\nstringData:\n  redis-connection-string: {}\n",
    "kind: Secret\nmetadata: {namespace: team-a}\nstringData:\n  redis-connection-string: {}\n",
    "kind: ConfigMap\nmetadata: {name: redis-secret-master, namespace: team-a}\ndata:\n  redis-connection-string: {}\n",
    "kind: SecretList\nitems:\n- {}\n- kind: Secret\n  stringData:\n    redis-connection-string: {}\n",
    "kind: Secret\nmetadata:\n  name: redis-secret-master\n  namespace: team-a\n  creationTimestamp: {}\n",
    "kind: Namespace\nmetadata:\n  name: team-a\n  annotations:\n    redisproxy/max-connections: {}\n",
    "kind: Namespace\nmetadata:\n  name: team-a\n  annotations: {}\n",
    "- {}\n",
    "{}\n",
)


def files() -> Iterator[bytes]:
    for place in PLACES:
        for value in scalars():
            yield place.replace("{}", value).encode()
        for value in (MARKER, MARKER + "==", "'" + MARKER + " !'", "{password: " + MARKER + "}", "[" + MARKER + "]"):
            yield place.replace("{}", value).encode()
        yield place.replace("{}", MARKER).encode() + b"\xff\xfe"
        yield place.replace("{}", MARKER).encode("utf-16")
    for url in urls():
        # As the text that it is.
        yield PLACES[0].replace("{}", json.dumps(url)).encode()
        yield PLACES[2].replace("{}", json.dumps(url)).encode()
    yield json.dumps({"kind": "Secret", "stringData": {"redis-connection-string": MARKER}}).encode()[:-3]
    yield b"kind: Secret\nmetadata: " + b"[" * 5000 + MARKER.encode()


class MarkedTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="redisproxy-test-")
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        self.out = io.StringIO()
        for log_format in ("text", "json"):
            observing = observer(log_format, "debug", self.out)
            globalLogPublisher.addObserver(observing)
            self.addCleanup(globalLogPublisher.removeObserver, observing)

    def read(self, content: bytes) -> str:
        """All that is said of such a file: the log, and what `redisproxy check` and the page would
        have.
        """
        self.out.seek(0)
        self.out.truncate()
        (self.directory / "a.yaml").write_bytes(content)
        (self.directory / "b.yaml").write_text(GOOD)
        source = ManifestsSource(self.directory, "team-", MASTER)
        clock = task.Clock()
        service = KeptSnapshot(clock, source, Enrolment("redis-secret-master", MASTER), 300, in_thread=defer.maybeDeferred)
        service.startService()
        clock.pump([0.1] * 5)
        service.stopService()
        problems = [*map(str, service.problems), *(render.advice(problem.reason) for problem in service.problems)]
        self.flushLoggedErrors()
        return "\n".join([self.out.getvalue(), *problems])

    def test_nothing_of_a_value_is_said(self) -> None:
        leaks = {}
        for content in files():
            said = self.read(content)
            self.assertTrue(said)
            if found := traces(said):
                leaks[content[:200]] = (found, said[:2000])
        self.assertEqual(leaks, {})

    def test_names_are_printable(self) -> None:
        """Names of files, too: of any bytes."""
        hostile = b"\x1b[2J\x07\xc2\x9b\xe2\x80\xae\n\xff"
        for document in (b"a: [", b"kind: Secret\n", GOOD.encode() + b"---\nkind: Secret\nmetadata: {name: 3}\n"):
            (self.directory / os.fsdecode(b"z" + hostile + b".yaml")).write_bytes(document)
            said = self.read(
                b'kind: Secret\nmetadata: {name: "redis-secret-temp-\\e[2J\\a\\x9b\\u202e\\n", namespace: team-a}\n---\n'
                b'kind: Namespace\nmetadata: {name: "team-\\e[2J\\u202e"}\n---\n'
                b'kind: Namespace\nmetadata: {name: team-a, annotations: {"redisproxy/\\e[2J\\u202e": "1"}}\n'
            )
            self.assertIn(r"\x1b[2J", said)
            self.assertTrue(all(line.isprintable() for line in said.split("\n")), said)
            said.encode()
