"""Tests the annotations for limits, and the token bucket of a rate."""

from __future__ import annotations

import unittest

from redisproxy import bounds
from redisproxy.tenants.limits import (
    ANNOTATIONS,
    CLIENT_TRACKING,
    PAUSED,
    SCRIPTS,
    UNLIMITED,
    Bucket,
    Limits,
    read_limits,
    read_paused,
)

CONNECTIONS, PATTERNS, COMMANDS, BYTES = ANNOTATIONS
DEFAULTS = Limits(10, 20, 0)


class AnnotationTests(unittest.TestCase):
    def test_what_is_said_wins_over_the_default(self) -> None:
        for said, limits in (
            ({}, DEFAULTS),
            ({CONNECTIONS: "5"}, Limits(5, 20, 0)),
            ({COMMANDS: "0"}, Limits(10, 0, 0)),
            ({PATTERNS: "5000"}, Limits(10, 20, 0, max_patterns=5000)),
            ({CONNECTIONS: "1000000", COMMANDS: "1000000000", BYTES: "007"}, Limits(1_000_000, 1_000_000_000, 7)),
        ):
            self.assertEqual(read_limits(said, DEFAULTS), (limits, []))

    def test_what_is_malformed_leaves_the_default_and_is_named(self) -> None:
        for text in ("", " ", "5 ", "-1", "+1", "1.5", "1e3", "10k", "1_0", "\u0665", "1000001", "9" * 1000, "five"):
            limits, [wrong] = read_limits({CONNECTIONS: text, COMMANDS: "7"}, DEFAULTS)
            self.assertEqual(limits, Limits(10, 7, 0))
            self.assertEqual(
                wrong,
                "annotation redisproxy/max-connections is not a whole number from 0 to 1000000: the default, 10, applies",
            )
        limits, wrong = read_limits({BYTES: "x", COMMANDS: "y"}, UNLIMITED)
        self.assertEqual((limits, len(wrong)), (UNLIMITED, 2))
        self.assertIn("the default, no limit, applies", wrong[0])

    def test_a_name_that_is_none_of_them_is_named(self) -> None:
        limits, [wrong] = read_limits({CONNECTIONS: "5", "redisproxy/max-conections": "3", "redisproxy/z": ""}, DEFAULTS)
        self.assertEqual(limits, Limits(5, 20, 0))
        self.assertRegex(
            wrong,
            "^annotation redisproxy/max-conections is unknown, and has no effect: the known ones are redisproxy/max-connections, ",
        )
        _, [wrong] = read_limits({"redisproxy/\n\u2028" + "x" * 1000: "3"}, DEFAULTS)
        self.assertRegex(wrong, r"^annotation redisproxy/\\n\\u2028x{67} is unknown")

    def test_client_side_caching(self) -> None:
        for said, allowed in (("allow", True), ("deny", False)):
            limits, wrong = read_limits({CLIENT_TRACKING: said, COMMANDS: "7"}, DEFAULTS)
            self.assertEqual((limits, wrong), (Limits(10, 7, 0, allowed), []))
        for said in ("", "Allow", "allow ", "true", "1", "allow\n"):
            limits, [wrong] = read_limits({CLIENT_TRACKING: said}, DEFAULTS)
            self.assertEqual(limits, DEFAULTS)
            self.assertEqual(wrong, "annotation redisproxy/client-tracking is neither allow nor deny: deny applies")
        self.assertEqual(Limits(10, 1, 0, True).per_process(3), Limits(4, 1, 0, True))

    def test_scripts(self) -> None:
        for default in (False, True):
            defaults = Limits(10, deny_scripts=default)
            self.assertEqual(read_limits({COMMANDS: "7"}, defaults)[0].deny_scripts, default)
            for said, denied in (("allow", False), ("deny", True)):
                self.assertEqual(read_limits({SCRIPTS: said}, defaults), (Limits(10, deny_scripts=denied), []))
            for said in ("", "Allow", "denied", "false"):
                limits, [wrong] = read_limits({SCRIPTS: said}, defaults)
                self.assertEqual(limits, Limits(10, deny_scripts=True))
                self.assertEqual(wrong, "annotation redisproxy/scripts is neither allow nor deny: deny applies")

    def test_a_pause(self) -> None:
        for said, paused in (({}, False), ({PAUSED: "false"}, False), ({PAUSED: "true"}, True)):
            self.assertEqual(read_paused(said), (paused, []))
            self.assertEqual(read_limits(said, DEFAULTS), (DEFAULTS, []), "it is a known name")
        for text in ("", "True", "yes", "1", " true", "x" * 1000):
            paused, [wrong] = read_paused({PAUSED: text})
            self.assertFalse(paused)
            self.assertEqual(wrong, "annotation redisproxy/paused is neither true nor false: the tenant is not paused")

    def test_each_process_has_its_part_rounded_up(self) -> None:
        self.assertEqual(Limits(10, 1, 0).per_process(3), Limits(4, 1, 0))
        self.assertEqual(Limits(10, 1, 7).per_process(1), Limits(10, 1, 7))

    def test_patterns_are_counted_over_all_processes(self) -> None:
        self.assertEqual(Limits(10, max_patterns=100).per_process(3), Limits(4, max_patterns=100))


class BucketTests(unittest.TestCase):
    def test_a_burst_and_then_the_rate(self) -> None:
        bucket = Bucket(100, 1000.0)
        self.assertEqual(bucket.charge(int(100 * bounds.BURST_SECONDS), 1000.0), 0.0)
        self.assertAlmostEqual(bucket.charge(50, 1000.0), 0.5)
        self.assertAlmostEqual(bucket.charge(0, 1000.2), 0.3)
        self.assertEqual(bucket.charge(0, 1000.6), 0.0)
        self.assertAlmostEqual(bucket.charge(11, 1000.6), 0.01)

    def test_nothing_is_saved_beyond_the_burst(self) -> None:
        bucket = Bucket(10, 0.0)
        self.assertEqual(bucket.charge(0, 1e9), 0.0)
        self.assertAlmostEqual(bucket.charge(15, 1e9), 0.5)

    def test_over_time_it_is_the_rate_however_it_is_taken(self) -> None:
        for chunk in (1, 3, 250, 5000):
            bucket, now, taken = Bucket(1000, 0.0), 0.0, 0
            while taken < 20_000:
                taken += chunk
                now += bucket.charge(chunk, now)
            self.assertAlmostEqual(now, (taken - 1000 * bounds.BURST_SECONDS) / 1000, places=6)

    def test_a_clock_that_is_set_back_gives_nothing_and_takes_nothing(self) -> None:
        bucket = Bucket(10, 1000.0)
        bucket.charge(15, 1000.0)
        self.assertAlmostEqual(bucket.charge(0, 500.0), 0.5)
        self.assertAlmostEqual(bucket.charge(0, 500.25), 0.25)
