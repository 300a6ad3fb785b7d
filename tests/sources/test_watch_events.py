"""What a line of a watch's stream says, and where lines end."""

from __future__ import annotations

import json
import unittest
from collections.abc import Iterator

from redisproxy.sources.watch_events import LONGEST, Event, WatchFailure, read_event, split_lines


def line(kind: str = "ADDED", **metadata: object) -> bytes:
    """As the API server writes it."""
    shown = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
    return json.dumps({"type": kind, "object": shown}, separators=(",", ":")).encode()


class EventTests(unittest.TestCase):
    def test_what_matters_of_an_event(self) -> None:
        for kind in ("ADDED", "MODIFIED", "DELETED"):
            self.assertEqual(
                read_event(line(kind, name="a", namespace="team-blue", uid="u", resourceVersion="7", labels={"x": "y"})),
                Event(kind, "team-blue", "a", "7"),
            )
        self.assertEqual(
            read_event(line(name="team-blue", uid="u", resourceVersion="7")), Event("ADDED", "", "team-blue", "7")
        )
        bookmark = line("BOOKMARK", resourceVersion="9", creationTimestamp=None)
        self.assertEqual(read_event(bookmark), Event("BOOKMARK", "", "", "9"))

    def test_the_short_way_and_the_whole_parser_agree(self) -> None:
        """The short way looks at the beginning alone, so nothing that somebody wrote into an object
        can mislead it.
        """
        planted = '"},"metadata":{"name":"x","namespace":"y","uid":"z","resourceVersion":"1"'
        names = {"name": "a", "generateName": "a-", "namespace": "team-blue", "uid": "u", "resourceVersion": "7"}
        for metadata in (
            names,
            {**names, "selfLink": "/x"},
            {**names, "annotations": {"a": planted, "name": "x"}},
            {**names, "name": 'quote"d', "annotations": {"a": planted}},
            {**names, "name": "back\\slash"},
            {**names, "name": "é"},
            {"annotations": {"a": planted}, **names},
            dict(reversed(names.items())),
        ):
            written = line("MODIFIED", **metadata)
            self.assertEqual(read_event(written), read_event(b" " + written))

    def test_what_says_that_it_is_over(self) -> None:
        status = {"kind": "Status", "code": 410, "message": "too old resource version: planted", "reason": "Expired"}
        with self.assertRaises(WatchFailure) as caught:
            read_event(json.dumps({"type": "ERROR", "object": status}).encode())
        self.assertEqual(caught.exception.status, 410)
        self.assertNotIn("planted", caught.exception.reason)

    def test_what_is_no_event(self) -> None:
        for text in (
            b"", b"{", b"[]", b"null", b"7", b"\xff", b"[" * 100_000, b"{}", b'{"type":"ADDED"}', b'{"type":"ADDED","object":[]}',
            b'{"type":"ADDED","object":{"metadata":{"name":"a"}}}', line(name=7, resourceVersion="7"), b'{"type":"ERROR","object":7}',
            line(name="a", resourceVersion=""), line(name="a", resourceVersion=7), b"<html>",
        ):  # fmt: skip
            with self.assertRaises(WatchFailure, msg=text[:50]) as caught:
                read_event(text)
            self.assertEqual(caught.exception.status, 0)


class LineTests(unittest.TestCase):
    def test_however_they_are_cut(self) -> None:
        lines = [line(name=f"n{number}", uid="u", resourceVersion=str(number)) for number in range(4)]
        text = b"\n".join(lines) + b"\n"
        for size in (1, 2, 7, 100, len(text)):
            chunks = [text[at : at + size] for at in range(0, len(text), size)]
            self.assertEqual(list(split_lines(chunks)), lines)
        self.assertEqual(list(split_lines([b"\n", b"a\n\nb", b"", b"\nrest"])), [b"a", b"b"])

    def test_the_longest(self) -> None:
        self.assertEqual([len(found) for found in split_lines([b"x" * LONGEST, b"\n"])], [LONGEST])

        def endless() -> Iterator[bytes]:
            for _ in range(LONGEST // 65536 + 2):
                yield b"x" * 65536
            raise AssertionError("it is read on and on")

        for chunks in (endless(), [b"x" * LONGEST, b"x\n"]):
            with self.assertRaisesRegex(WatchFailure, "too long"):
                list(split_lines(chunks))
