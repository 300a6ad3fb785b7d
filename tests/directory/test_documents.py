"""One Kubernetes document at a time: metadata, times, base64, and what is wrong with it."""

from __future__ import annotations

import base64
import unittest
from datetime import UTC, date, datetime, timedelta, timezone

from redisproxy.directory.documents import DocumentError, read_namespace, read_secret

MOMENT = 1767225600.0
DEFAULT = 5.0


def secret(**parts: object) -> dict:
    return {"kind": "Secret", "metadata": {"name": "s", "namespace": "team-a"}, **parts}


class MetadataTests(unittest.TestCase):
    def test_without_a_name_it_is_no_document(self) -> None:
        for document in (
            {},
            {"metadata": None},
            {"metadata": []},
            {"metadata": {}},
            *({"metadata": {"name": n}} for n in ("", 3)),
        ):
            for read in (read_namespace, read_secret):
                self.assertRaisesRegex(DocumentError, "no metadata.name", read, document, DEFAULT)

    def test_a_secret_without_namespace_is_in_default(self) -> None:
        for metadata in ({"name": "s"}, {"name": "s", "namespace": None}, {"name": "s", "namespace": ""}):
            self.assertEqual(read_secret({"metadata": metadata}, DEFAULT).namespace, "default")
        document = {"metadata": {"name": "s", "namespace": 3}}
        self.assertRaisesRegex(DocumentError, "metadata.namespace", read_secret, document, DEFAULT)


class AnnotationTests(unittest.TestCase):
    def annotations(self, annotations: object) -> dict[str, str]:
        return read_namespace({"metadata": {"name": "n", "annotations": annotations}}, DEFAULT).annotations

    def test_only_what_matters_is_kept(self) -> None:
        limit = "redisproxy/max-connections"
        self.assertEqual(self.annotations(None), {})
        ours = {limit: "5", "redisproxy/other": "5"}
        self.assertEqual(self.annotations({"other": "x", 5: "x", "redisproxy": "x", **ours}), ours)
        self.assertEqual(self.annotations({limit: 5}), {limit: "5"})
        self.assertEqual(self.annotations({limit: None}), {})

    def test_what_is_none_is_malformed_and_does_not_cost_the_namespace(self) -> None:
        for value in (True, 1.5, [], {}):
            self.assertEqual(self.annotations({"redisproxy/max-connections": value}), {"redisproxy/max-connections": ""})
        for whole in ("x", [], 5):
            self.assertEqual(set(self.annotations(whole).values()), {""})


class CreationTests(unittest.TestCase):
    def created(self, stamp: object) -> float:
        return read_namespace({"metadata": {"name": "n", "creationTimestamp": stamp}}, DEFAULT).created

    def test_times(self) -> None:
        for stamp in (
            "2026-01-01T00:00:00Z",
            "2026-01-01T00:00:00.000000Z",
            "2026-01-01T00:00:00+00:00",
            "2026-01-01T02:00:00+02:00",
            "2026-01-01T00:00:00",
            "2026-01-01 00:00:00",
            datetime(2026, 1, 1, tzinfo=UTC),
            datetime(2026, 1, 1),
            datetime(2026, 1, 1, 3, tzinfo=timezone(timedelta(hours=3))),
        ):
            self.assertEqual(self.created(stamp), MOMENT, stamp)

    def test_a_missing_one_is_the_default(self) -> None:
        self.assertEqual(self.created(None), DEFAULT)
        self.assertEqual(read_namespace({"metadata": {"name": "n"}}, DEFAULT).created, DEFAULT)

    def test_what_is_no_time(self) -> None:
        for stamp in (
            "",
            "yesterday",
            "2026-13-01T00:00:00Z",
            1767225600,
            True,
            date(2026, 1, 1),
            [],
        ):
            with self.subTest(stamp):
                self.assertRaisesRegex(DocumentError, "creationTimestamp is not a time", self.created, stamp)

    def test_in_a_secret_it_is_the_secrets_error(self) -> None:
        document = {"metadata": {"name": "s", "namespace": "team-a", "creationTimestamp": "pw-x"}}
        read = read_secret(document, DEFAULT)
        self.assertEqual((read.namespace, read.name, read.created), ("team-a", "s", DEFAULT))
        self.assertRegex(read.error, "^metadata.creationTimestamp is not a time")
        self.assertNotIn("pw-x", read.error)


class DataTests(unittest.TestCase):
    KEY = "redis-connection-string"

    def value(self, **parts: object) -> bytes | None:
        read = read_secret(secret(**parts), DEFAULT)
        self.assertIsNone(read.error)
        return read.data.get(self.KEY)

    def error(self, **parts: object) -> str:
        error = read_secret(secret(**parts), DEFAULT).error
        self.assertIsNotNone(error)
        self.assertNotIn("pw-", error)
        return error

    def test_data_is_base64_in_lines_too(self) -> None:
        text = base64.b64encode(b"redis://:pw-x@host/3" * 9).decode()
        for written in (text, text[:60] + "\n" + text[60:], f"  {text}\n", text[:40] + "\r\n " + text[40:]):
            self.assertEqual(self.value(data={self.KEY: written}), b"redis://:pw-x@host/3" * 9)
        self.assertEqual(self.value(data={self.KEY: "/w=="}), b"\xff")
        self.assertEqual(self.value(data={self.KEY: ""}), b"")

    def test_what_is_not_base64(self) -> None:
        for written in ("pw-*", "pw", "pw-=", "=", "é", 3, True, ["cHct"], b"cHct", {}):
            with self.subTest(written):
                self.assertEqual(self.error(data={self.KEY: written}), f"data.{self.KEY} is not base64")

    def test_stringdata_is_as_it_stands_and_wins(self) -> None:
        self.assertEqual(self.value(stringData={self.KEY: "pw-é\n"}), "pw-é\n".encode())
        self.assertEqual(self.value(data={self.KEY: "eA=="}, stringData={self.KEY: "y"}), b"y")
        self.assertEqual(self.value(data={self.KEY: "eA=="}, stringData={"valid_hours": "1"}), b"x")

    def test_a_number_without_quotes(self) -> None:
        self.assertEqual(read_secret(secret(stringData={"valid_hours": 5}), DEFAULT).data["valid_hours"], b"5")

    def test_what_is_no_text(self) -> None:
        for written in (True, 1.5, [], {}, b"x", datetime(2026, 1, 1, tzinfo=UTC)):
            with self.subTest(written):
                self.assertEqual(self.error(stringData={self.KEY: written}), f"stringData.{self.KEY} is not a text")
        self.assertEqual(self.error(stringData={self.KEY: "pw-\ud800"}), f"stringData.{self.KEY} is not UTF-8")

    def test_what_is_no_mapping(self) -> None:
        for part in ("data", "stringData"):
            for content in ("pw-x", [], 3):
                self.assertEqual(self.error(**{part: content}), f"{part} is not a mapping")
            self.assertIsNone(self.value(**{part: None}))
            self.assertIsNone(self.value(**{part: {self.KEY: None}}))

    def test_other_keys_are_neither_kept_nor_judged(self) -> None:
        read = read_secret(secret(data={"tls.key": "pw-*", 3: 4}), DEFAULT)
        self.assertEqual((read.data, read.error), ({}, None))

    def test_no_value_in_its_repr(self) -> None:
        self.assertNotIn("pw-", repr(read_secret(secret(stringData={self.KEY: "pw-x"}), DEFAULT)))
