"""What only the manifests source has: files, several documents to each, and what may be wrong with
a file.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from redisproxy.sources import yamltext
from redisproxy.sources.documents import DocumentError
from redisproxy.sources.manifests import REST, ManifestsSource
from redisproxy.tenants.allocation import Refused, Room, choose_index
from redisproxy.tenants.documents import FullRead, NamespaceDocument, Problem
from redisproxy.tenants.enrolment import Enrolment
from redisproxy.tenants.model import AuthenticationError

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


class ManifestsCase(unittest.TestCase):
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="redisproxy-test-")
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        self.now = 1000.0
        self.start()
        self.write("master.json", json.dumps(master("redis://:master-password@redis:6379/0")))

    def start(self) -> None:
        """The proxy, anew."""
        self.source = ManifestsSource(self.directory, PREFIX, MASTER, REST, lambda: self.now)
        self.enrolment = Enrolment(CLIENT, MASTER)

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def read(self) -> FullRead:
        reading = self.source.read()
        self.enrolment.use_full_read(reading)
        return reading

    def served(self) -> dict[str, int]:
        snapshot, self.problems = self.enrolment.resolve()
        return {tenant.namespace: tenant.index for tenant in snapshot.tenants}

    def report(self) -> list[str]:
        """Reads, and what is wrong."""
        self.read()
        self.served()
        return [str(problem) for problem in self.problems]

    def yield_cpu(self) -> None:
        """So long that what was taken away is believed when it is read."""
        self.now += REST

    def remove(self, path: Path) -> None:
        """Removes a file; what is read next believes it."""
        path.unlink()
        self.source.read()
        self.yield_cpu()


class ManifestsTests(ManifestsCase):
    def test_several_documents_in_a_file(self) -> None:
        self.write("a.yaml", YAML)
        reading = self.read()
        self.assertEqual(self.served(), {"team-blue": 3})
        self.assertEqual(self.problems, [])
        self.assertEqual(reading.namespaces, (NamespaceDocument("team-blue", 1767225600.0),))
        snapshot, _ = self.enrolment.resolve()
        self.assertEqual(snapshot.authenticate(None, b"temp-password", 0).expires, 1767225600 + 2 * 3600)
        self.assertEqual(snapshot.backend.password, b"master-password")

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

    def test_a_directory_or_file_that_cannot_be_read_leaves_the_last_good_in_force(self) -> None:
        self.write("a.yaml", YAML)
        self.read()
        moved = self.directory.rename(self.directory.with_name(f"{self.directory.name}-moved"))
        self.addCleanup(moved.rename, self.directory)
        self.assertRegex(self.read().namespaces.reason, "No such file or directory$")
        self.assertEqual(self.served(), {"team-blue": 3})

    def test_an_impossible_time_costs_its_document_alone(self) -> None:
        green = YAML.replace("team-blue", "team-green").replace("/3", "/5")
        self.write("a.yaml", YAML + green.replace("2026-01-01", "2026-13-45"))
        self.assertEqual(self.read().failures(), [])
        self.assertEqual(self.served(), {"team-blue": 3})
        [problem] = [problem for problem in self.problems if problem.namespace == "a.yaml"]
        self.assertIn("creationTimestamp", problem.reason)

    def test_an_impossible_time_gives_its_database_to_nobody(self) -> None:
        """The younger claimant is not served, and an operator's command gives it to nobody."""
        older = YAML.replace("team-blue", "team-green").replace("-password@", "-green@")
        older = older.replace("2026-01-01", "2025-01-01")
        older = older[: older.index("{name: redis-secret-temp")].rpartition("---")[0]
        for what in ("name: team-green\n  creationTimestamp: ", 'namespace: team-green, creationTimestamp: "'):
            with self.subTest(what):
                self.start()
                self.write("a.yaml", YAML)
                self.write("b.yaml", older.replace(what + "2025-01-01T00:00:00Z", what + "2025-01-01"))
                self.read()
                self.assertEqual(self.served(), {})
                self.assertIn("creationTimestamp is not a time", str(self.problems))
                self.remove(self.directory / "a.yaml")
                self.write("new.yaml", "kind: Namespace\nmetadata: {name: team-new}")
                with self.assertRaisesRegex(Refused, "database 3 belongs to team-green"):
                    choose_index(self.read(), CLIENT, PREFIX, "team-new", 3, Room(16))

    def test_what_is_no_document_is_named_by_file_and_number(self) -> None:
        self.write(
            "a.yaml", YAML + "- planted\n---\nplanted\n---\nkind: Secret\n---\nkind: Namespace\nmetadata: {name: {}}\n"
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
        self.assertEqual(self.read(), FullRead(None, (), {}))
        self.write("empty.yaml", "")
        self.write("comment.yaml", "# nothing\n---\n---\n")
        self.assertEqual(self.read(), FullRead(None, (), {}))

    def test_it_says_where_it_reads(self) -> None:
        self.assertEqual(str(self.source), f"the manifests in {self.directory}")

    def parsed(self) -> list[bytes]:
        """The files that a reading parses."""
        found: list[bytes] = []
        load = yamltext.documents

        def noted(text: bytes) -> object:
            found.append(text)
            return load(text)

        with mock.patch.object(yamltext, "documents", noted):
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
        self.remove(green)
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

    def test_a_rest_after_each_document(self) -> None:
        self.write("blue.yaml", YAML)
        rests: list[None] = []
        self.source.read(lambda: rests.append(None))
        self.assertEqual(len(rests), 1 + 4)
        self.source.read(lambda: rests.append(None))
        self.assertEqual(len(rests), 1 + 4)


class StoredTests(ManifestsCase):
    """One secret, whole: as the operator's command changes it."""

    def test_the_later_one_is_in_force_and_all_files_are_named(self) -> None:
        self.write("a.yaml", YAML)
        second = secret("team-blue", CLIENT, redis_connection_string="redis://:second@redis:6379/3", other="kept")
        listed = {"kind": "List", "items": [{"kind": "SecretList", "items": [second]}, namespace("team-blue")]}
        self.write("b.json", json.dumps(listed))
        self.write("c.yaml", "\tno YAML")
        self.write(".d.yaml", YAML)
        found = self.source.stored("team-blue", CLIENT)
        self.assertEqual(found.files, ("a.yaml", "b.json"))
        self.assertEqual(
            found.data, {"redis-connection-string": b"redis://:second@redis:6379/3", "other": b"kept"}, "all keys"
        )
        self.assertEqual(self.source.files_with("team-blue", "redis-secret-temp-a"), ("a.yaml",))
        self.assertEqual((self.source.stored("team-blue", "x"), self.source.files_with("team-red", CLIENT)), (None, ()))

    def test_values_are_changed_where_they_stand(self) -> None:
        encoded = base64.b64encode(b"old").decode()
        self.write(
            "a.yaml",
            f"""
kind: Secret
immutable: true
metadata: {{name: redis-secret-master, namespace: team-blue, labels: {{number: 010}}}}
data: {{redis-password: {encoded}, other: {encoded}}}
stringData: {{redis-connection-string: "redis://:old@h/3"}}
""",
        )
        found = self.source.stored("team-blue", CLIENT)
        self.assertTrue(found.immutable)
        changed = found.with_values({"redis-password": b"new", "redis-connection-string": b"redis://:new@h/3"})
        self.assertEqual(
            changed,
            {
                "kind": "Secret",
                "immutable": True,
                "metadata": {"name": CLIENT, "namespace": "team-blue", "labels": {"number": "010"}},
                "data": {"redis-password": base64.b64encode(b"new").decode(), "other": encoded},
                "stringData": {"redis-connection-string": "redis://:new@h/3"},
            },
        )
        self.assertNotIn("old", repr(found))

    def test_a_malformed_one_is_refused_and_its_file_is_still_named(self) -> None:
        self.write("a.yaml", json.dumps({**secret("team-blue", CLIENT), "data": {"other": "%"}}))
        with self.assertRaisesRegex(DocumentError, "^data.other is not base64$"):
            self.source.stored("team-blue", CLIENT)
        self.assertEqual(self.source.files_with("team-blue", CLIENT), ("a.yaml",))


class ScalarTests(ManifestsCase):
    """Every scalar is the text that was written."""

    def test_a_masters_password(self) -> None:
        (self.directory / "master.json").unlink()
        for text in ("0123", "010", "1:30", "0x10", "1e3", "1_000", "yes", "null", "~", "2026-01-01", "=", "<<", "!!bool x"):
            self.write(
                "m.yaml",
                "kind: Secret\nmetadata: {name: redis-secret-master, namespace: kube-system}\nstringData:\n"
                f"  redis-connection-string: redis://redis/0\n  redis-password: {text}\n",
            )
            self.yield_cpu()
            self.read()
            self.yield_cpu()
            self.read()
            snapshot, problems = self.enrolment.resolve()
            self.assertEqual(snapshot.backend.password, text.removeprefix("!!bool ").encode())
            self.assertEqual(problems, [])

    def test_numbers_are_what_was_written(self) -> None:
        limit = "redisproxy/max-connections"
        for written, held in (("10", 10), ("'10'", 10), ("010", 10), ("0x10", 0), ("1:30", 0), ("1e3", 0), ("9" * 5000, 0)):
            self.write(
                "a.yaml",
                YAML.replace("  creationTimestamp", f"  annotations: {{{limit}: {written}}}\n  creationTimestamp", 1),
            )
            self.read()
            self.yield_cpu()
            self.read()
            snapshot, problems = self.enrolment.resolve()
            self.assertEqual(snapshot.limits_of("team-blue").max_connections, held, written)
            self.assertEqual(len(problems), 0 if held else 1, written)
        for hours, expires in (("2", 2), ("010", None), ("0x10", None), ("1:30", None), ("null", None), ("", None)):
            self.write("a.yaml", YAML.replace("valid_hours: 2", f"valid_hours: {hours}"))
            self.read()
            self.yield_cpu()
            self.read()
            snapshot, problems = self.enrolment.resolve()
            self.assertEqual(snapshot.next_expiry(0), expires and 1767225600 + expires * 3600, hours)
            self.assertEqual(len(problems), 0 if expires else 1, hours)

    def test_what_yaml_stumbles_over_costs_nobody_anything(self) -> None:
        for note in (
            "note: =",
            "<<: 3",
            "<<: {a: b}",
            "note: !x y",
            "note: " + "9" * 5000,
            "note: !!bool hunter2",
            "note: 1:99",
        ):
            with self.subTest(note[:20]):
                self.start()
                self.write("a.yaml", YAML.replace("  name: team-blue", f"  name: team-blue\n  annotations: {{{note}}}", 1))
                problems = self.report()
                self.assertEqual(self.served(), {"team-blue": 3})
                self.assertEqual(
                    problems,
                    [
                        "a.yaml/document 1: it has a YAML tag on line 6: the proxy ignores the tag, and uses the value after it unchanged"
                    ]
                    if "!x" in note
                    else [],
                )

    def test_no_tag_makes_an_object(self) -> None:
        for tagged in (
            "!!python/object/apply:os.system [planted]",
            "!!python/name:os.system ''",
            "!!set {planted}",
            "!!omap []",
        ):
            self.start()
            self.write("b.yaml", f"{tagged}\n---\n" + YAML)
            problems = self.report()
            self.assertEqual(self.served(), {"team-blue": 3})
            self.assertNotIn("planted", repr(problems))
            self.assertRegex(problems[0], "^b.yaml/document 1: it ")

    def test_json(self) -> None:
        document = {"kind": "Secret", "metadata": {"name": "redis-secret-temp-a", "namespace": "team-a"}, "stringData": {}}
        document["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
        document["stringData"] = {"redis-connection-string": "redis://:pw@r/3", "valid_hours": 2}
        bare = {"kind": "Namespace", "metadata": {"name": "team-a", "creationTimestamp": None, "annotations": None}}
        self.write("a.json", json.dumps({"kind": "List", "items": [bare, document]}))
        self.assertEqual(self.report(), [])
        self.assertEqual(self.enrolment.resolve()[0].next_expiry(0), 1767225600 + 2 * 3600)


class BadFileTests(ManifestsCase):
    """One file that fails, and what the others say."""

    BAD = (
        "a: [",
        "redis://:planted@r: {x: }: y",
        "\tplanted: 1",
        "{'planted': ",
        b"planted: \xff\xfe",
        b"planted: \x00",
        "&a {kind: List, items: [*a]}",
        "? [planted]\n: x",
        "kind: Secret\nstringData:\n\tredis-password: planted",
    )

    def test_at_the_start_it_costs_itself_alone(self) -> None:
        self.write("a.yaml", YAML)
        for content in self.BAD:
            with self.subTest(content[:40]):
                self.start()
                self.write("broken.yaml", content)
                reading = self.read()
                self.assertRegex(reading.failures()[0].reason, "^broken.yaml: it is not YAML or JSON")
                self.assertEqual(self.served(), {"team-blue": 3})
                [problem] = self.problems
                self.assertNotIn("planted", repr(reading))
                self.assertRegex(
                    str(problem),
                    r"^broken.yaml: it is not YAML or JSON \((line \d+, column \d+|somewhere)\): nothing in it is in force",
                )

    def test_it_keeps_what_it_said_before_and_the_others_take_effect(self) -> None:
        self.write("a.yaml", YAML)
        self.write("b.json", json.dumps({"kind": "List", "items": tenant("team-green", 5, "green-password")}))
        self.read()
        for content in self.BAD:
            self.write("b.json", content)
            self.write("c.json", json.dumps({"kind": "List", "items": tenant("team-red", 6, "red-password")}))
            self.remove(self.directory / "a.yaml")
            [problem] = self.report()
            self.assertEqual(self.served(), {"team-green": 5, "team-red": 6})
            self.assertRegex(problem, r"^b.json: it is not YAML or JSON \(.*\): its last good content stays in force$")
            self.remove(self.directory / "c.json")
            self.write("a.yaml", YAML)
            self.read()
            self.assertEqual(self.served(), {"team-blue": 3, "team-green": 5})
        self.remove(self.directory / "b.json")
        self.assertEqual(self.report(), [])
        self.assertEqual(self.served(), {"team-blue": 3})

    def test_the_older_owner_of_a_database_may_be_in_it(self) -> None:
        """Else its younger claimant had it, and its data, at the next start."""
        owner = YAML.replace("2026-01-01", "2020-01-01")
        other = json.dumps({"kind": "List", "items": [*tenant("team-green", 3, "g"), *tenant("team-red", 5, "r")]})
        self.write("a.yaml", owner)
        self.write("b.json", other)
        self.read()
        self.assertEqual(self.served(), {"team-blue": 3, "team-red": 5})
        encoded = base64.b64encode(b"redis://:blue-password@redis:6379/3").decode()
        for bad in (
            owner + "\tplanted: 1\n",
            owner.replace("stringData", "\tstringData"),
            f"a: [\ndata:\n  redis-connection-string: {encoded}\n",
            ("a: [\n" + owner).encode("utf-16"),
            'a: "redis://:blue-password@redis:6379/3',
        ):
            with self.subTest(bad[:20]):
                self.write("a.yaml", bad)
                self.read()
                self.assertEqual(self.served(), {"team-blue": 3, "team-red": 5}, "in force, as before")
                self.start()
                problems = self.report()
                self.assertEqual(self.served(), {"team-red": 5})
                self.assertIn(
                    "team-green/redis-secret-master: database 3 may belong to a namespace in a.yaml, "
                    "which the proxy could never read: no other namespace gets it",
                    problems,
                )
                self.write("a.yaml", owner)
                self.assertRegex("\n".join(self.report()), "database 3 belongs to the older team-blue")
                self.assertEqual(self.served(), {"team-blue": 3, "team-red": 5})

    def test_a_file_that_breaks_off_may_name_whatever_it_was_about_to(self) -> None:
        tenants = [*tenant("team-1", 1, "a"), *tenant("team-12", 12, "b"), *tenant("team-2", 2, "c")]
        self.write("b.json", json.dumps({"kind": "List", "items": tenants}))
        for end, served in (("redis:6379/1", {"team-2"}), ("redis:6379/1\n", {"team-12", "team-2"}), ("redis:63", set())):
            self.start()
            self.write("a.yaml", f'kind: Secret\nstringData:\n  redis-connection-string: "redis://:pw@{end}')
            self.read()
            self.assertEqual(set(self.served()), served, end)

    def test_one_that_cannot_be_opened_may_name_any_database(self) -> None:
        self.write("a.yaml", YAML)
        self.write("b.yaml", YAML.replace("team-blue", "team-green").replace("/3", "/5"))
        read = Path.read_bytes

        def refused(path: Path) -> bytes:
            if path.name == "b.yaml":
                raise PermissionError(13, "Permission denied", str(path))
            return read(path)

        with mock.patch.object(Path, "read_bytes", refused):
            reading = self.read()
            self.assertEqual(
                [failure.reason for failure in reading.failures()], ["b.yaml: it cannot be read (Permission denied)"]
            )
            self.assertEqual(self.served(), {})
            self.assertIn("database 3 may belong to a namespace in b.yaml", str(self.problems))
        self.assertEqual(self.read().failures(), [])
        self.assertEqual(self.served(), {"team-blue": 3, "team-green": 5})
        with mock.patch.object(Path, "read_bytes", refused):
            self.remove(self.directory / "a.yaml")
            [problem] = self.report()
            self.assertEqual(problem, "b.yaml: it cannot be read (Permission denied): its last good content stays in force")
            self.assertEqual(self.served(), {"team-green": 5})

    def test_a_link_to_where_nobody_may_look_costs_itself_alone(self) -> None:
        self.write("a.yaml", YAML)
        target = self.write(
            "elsewhere", YAML.replace("team-blue", "team-green").replace("/3", "/5").replace("-password@", "-green@")
        )
        link = self.directory / "b.yaml"
        link.symlink_to(target)
        self.read()
        self.assertEqual(self.served(), {"team-blue": 3, "team-green": 5})
        before = self.source.stamp()
        link.unlink()
        # its name is too long for any file: of this the superuser, too, has an error
        link.symlink_to("x" * 300)
        self.assertNotEqual(self.source.stamp(), before)
        self.write("a.yaml", YAML.replace("/3", "/4"))
        [problem] = self.report()
        self.assertEqual(problem, "b.yaml: it cannot be read (File name too long): its last good content stays in force")
        self.assertEqual(self.served(), {"team-blue": 4, "team-green": 5})
        before = self.source.stamp()
        self.write("c.yaml", "kind: Namespace\nmetadata: {name: team-red}")
        self.assertNotEqual(self.source.stamp(), before)
        link.unlink()
        link.symlink_to("nowhere")
        self.source.read()
        self.yield_cpu()
        self.assertEqual(self.report(), [])
        self.assertEqual(self.served(), {"team-blue": 4})

    def test_aliases_of_aliases_take_no_time(self) -> None:
        self.write("a.yaml", YAML)
        lines = ["kind: List", "items:", "- &a0 {kind: List, items: [{kind: Namespace, metadata: {name: team-green}}]}"]
        lines += [f"- &a{n} {{kind: List, items: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40)]
        self.write("b.yaml", "\n".join(lines))
        rests: list[None] = []

        def yield_cpu() -> None:
            rests.append(None)
            self.assertLess(len(rests), 100)

        reading = self.source.read(yield_cpu)
        self.assertEqual(reading.failures(), [])
        self.assertEqual([found.name for found in reading.namespaces], ["team-blue", "team-green"])

    def test_nothing_is_given_away_while_it_is_not_known_what_it_names(self) -> None:
        self.write("a.yaml", YAML)
        self.write("b.yaml", "a: [")
        self.write("new.json", json.dumps(namespace("team-new")))
        with self.assertRaisesRegex(
            Refused, "b.yaml could not be read, so the command does not know which databases it gives to namespaces"
        ):
            choose_index(self.read(), CLIENT, PREFIX, "team-new", None, Room(16, {}))

    def test_hidden_files_are_none(self) -> None:
        """What an archiver or an editor leaves, and what is being written."""
        self.write("a.yaml", YAML)
        for name in ("._a.yaml", ".a.yaml", ".#a.yaml"):
            self.write(name, b"\x00\x05\x16\x07\x00\x02" + YAML.replace("team-blue", "team-hidden").encode())
        self.assertEqual(self.report(), [])
        self.assertEqual(self.served(), {"team-blue": 3})

    def test_a_files_name_is_printable(self) -> None:
        self.write("a\x1b[2J\u202e\n.yaml", "a: [")
        [problem] = self.report()
        self.assertTrue(problem.isprintable(), problem)
        self.assertIn("a\\x1b[2J\\u202e\\n.yaml: ", problem)


class HalfWrittenTests(ManifestsCase):
    """A file that takes something away is read once more."""

    def setUp(self) -> None:
        super().setUp()
        self.whole = "---\n".join(map(json.dumps, [*tenant("team-blue", 3, "b"), *tenant("team-green", 12, "g")])) + "\n"
        self.whole = self.whole.replace("}---", "}\n---")
        self.path = self.write("all.json", self.whole)
        self.read()
        self.before = {"team-blue": 3, "team-green": 12}
        self.assertEqual(self.served(), self.before)

    def test_the_half_of_a_file(self) -> None:
        """Each half that there is: none gives anybody another's database, or takes one away."""
        text = YAML.replace("/3", "/12").replace("team-blue", "team-red").replace("blue-", "red-")
        self.write("all.json", self.whole.replace("6379/12", "6379/5"))
        path = self.write("z.yaml", text)
        self.read()
        self.yield_cpu()
        self.read()
        before = {"team-blue": 3, "team-green": 5, "team-red": 12}
        self.assertEqual(self.served(), before)
        for length in range(len(text)):
            path.write_text(text[:length])
            self.now += 0.1
            self.read()
            self.assertEqual(self.served(), before, text[:length])
        path.write_text(text)
        self.assertIsNone(self.read().again)

    def test_it_is_believed_after_a_rest(self) -> None:
        self.path.write_text(self.whole.partition("---")[0])
        for now, again in ((0.0, REST), (0.4, REST - 0.4), (REST - 0.1, 0.1)):
            self.now = 1000.0 + now
            self.assertAlmostEqual(self.read().again, again)
            self.assertEqual(self.served(), self.before)
        self.now = 1000.0 + REST
        self.assertIsNone(self.read().again)
        self.assertEqual(self.served(), {})

    def test_one_that_is_written_on_rests_anew(self) -> None:
        for part in (100, 200, 300):
            self.path.write_text("# " + "x" * part)
            self.now += REST - 0.1
            self.assertAlmostEqual(self.read().again, REST)
            self.assertEqual(self.served(), self.before)
        self.path.write_text(self.whole)
        self.assertIsNone(self.read().again)
        self.assertEqual(self.served(), self.before)

    def test_what_takes_something_away_without_being_shorter(self) -> None:
        comment = "#" * 500 + "\n"
        for less in (
            self.whole.replace("team-green", "team-other"),
            self.whole.replace("redisproxy:6379/12", "redisproxy:6379/1"),
            self.whole.replace("redis-secret-master", "redis-secret-other"),
        ):
            self.path.write_text(comment + less)
            self.assertEqual(self.read().again, REST)
            self.assertEqual(self.served(), self.before)
            self.path.write_text(self.whole)
            self.read()

    def test_what_adds_or_changes_takes_effect_at_once(self) -> None:
        for more in (
            self.whole + "---\n" + "\n---\n".join(map(json.dumps, tenant("team-red", 6, "r"))),
            self.whole.replace(":b@", ":another@"),
        ):
            self.path.write_text(more)
            self.assertIsNone(self.read().again)
            self.path.write_text(self.whole)
            self.read()
            self.yield_cpu()
            self.read()

    def test_the_others_do_not_wait_for_it(self) -> None:
        self.path.write_text("")
        self.write("red.json", json.dumps({"kind": "List", "items": tenant("team-red", 6, "r")}))
        self.read()
        self.assertEqual(self.served(), {**self.before, "team-red": 6})

    def test_a_file_that_is_gone_is_looked_for_once_more(self) -> None:
        """It may be made again in a moment, and its database must not be another one's
        meanwhile.
        """
        text = self.path.read_text()
        self.path.unlink()
        self.assertEqual(self.read().again, 1.0)
        self.assertEqual(self.served(), self.before)
        self.path.write_text(text)
        self.assertIsNone(self.read().again)
        self.assertEqual(self.served(), self.before)
        self.path.unlink()
        self.read()
        self.yield_cpu()
        self.assertIsNone(self.read().again)
        self.assertEqual(self.served(), {})


class AgeTests(ManifestsCase):
    """Whose a database is, where files do not say how old their documents are."""

    def namespace(self, name: str, index: int, created: str | None = None) -> str:
        documents = tenant(name, index, f"{name}-password")
        for document in documents:
            document["metadata"]["creationTimestamp"] = created
        return json.dumps({"kind": "List", "items": documents})

    def test_a_temporary_password_has_to_say_when_it_began(self) -> None:
        self.write("a.json", self.namespace("team-a", 3, "2026-01-01T00:00:00Z"))
        document = secret("team-a", "redis-secret-temp-x", redis_connection_string="redis://:temp@r/3", valid_hours="1")
        path = self.write("temp.json", json.dumps(document))
        for modified in (1_700_000_000, 4_000_000_000):
            os.utime(path, (modified, modified))
            self.assertEqual(
                self.report(),
                [
                    "team-a/redis-secret-temp-x: it has valid_hours, but no metadata.creationTimestamp, when these hours "
                    "begin"
                ],
            )
            with self.assertRaises(AuthenticationError):
                self.enrolment.resolve()[0].authenticate(None, b"temp", 0.0)

    def test_touch_and_comments_change_nothing(self) -> None:
        a = self.write("a.json", self.namespace("team-a", 3))
        self.report()
        b = self.write("b.json", self.namespace("team-b", 3))
        self.report()
        for path, modified in ((a, 4e9), (b, 1e9), (a, 1e9), (b, 4e9)):
            path.write_text("# a comment\n" + path.read_text())
            os.utime(path, (modified, modified))
            self.assertEqual(self.report(), ["team-b/redis-secret-master: database 3 belongs to team-a, which had it first"])
            self.assertEqual(self.served(), {"team-a": 3})

    def test_a_database_in_force_stays_whatever_the_names(self) -> None:
        for created in (None, "2020-01-01T00:00:00Z"):
            with self.subTest(created):
                self.start()
                for path in self.directory.glob("team-*"):
                    path.unlink()
                self.write("team-z.json", self.namespace("team-z", 3))
                self.report()
                self.write("team-a.json", self.namespace("team-a", 3, created))
                self.report()
                self.assertEqual(self.served(), {"team-z": 3})
                # It lets go, and the other one has it.
                self.write("team-z.json", self.namespace("team-z", 4))
                self.report()
                self.assertEqual(self.served(), {"team-z": 4, "team-a": 3})

    def test_after_a_start_none_gets_it(self) -> None:
        """Not even by name: it is the data of one of them."""
        self.write("a.json", self.namespace("team-a", 3))
        self.write("c.json", self.namespace("team-c", 5))
        self.report()
        self.write("b.json", self.namespace("team-b", 3, "2026-01-01T00:00:00Z"))
        self.report()
        self.assertEqual(self.served(), {"team-a": 3, "team-c": 5})
        self.start()
        problems = self.report()
        self.assertEqual(self.served(), {"team-c": 5})
        reason = "and not all have a creationTimestamp: none of them gets it"
        self.assertEqual(
            problems,
            [
                f"team-a/redis-secret-master: database 3 is also named by team-b, {reason}",
                f"team-b/redis-secret-master: database 3 is also named by team-a, {reason}",
            ],
        )
        self.write("a.json", self.namespace("team-a", 3, "2025-01-01T00:00:00Z"))
        self.assertEqual(self.report(), ["team-b/redis-secret-master: database 3 belongs to the older team-a"])
        self.assertEqual(self.served(), {"team-a": 3, "team-c": 5})

    def test_the_older_one_where_both_say_so(self) -> None:
        self.write("a.json", self.namespace("team-a", 3, "2026-01-01T00:00:00Z"))
        self.report()
        self.write("b.json", self.namespace("team-b", 3, "2025-01-01T00:00:00Z"))
        self.assertEqual(self.report(), ["team-a/redis-secret-master: database 3 belongs to the older team-b"])

    def test_a_malformed_secret_keeps_its_database_from_others(self) -> None:
        """Its owner is about to fix it; until then nobody reads what is in there."""
        self.write("a.json", self.namespace("team-a", 3, "2025-01-01T00:00:00Z"))
        self.write("b.json", self.namespace("team-b", 3, "2026-01-01T00:00:00Z"))
        self.report()
        for malformed, known in ((":team-a-password@", True), ("6379/3", False)):
            for restarted in (False, True):
                with self.subTest(malformed, restarted=restarted):
                    self.write("a.json", self.namespace("team-a", 3, "2025-01-01T00:00:00Z").replace(malformed, "x"))
                    if restarted:
                        self.start()
                    self.report()
                    self.yield_cpu()
                    self.report()
                    self.assertEqual(self.served(), {"team-b": 3} if restarted and not known else {})
                    self.write("a.json", self.namespace("team-a", 3, "2025-01-01T00:00:00Z"))
                    self.report()
                    self.assertEqual(self.served(), {"team-a": 3})

    def test_a_malformed_secret_takes_no_database_away(self) -> None:
        self.write("b.json", self.namespace("team-b", 3, "2026-01-01T00:00:00Z"))
        self.report()
        self.write("a.json", self.namespace("team-a", 3, "2025-01-01T00:00:00Z").replace(":team-a-password@", ""))
        self.report()
        self.assertEqual(self.served(), {"team-b": 3})
        self.assertEqual([problem.namespace for problem in self.problems], ["team-a"])
        self.assertIsInstance(self.problems[0], Problem)
