"""Tests what follows from the events of a client program."""

from __future__ import annotations

import unittest

from .events import DEAD_AFTER, Event, Outcome, outcome, parse, working

COMMAND = ("command", 0)


def events(text: str) -> list[Event]:
    """Returns the events of lines, each of which has to be one."""
    found = [parse(line) for line in text.strip().splitlines()]
    assert None not in found, text
    return found


def seen(text: str, *clients: tuple[str, int], began: float = 10.0, ended: float = 20.0) -> Outcome:
    return outcome(events(text), clients, began, ended)


class ParseTests(unittest.TestCase):
    def test_a_line_is_an_event(self) -> None:
        self.assertEqual(parse("17.250 command 3 ok 41\n"), Event(17.25, "command", 3, "ok", "41"))
        self.assertEqual(parse("17.250 command 3 ok"), Event(17.25, "command", 3, "ok", ""))
        self.assertEqual(parse("1.0 worker 0 error A: b c"), Event(1.0, "worker", 0, "error", "A: b c"))

    def test_lines_of_a_library_are_none(self) -> None:
        for line in ("", "hello", "17.250 command 3", "17.250 command three ok", "17.250 command 3 fine", "x 1.0 a 1 ok"):
            self.assertIsNone(parse(line), line)

    def test_a_client_works_after_its_first_success(self) -> None:
        lines = "1.0 command 0 note x\n1.0 command 1 ok\n1.0 consumer 2 error X\n1.0 consumer 3 did 7"
        self.assertEqual(working(events(lines)), {("command", 1), ("consumer", 3)})


class OutcomeTests(unittest.TestCase):
    def test_nothing_fails(self) -> None:
        found = seen("9.0 command 0 ok 1\n14.0 command 0 ok 2\n19.0 command 0 ok", COMMAND)
        self.assertEqual(found, Outcome(tried=3, longest_wait=5.0, under_way=1))

    def test_errors_are_counted_and_the_last_one_has_its_time(self) -> None:
        found = seen(
            "9.0 command 0 ok 1\n11.0 command 0 error A\n12.5 command 0 error A\n13.0 command 0 ok 2\n19.5 command 0 ok",
            COMMAND,
        )
        self.assertEqual((found.tried, found.failed, found.last_error), (5, 2, 2.5))
        self.assertEqual(found.errors, {"command: A": 2})

    def test_an_error_before_the_fault_has_no_time_after_it(self) -> None:
        self.assertIsNone(seen("9.0 command 0 error A").last_error)

    def test_what_comes_after_the_end_is_no_failure(self) -> None:
        found = seen("19.0 command 0 ok\n20.5 command 0 error the program ends", COMMAND)
        self.assertEqual((found.tried, found.failed), (1, 0))

    def test_a_wait_lasts_from_the_begin_of_the_fault_at_the_earliest(self) -> None:
        self.assertEqual(seen("4.0 command 0 ok\n12.0 command 0 ok\n19.0 command 0 ok", COMMAND).longest_wait, 7.0)

    def test_a_client_that_never_succeeds_again_waits_until_the_end(self) -> None:
        found = seen("9.0 command 0 ok", COMMAND)
        self.assertEqual((found.longest_wait, found.dead), (10.0, ["command 0"]))

    def test_a_client_is_dead_without_a_success_for_so_long(self) -> None:
        for last, dead in ((20 - DEAD_AFTER, []), (19.9 - DEAD_AFTER, ["subscriber 1"])):
            self.assertEqual(seen(f"{last:.1f} subscriber 1 heard 4", ("subscriber", 1)).dead, dead)

    def test_a_client_that_was_never_there_is_dead(self) -> None:
        self.assertEqual(seen("19.0 command 0 ok", COMMAND, ("worker", 1)).dead, ["worker 1"])

    def test_a_confirmed_increment_that_the_counter_does_not_have_is_lost(self) -> None:
        self.assertEqual(seen("9.0 command 0 ok 1\n9.1 command 0 ok 2\n12.0 command 0 ok 1").lost, 2)

    def test_an_increment_that_was_done_twice(self) -> None:
        self.assertEqual(seen("9.0 command 0 ok 1\n12.0 command 0 ok 3").twice, 1)

    def test_an_increment_that_failed_may_have_been_done(self) -> None:
        self.assertEqual(seen("9.0 command 0 ok 1\n11.0 command 0 error A\n12.0 command 0 ok 3").twice, 0)

    def test_increments_are_open_where_one_is_what_a_client_hears_first_after_the_begin(self) -> None:
        before = "9.0 command 0 ok\n9.0 command 1 ok 1\n9.0 command 2 ok\n9.0 command 3 ok"
        after = "12.0 command 0 ok 1\n12.1 command 1 ok\n12.1 command 2 error A\n12.2 command 1 ok 2\n12.2 command 2 ok 1"
        self.assertEqual(seen(f"{before}\n{after}").under_way, 1)

    def test_counters_belong_to_clients(self) -> None:
        found = seen("9.0 command 0 ok 1\n9.0 command 1 ok 1\n11.0 command 1 error A\n12.0 command 0 ok 3")
        self.assertEqual((found.lost, found.twice), (0, 1))

    def test_items_are_lost_or_done_twice(self) -> None:
        text = (
            "9.0 producer 0 added 1\n9.1 producer 0 added 2\n9.2 producer 0 error A\n9.3 worker 0 did 1\n9.4 worker 1 did 1"
        )
        found = seen(text + "\n9.5 worker 0 did 3")  # 3 was added, although its producer saw an error
        self.assertEqual((found.lost, found.twice, found.lost_items), (1, 1, {"2": -0.9}))

    def test_an_item_that_is_done_after_the_end_is_not_lost(self) -> None:
        self.assertEqual(seen("19.0 producer 0 added 1\n22.0 worker 0 did 1").lost, 0)

    def test_messages_are_missed_by_each_subscriber(self) -> None:
        text = """
            9.0 publisher 0 published 1
            9.1 subscriber 0 heard 1
            9.2 publisher 0 published 2
            9.3 subscriber 1 heard 2
            9.4 publisher 0 published 3
            9.5 subscriber 0 heard 3
        """
        found = seen("\n".join(map(str.strip, text.strip().splitlines())), ("subscriber", 0), ("subscriber", 1))
        # 1 was published before subscriber 1 heard anything.
        self.assertEqual(found.missed, 2)
