"""The look at a directory of manifests: what is a change, when it is complete, and what it leads
to.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import yaml
from twisted.internet import defer, task
from twisted.trial import unittest

from redisproxy.sources.manifests import REST, ManifestsSource
from redisproxy.sources.poll import INTERVAL, TIME_FRACTION, PollService
from redisproxy.tenants.enrolment import Enrolment
from redisproxy.tenants.model import AuthenticationError

from ..support.kept import KeptSnapshot
from ..support.proxy import PREFIX, Manifests, master, tenant

MASTER = ("kube-system", "redis-secret-master")
#: Looks until a change takes effect: one that sees it, and one that finds it complete.
LOOKS = 2


class PollTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.manifests = Manifests([master("redis://:master-password@redis:6379/0"), *tenant("team-blue", 3, "first")])
        self.addCleanup(self.manifests.remove)
        self.clock = task.Clock()
        self.start(self.manifests.path)

    def start(self, path: Path) -> None:
        source = ManifestsSource(path, PREFIX, MASTER, REST, self.clock.seconds)
        self.kept = KeptSnapshot(self.clock, source, Enrolment("redis-secret-master", MASTER), 86400, defer.maybeDeferred)
        self.poll = PollService(self.clock, source, self.kept.refresh, defer.maybeDeferred)
        self.source = source
        for service in (self.kept, self.poll):
            service.startService()
            self.addCleanup(service.stopService)

    def look(self, times: int = 1) -> None:
        self.clock.pump([INTERVAL] * times)

    def holds(self, password: str) -> bool:
        try:
            return bool(self.kept.authenticate(None, password.encode()))
        except AuthenticationError:
            return False

    def write(self, password: str, name: str = "b.yaml") -> None:
        self.manifests.write(tenant("team-blue", 3, password), name)

    def test_a_file_that_comes_changes_and_goes(self) -> None:
        for password in ("second", "third!"):  # of one length
            self.write(password)
            self.look(LOOKS)
            self.assertTrue(self.holds(password))
        (self.manifests.path / "b.yaml").unlink()
        self.look(LOOKS)
        self.assertTrue(self.holds("third!"), "it may be made again in a moment")
        self.look(LOOKS + round(1 / INTERVAL))
        self.assertTrue(self.holds("first"))
        self.assertEqual(self.poll.events, 3)

    def test_one_reading_for_each_change(self) -> None:
        reads: list[object] = []
        read = self.source.read
        self.patch(self.source, "read", lambda yield_cpu: (reads.append(1), read(yield_cpu))[1])
        self.look(20)
        self.assertEqual(reads, [])
        self.write("second")
        self.look(20)
        self.assertEqual(len(reads), 1)
        (self.manifests.path / "notes.txt").write_text("no manifest")
        self.look(20)
        self.assertEqual(len(reads), 1)
        # Read for another reason, the change is no news any more.
        self.write("third!")
        self.kept.refresh()
        self.look(20)
        self.assertEqual((len(reads), self.poll.events), (2, 1))

    def test_a_file_that_is_being_written_is_left_alone(self) -> None:
        """A part of a file may well be a good manifest, of fewer tenants."""
        text = yaml.safe_dump_all([*tenant("team-blue", 3, "first"), *tenant("team-green", 5, "green")])
        path = self.manifests.path / "all.yaml"
        with path.open("w") as file:
            file.write(yaml.safe_dump(master("redis://:master-password@redis:6379/0")) + "---\n")
            for piece in text.split("---\n"):
                file.write("---\n" + piece)
                file.flush()
                self.look()
                self.assertTrue(self.holds("first"))
        self.look(LOOKS)
        self.assertTrue(self.holds("green") and self.holds("first"))

    def test_what_takes_something_away_is_read_once_more(self) -> None:
        """A writer that is held up for longer than between two looks leaves half of a file, which
        may be a good manifest.
        """
        documents = [master("redis://:master-password@redis:6379/0"), *tenant("team-blue", 3, "first")]
        whole = yaml.safe_dump_all([*documents, *tenant("team-green", 5, "green")])
        path = self.manifests.path / "all.yaml"
        path.write_text(whole)
        self.look(LOOKS)
        self.assertTrue(self.holds("green"))
        less = yaml.safe_dump_all(documents)
        path.write_text(less)
        self.look(round(REST / INTERVAL))
        self.assertTrue(self.holds("green"))
        path.write_text(whole)
        self.look(20)
        self.assertTrue(self.holds("green"))
        path.write_text(less)
        self.look(LOOKS + round(REST / INTERVAL) + 1)
        self.assertFalse(self.holds("green"))
        self.assertTrue(self.holds("first"))

    def test_what_is_read_once_more_needs_no_watch(self) -> None:
        self.poll.stopService()
        self.addCleanup(self.poll.startService)
        (self.manifests.path / "all.yaml").write_text(yaml.safe_dump(master("redis://:master-password@redis:6379/0")))
        self.kept.refresh()
        self.assertTrue(self.holds("first"))
        self.clock.advance(REST)
        self.assertFalse(self.holds("first"))

    def test_the_links_of_a_mounted_secret(self) -> None:
        """As the kubelet does it: what is mounted are links, by way of another one that is replaced
        in one step.
        """
        mount = self.manifests.path / "mount"
        mount.mkdir()

        def publish(version: str, password: str) -> None:
            (mount / version).mkdir()
            documents = [master("redis://:master-password@redis:6379/0"), *tenant("team-blue", 3, password)]
            (mount / version / "tenants.yaml").write_text(yaml.safe_dump_all(documents))
            os.utime(mount / version / "tenants.yaml", (1e9, 1e9))
            (mount / "..data_tmp").symlink_to(version)
            (mount / "..data_tmp").rename(mount / "..data")

        publish("..1", "first")
        (mount / "tenants.yaml").symlink_to("..data/tenants.yaml")
        self.start(mount)
        publish("..2", "other")  # of the same time and length
        self.look(LOOKS)
        self.assertTrue(self.holds("other"))
        self.assertFalse(self.holds("first"))

    def test_a_directory_that_is_away_for_a_while(self) -> None:
        away = self.manifests.path.with_suffix(".away")
        self.manifests.path.rename(away)
        self.look(5)
        self.assertTrue(self.holds("first"), "the last good one stays in force")
        away.rename(self.manifests.path)
        self.write("second")
        self.look(LOOKS)
        self.assertTrue(self.holds("second"))

    def test_a_file_that_cannot_be_read_is_tried_again_as_ever(self) -> None:
        reads = len(self.kept.problems)
        (self.manifests.path / "b.yaml").write_text("a: [")
        self.look(LOOKS)
        self.assertTrue(self.kept.problems)
        self.assertEqual(self.poll.events, 1)
        self.write("second")
        self.look(LOOKS)
        self.assertTrue(self.holds("second"))
        self.assertEqual(len(self.kept.problems), reads)

    def test_many_files_do_not_make_it_busy(self) -> None:
        self.poll.stopService()
        looks: list[float] = []

        def slow(call: object) -> defer.Deferred:
            looks.append(self.clock.seconds())
            self.clock.rightNow += 1.0
            return defer.maybeDeferred(call)

        self.poll = PollService(self.clock, self.source, self.kept.refresh, slow)
        self.poll.startService()
        self.addCleanup(self.poll.stopService)
        self.clock.pump([0.5] * 100)
        gaps = [later - earlier for earlier, later in itertools.pairwise(looks)]
        self.assertTrue(gaps and min(gaps) >= 1 / TIME_FRACTION, gaps)

    def test_a_bug_does_not_end_it(self) -> None:
        self.patch(self.source, "stamp", lambda: 1 / 0)
        self.look()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.patch(self.source, "stamp", lambda: ManifestsSource.stamp(self.source))
        self.write("second")
        self.look(LOOKS)
        self.assertTrue(self.holds("second"))

    def test_it_ends(self) -> None:
        waiting: list[defer.Deferred] = []

        def hangs(call: object) -> defer.Deferred:
            waiting.append(defer.Deferred())
            return waiting[-1]

        poll = PollService(self.clock, self.source, self.fail, hangs)
        poll.startService()
        self.look()
        poll.stopService()
        waiting[0].callback(())
        self.poll.stopService()
        self.kept.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        for service in (self.kept, self.poll):  # for the clean-ups
            service.startService()
