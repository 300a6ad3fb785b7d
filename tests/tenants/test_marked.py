"""Tests that no error and no log line quotes a wrong value of a secret."""

from __future__ import annotations

import traceback
import unittest
from collections.abc import Callable

from redisproxy.tenants.allocation import Refused, named_indexes, plan_rotation
from redisproxy.tenants.documents import (
    PASSWORD,
    SENTINEL_PASSWORD,
    SENTINEL_USERNAME,
    VALID_HOURS,
    FullRead,
    NamespaceDocument,
    SecretDocument,
)
from redisproxy.tenants.enrolment import (
    CONNECTION_STRING,
    Enrolment,
    MalformedError,
    parse_backend,
    parse_tenant,
    parse_valid_hours,
)

from ..support.marked import MARKER, traces, urls

MASTER = ("kube-system", "redis-secret-master")


def values() -> list[bytes]:
    found = [url.encode() for url in urls()]
    return [*found, *(value + b"\xff\xfe" for value in found[::7]), MARKER.encode() + b"\x00\xff", b"\xff" + MARKER.encode()]


class MarkedTests(unittest.TestCase):
    def assertSaysNothing(self, text: str, value: object) -> None:
        self.assertEqual(traces(text), [], f"{value!r:.300}")

    def test_the_search_finds(self) -> None:
        """The search finds the marker in every form; otherwise these tests would prove nothing."""
        import base64

        for text in (
            f"x{MARKER}y",
            MARKER.lower(),
            base64.b64encode(f"redis://:{MARKER}@h".encode()).decode(),
            MARKER.encode().hex(),
        ):
            self.assertTrue(traces(text), text)
        for shift in range(6):
            self.assertTrue(traces(base64.b64encode(b"/" * shift + MARKER.encode() + b"xyz").decode()))
        self.assertEqual(traces("nothing of it"), [])

    def refusals(self, call: Callable, value: object) -> None:
        """Asserts that the call raises only the documented errors, and that their texts, causes and
        tracebacks do not quote the value.
        """
        try:
            repr_ = repr(call(value))
        except (MalformedError, Refused) as error:
            self.assertSaysNothing(str(error), value)
            self.assertSaysNothing(repr(error), value)
            self.assertIsNone(error.__cause__)
            self.assertTrue(error.__suppress_context__ or error.__context__ is None, "the cause would be shown")
            self.assertSaysNothing("".join(traceback.format_exception_only(error)), value)
        else:
            del repr_

    def test_connection_strings(self) -> None:
        for value in values():
            for call in (parse_backend, parse_tenant, lambda data: plan_rotation(data, "new")):
                self.refusals(call, {CONNECTION_STRING: value})

    def test_others(self) -> None:
        for value in values():
            good = b"redis://:x@127.0.0.1:1/0"
            sentinels = b"redis+sentinel://:x@127.0.0.1:1/name"
            self.refusals(parse_valid_hours, {VALID_HOURS: value})
            for key in (PASSWORD, SENTINEL_USERNAME, SENTINEL_PASSWORD):
                for url in (good, sentinels):
                    data = {CONNECTION_STRING: url, key: value}
                    self.refusals(parse_backend, data)
                    try:
                        backend = parse_backend(data)
                    except MalformedError:
                        continue
                    self.assertSaysNothing(repr(backend) + str(backend) + backend.shown, value)

    def test_what_is_kept_of_them_says_nothing_when_it_is_printed(self) -> None:
        for value in values():
            document = SecretDocument("team-a", "redis-secret-master", 1.0, {CONNECTION_STRING: value, VALID_HOURS: value})
            namespace = NamespaceDocument("team-a", 1.0, {"redisproxy/max-connections": MARKER})
            master = SecretDocument(*MASTER, 1.0, {CONNECTION_STRING: b"redis://:x@h/0", PASSWORD: value})
            temporary = SecretDocument(
                "team-a", "redis-secret-temp-a", 1.0, {CONNECTION_STRING: b"redis://:x@h/3", VALID_HOURS: value}
            )
            enrolment = Enrolment("redis-secret-master", MASTER)
            reading = FullRead(master, (namespace,), {"team-a": (document, temporary)})
            enrolment.use_full_read(reading)
            snapshot, problems = enrolment.resolve()
            self.assertTrue(any("annotation" in problem.reason for problem in problems))
            texts = [
                repr(document),
                repr(reading),
                repr(snapshot.backend),
                repr(snapshot.credentials),
                *map(str, problems),
            ]
            self.assertSaysNothing("\n".join(texts), value)
            named_indexes(document)
