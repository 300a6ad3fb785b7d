"""One Kubernetes document at a time: metadata, times, base64, and what is wrong with it."""

from __future__ import annotations

import base64
import unittest
from datetime import UTC, datetime

from redisproxy.sources.documents import DocumentError, read_namespace, read_secret

MOMENT = 1767225600.0


def secret(**parts: object) -> dict:
    return {"kind": "Secret", "metadata": {"name": "s", "namespace": "team-a"}, **parts}


class MetadataTests(unittest.TestCase):
    def test_without_a_name_it_is_no_document(self) -> None:
        for document in (
            {},
            {"metadata": None},
            {"metadata": []},
            {"metadata": {}},
            *({"metadata": {"name": n}} for n in ("", 3, "~", "null")),
        ):
            for read in (read_namespace, read_secret):
                self.assertRaisesRegex(DocumentError, "no metadata.name", read, document)

    def test_a_secret_without_namespace_is_in_default(self) -> None:
        for metadata in (
            {"name": "s"},
            {"name": "s", "namespace": None},
            {"name": "s", "namespace": ""},
            {"name": "s", "namespace": "null"},
        ):
            self.assertEqual(read_secret({"metadata": metadata}).namespace, "default")
        document = {"metadata": {"name": "s", "namespace": 3}}
        self.assertRaisesRegex(DocumentError, "metadata.namespace", read_secret, document)


class AnnotationTests(unittest.TestCase):
    def annotations(self, annotations: object) -> dict[str, str]:
        return read_namespace({"metadata": {"name": "n", "annotations": annotations}}).annotations

    def test_only_what_matters_is_kept(self) -> None:
        limit = "redisproxy/max-connections"
        for nothing in (None, "", "~", "null"):
            self.assertEqual(self.annotations(nothing), {})
        ours = {limit: "5", "redisproxy/other": "5"}
        self.assertEqual(self.annotations({"other": "x", 5: "x", "redisproxy": "x", **ours}), ours)
        self.assertEqual(self.annotations({limit: 5}), {limit: "5"})
        self.assertEqual(self.annotations({limit: None}), {})

    def test_what_is_none_is_malformed_and_does_not_cost_the_namespace(self) -> None:
        for value in (True, 1.5, [], {}):
            self.assertEqual(self.annotations({"redisproxy/max-connections": value}), {"redisproxy/max-connections": ""})
        for whole in ("x", [], 5):
            self.assertEqual(set(self.annotations(whole).values()), {""})


class LabelTests(unittest.TestCase):
    def test_only_what_matters_is_kept(self) -> None:
        ours = {"redisproxy/tenant": "true"}
        for given, kept in (
            ({**ours, "other": "x", 5: "x"}, ours),
            ({"redisproxy/tenant": True}, {}),
            ("x", {}),
            (None, {}),
        ):
            self.assertEqual(read_namespace({"metadata": {"name": "n", "labels": given}}).labels, kept)


class CreationTests(unittest.TestCase):
    def created(self, stamp: object) -> float:
        return read_namespace({"metadata": {"name": "n", "creationTimestamp": stamp}}).created

    def test_times(self) -> None:
        for stamp in (
            "2026-01-01T00:00:00Z",
            "2026-01-01T00:00:00.000000Z",
            "2026-01-01T00:00:00+00:00",
            "2026-01-01T02:00:00+02:00",
            "2026-01-01T00:00:00",
            "2026-01-01 00:00:00",
            "2026-01-01t00:00:00z",
        ):
            self.assertEqual(self.created(stamp), MOMENT, stamp)

    def test_a_missing_one_is_not_made_up(self) -> None:
        for stamp in (None, "", "~", "null"):  # kubectl create --dry-run writes null
            self.assertIsNone(self.created(stamp))
        self.assertIsNone(read_namespace({"metadata": {"name": "n"}}).created)

    def test_what_is_no_time(self) -> None:
        for stamp in (
            "yesterday",
            "2026-13-01T00:00:00Z",
            1767225600,
            True,
            "2026-01-01",
            "20260101T000000Z",
            "2026-W01-1",
            "2026-01-01T00:00:00Z\n",
            datetime(2026, 1, 1, tzinfo=UTC),
            [],
        ):
            with self.subTest(stamp):
                self.assertRaisesRegex(DocumentError, "creationTimestamp is not a time", self.created, stamp)

    def test_in_a_secret_it_is_the_secrets_error(self) -> None:
        document = {"metadata": {"name": "s", "namespace": "team-a", "creationTimestamp": "pw-x"}}
        read = read_secret(document)
        self.assertEqual((read.namespace, read.name, read.created), ("team-a", "s", None))
        self.assertRegex(read.error, "^metadata.creationTimestamp is not a time")
        self.assertNotIn("pw-x", read.error)


class DataTests(unittest.TestCase):
    KEY = "redis-connection-string"

    def value(self, **parts: object) -> bytes | None:
        read = read_secret(secret(**parts))
        self.assertIsNone(read.error)
        return read.data.get(self.KEY)

    def error(self, **parts: object) -> str:
        error = read_secret(secret(**parts)).error
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
        self.assertEqual(read_secret(secret(stringData={"valid_hours": 5})).data["valid_hours"], b"5")

    def test_a_value_is_the_text_that_was_written(self) -> None:
        """Not what YAML makes of it; where there is a text in Kubernetes, there is one here."""
        for text in ("010", "1:30", "0x10", "0123", "1e3", "yes", "true", "~", "null", "", "2026-01-01", "=", "<<"):
            read = read_secret(secret(stringData={"redis-password": text, "valid_hours": text}))
            self.assertEqual((read.data["redis-password"], read.data["valid_hours"]), (text.encode(), text.encode()))

    def test_what_is_no_text(self) -> None:
        for written in (True, 1.5, [], {}, b"x", datetime(2026, 1, 1, tzinfo=UTC)):
            with self.subTest(written):
                self.assertEqual(self.error(stringData={self.KEY: written}), f"stringData.{self.KEY} is not a string")
        self.assertEqual(self.error(stringData={self.KEY: "pw-\ud800"}), f"stringData.{self.KEY} is not UTF-8")

    def test_what_is_no_mapping(self) -> None:
        for part in ("data", "stringData"):
            for content in ("pw-x", [], 3):
                self.assertEqual(self.error(**{part: content}), f"{part} is not a mapping")
            for nothing in (None, "", "~", "null"):
                self.assertIsNone(self.value(**{part: nothing}))
            self.assertIsNone(self.value(**{part: {self.KEY: None}}))

    def test_other_keys_are_neither_kept_nor_judged(self) -> None:
        read = read_secret(secret(data={"tls.key": "pw-*", 3: 4}))
        self.assertEqual((read.data, read.error), ({}, None))

    def test_no_value_in_its_repr(self) -> None:
        self.assertNotIn("pw-", repr(read_secret(secret(stringData={self.KEY: "pw-x"}))))
