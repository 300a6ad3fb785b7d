"""What only the manifests source has: files, several documents to each, and what may be wrong with a file."""

from __future__ import annotations

import json
import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import yaml

from redisproxy.core.enrolment import Enrolment, NamespaceDocument, ReadFailure, Reading
from redisproxy.directory.manifests import ManifestsSource

from ..support.proxy import PREFIX, master, namespace, secret, tenant

MASTER = ("kube-system", "redis-secret-master")
CLIENT = "redis-secret-master"

YAML = """\
# several documents, a comment, and an empty one at the end
apiVersion: v1
kind: Namespace
metadata:
  name: team-blue
  creationTimestamp: 2026-01-01T00:00:00Z
---
apiVersion: v1
kind: Secret
metadata: {name: redis-secret-master, namespace: team-blue, creationTimestamp: "2026-01-01T00:00:00Z"}
stringData:
  redis-connection-string: redis://:blue-password@redis:6379/3
---
apiVersion: v1
kind: Secret
metadata: {name: redis-secret-temp-a, namespace: team-blue, creationTimestamp: 2026-01-01T00:00:00Z}
stringData:
  redis-connection-string: redis://:temp-password@redis:6379/3
  valid_hours: 2
---
kind: ConfigMap
metadata: {name: other}
---
"""


class ManifestsTests(unittest.TestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="redisproxy-test-")
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        self.source = ManifestsSource(self.directory, PREFIX, MASTER)
        self.enrolment = Enrolment(CLIENT, MASTER)
        self.write("master.json", json.dumps(master("redis://:master-password@redis:6379/0")))

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def read(self) -> Reading:
        reading = self.source.read()
        self.enrolment.absorb(reading)
        return reading

    def served(self) -> dict[str, int]:
        directory, self.problems = self.enrolment.resolve()
        return {tenant.namespace: tenant.index for tenant in directory.tenants}

    def test_several_documents_in_a_file(self) -> None:
        self.write("a.yaml", YAML)
        reading = self.read()
        self.assertEqual(self.served(), {"team-blue": 3})
        self.assertEqual(self.problems, [])
        self.assertEqual(reading.namespaces, (NamespaceDocument("team-blue", 1767225600.0),))
        directory, _ = self.enrolment.resolve()
        self.assertEqual(directory.authenticate(None, b"temp-password", 0).expires, 1767225600 + 2 * 3600)
        self.assertEqual(directory.backend.password, b"master-password")

    def test_json_and_list_and_lists_within(self) -> None:
        blue, green = tenant("team-blue", 3, "blue-password"), tenant("team-green", 5, "green-password")
        inner = {"apiVersion": "v1", "kind": "SecretList", "items": [green[1]]}
        document = {"apiVersion": "v1", "kind": "List", "items": [*blue, green[0], inner]}
        self.write("all.json", json.dumps(document, indent="\t"))
        self.assertEqual(self.read().unreadable, ())
        self.assertEqual(self.served(), {"team-blue": 3, "team-green": 5})

    def test_which_files(self) -> None:
        for number, name in enumerate(("a.yaml", "b.yml", "c.json")):
            self.write(name, "\n---\n".join(map(json.dumps, tenant(f"team-{number}", number, f"password-{number}"))))
        for name in ("d.txt", "e.yaml~", ".f.yaml.swp", "README"):
            self.write(name, json.dumps(namespace("team-hidden")) + "{")
        (self.directory / "directory.yaml").mkdir()
        self.read()
        self.assertEqual(self.served(), {"team-0": 0, "team-1": 1, "team-2": 2})

    def test_documents_of_one_namespace_in_several_files(self) -> None:
        first, second = tenant("team-blue", 3, "blue-password")
        self.write("z.json", json.dumps(first))
        self.write("a.json", json.dumps(second))
        self.read()
        self.assertEqual(self.served(), {"team-blue": 3})

    def test_a_missing_creation_is_the_files_modification(self) -> None:
        document = secret("team-blue", "redis-secret-temp-a", redis_connection_string="redis://:pw@r/3", valid_hours="1")
        path = self.write("a.json", json.dumps({"kind": "List", "items": [{**namespace("team-blue")}, document]}))
        for modified in (1_700_000_000, 1_700_009_000):
            os.utime(path, (modified, modified))
            self.read()
            directory, problems = self.enrolment.resolve()
            self.assertEqual((directory.next_expiry(0), problems), (modified + 3600, []))
        young = {"kind": "Namespace", "metadata": {"name": "team-young"}}
        path = self.write("b.json", json.dumps(young))
        os.utime(path, (1_800_000_000, 1_800_000_000))
        self.assertIn(NamespaceDocument("team-young", 1_800_000_000), self.read().namespaces)

    def test_a_file_that_is_not_yaml_leaves_the_last_good_in_force(self) -> None:
        self.write("a.yaml", YAML)
        self.read()
        # The others change meanwhile, too: half of the files are not believed.
        (self.directory / "a.yaml").unlink()
        for content in (
            "a: [",
            "redis://:planted@r: {x: }: y",
            "\tplanted: 1",
            "{'planted': ",
            b"planted: \xff\xfe",
            b"planted: \x00",
            "!!python/object:os.system planted",
            "!!timestamp 2026-99-99",
            "&a {kind: List, items: [*a]}",
        ):
            with self.subTest(content[:40]):
                self.write("broken.yaml", content)
                reading = self.read()
                self.assertIsInstance(reading.namespaces, ReadFailure)
                self.assertEqual(reading.master, reading.namespaces)
                self.assertRegex(reading.namespaces.reason, r"^broken.yaml is not YAML or JSON \((line \d+|somewhere)\)$")
                self.assertEqual(self.served(), {"team-blue": 3})
        (self.directory / "broken.yaml").unlink()
        self.assertEqual(self.read().failures(), [])
        self.assertEqual(self.served(), {})

    def test_a_directory_or_file_that_cannot_be_read_leaves_the_last_good_in_force(self) -> None:
        self.write("a.yaml", YAML)
        self.read()
        moved = self.directory.rename(self.directory.with_name(f"{self.directory.name}-moved"))
        self.addCleanup(moved.rename, self.directory)
        self.assertRegex(self.read().namespaces.reason, "No such file or directory$")
        self.assertEqual(self.served(), {"team-blue": 3})

    def test_an_impossible_time_costs_its_document_alone(self) -> None:
        self.write("a.yaml", YAML + YAML.replace("team-blue", "team-green").replace("2026-01-01", "2026-13-45"))
        self.assertEqual(self.read().failures(), [])
        self.assertEqual(self.served(), {"team-blue": 3})
        [problem] = [problem for problem in self.problems if problem.namespace == "a.yaml"]
        self.assertIn("creationTimestamp", problem.reason)

    def test_what_is_no_document_is_named_by_file_and_number(self) -> None:
        self.write(
            "a.yaml", YAML + "- planted\n---\nplanted\n---\nkind: Secret\n---\nkind: Namespace\nmetadata: {name: 3}\n"
        )
        reading = self.read()
        self.assertEqual(reading.failures(), [])
        self.assertEqual(self.served(), {"team-blue": 3})
        self.assertEqual(
            [str(problem) for problem in reading.unreadable],
            [
                "a.yaml/document 5: it is not a mapping",
                "a.yaml/document 6: it is not a mapping",
                "a.yaml/document 7: it has no metadata.name",
                "a.yaml/document 8: it has no metadata.name",
            ],
        )

    def test_a_secret_without_its_namespace_is_named(self) -> None:
        self.write("tenant.json", json.dumps(tenant("team-blue", 3, "blue-password")[1]))
        reading = self.read()
        self.assertEqual(
            [str(problem) for problem in reading.unreadable],
            ["team-blue/redis-secret-master: no file has a Namespace document of that name"],
        )

    def test_an_empty_directory_says_that_there_is_nothing(self) -> None:
        (self.directory / "master.json").unlink()
        self.assertEqual(self.read(), Reading(None, (), {}))
        self.write("empty.yaml", "")
        self.write("comment.yaml", "# nothing\n---\n---\n")
        self.assertEqual(self.read(), Reading(None, (), {}))

    def test_it_says_where_it_reads(self) -> None:
        self.assertEqual(str(self.source), f"the manifests in {self.directory}")

    def parsed(self) -> list[bytes]:
        """The files that a reading parses."""
        found: list[bytes] = []
        load = yaml.load_all

        def noted(text: bytes, **options: object) -> object:
            found.append(text)
            return load(text, **options)

        with mock.patch.object(yaml, "load_all", noted):
            self.read()
        return found

    def test_only_files_that_changed_are_parsed_again(self) -> None:
        self.write("blue.yaml", YAML)
        green = self.write("green.json", json.dumps({"kind": "List", "items": tenant("team-green", 5, "green-password")}))
        self.assertEqual(len(self.parsed()), 3)
        before = self.served()
        self.assertEqual(self.parsed(), [])
        self.assertEqual(self.served(), before)
        green.write_text(green.read_text().replace("6379/5", "6379/6"))
        self.assertEqual(len(self.parsed()), 1)
        self.assertEqual(self.served(), {"team-blue": 3, "team-green": 6})
        green.unlink()
        self.assertEqual(self.parsed(), [])
        self.assertEqual(self.served(), {"team-blue": 3})

    def test_a_file_written_twice_within_the_resolution_of_its_time(self) -> None:
        blue = self.write("blue.yaml", YAML)
        os.utime(blue, (1_800_000_000, 1_800_000_000))
        self.read()
        self.assertEqual(self.served(), {"team-blue": 3})
        blue.write_text(YAML.replace("6379/3", "6379/4"))
        os.utime(blue, (1_800_000_000, 1_800_000_000))
        self.read()
        self.assertEqual(self.served(), {"team-blue": 4})

    def test_a_file_with_another_time_and_the_same_content(self) -> None:
        young = self.write("young.yaml", "kind: Namespace\nmetadata: {name: team-young}")
        for moment in (1_800_000_000, 1_800_000_001):
            os.utime(young, (moment, moment))
            self.assertEqual(self.read().namespaces, (NamespaceDocument("team-young", moment),))

    def test_a_rest_after_each_document(self) -> None:
        self.write("blue.yaml", YAML)
        rests: list[None] = []
        self.source.read(lambda: rests.append(None))
        self.assertEqual(len(rests), 1 + 4)
        self.source.read(lambda: rests.append(None))
        self.assertEqual(len(rests), 1 + 4)
