"""Tests the simulation itself: the control holds, a seed can be repeated, and seeds that once found
faults find none now.
"""

from __future__ import annotations

import gc
import unittest
import weakref
from unittest import mock

import redisproxy.probes
from benchmarks.attacks import WORK
from redisproxy import messages
from redisproxy.session import commands
from redisproxy.session.ending import Ending
from redisproxy.session.session import Session
from redisproxy.upstream.hold import HeldWork

from . import floods
from . import simulation as sim
from .__main__ import OUTSIDE, probes


def wrong(seed: int, options: sim.Options) -> list[str]:
    return [f"seed {seed}: {wrong.kind}: {wrong.text}" for wrong in sim.Simulation(seed, options).run()]


class SimulationTests(unittest.TestCase):
    def setUp(self) -> None:
        # Deferreds that a failed test left in this process are logged as bugs when they are
        # collected. A bug in the log counts as one of the simulated proxy.
        gc.collect()

    def test_the_control_holds(self) -> None:
        for seed in range(1, 31):
            self.assertEqual(wrong(seed, sim.Options(straight=True, newer=sim.NEWER)), [])

    def test_a_seed_can_be_repeated(self) -> None:
        def run() -> tuple:
            simulation = sim.Simulation(7, sim.Options(newer=sim.NEWER, faults=sim.FAULTS))
            found = simulation.run()
            return found, simulation.world.now, simulation.world.number(), simulation.reached

        self.assertEqual(run(), run())

    def test_no_address_of_an_object_decides_anything(self) -> None:
        """Sets of objects without a hash of their own were iterated in the order of addresses."""

        def run(keep: list[object]) -> tuple:
            options = sim.Options(limits=sim.ALL_LIMITS, newer=sim.NEWER, faults=sim.FAULTS, newer_faults=sim.NEWER_FAULTS)
            simulation = sim.Simulation(5, options)
            found = simulation.run()
            keep.append([bytearray(size) for size in range(7 * len(keep), 500)])  # others get other addresses
            return found, simulation.world.now, simulation.world.number()

        kept: list[object] = []
        self.assertEqual(len({repr(run(kept)) for _ in range(8)}), 1)

    def test_simulations_that_are_over_use_no_memory(self) -> None:
        kept = weakref.WeakSet()
        for seed in range(1001, 1013, 2):
            simulation = sim.Simulation(seed, sim.options_of(seed))
            simulation.run()
            kept.add(simulation)
        del simulation
        gc.collect()
        # Twisted's exceptions that are made only once keep the frames where they were raised last.
        self.assertLessEqual(len(kept), 2)

    def test_nothing_is_wrong_while_redis_is_well(self) -> None:
        for seed in range(1, 21):
            self.assertEqual(wrong(seed, sim.Options()), [])

    def test_nothing_is_lost_or_mixed_up_when_redis_fails_and_credentials_change(self) -> None:
        for seed in range(1, 21):
            self.assertEqual(wrong(seed, sim.Options(faults=sim.FAULTS)), [])

    def test_what_was_not_sent_waits_while_redis_is_away(self) -> None:
        """Restarts, loading, too many clients, connections that are cut: no client gets an error,
        and one with nothing in flight is not closed, unlike in version 0.1. At a full Redis the
        tenant that has most gives some up, and the simulation counts these.
        """
        for seed in range(1, 16):
            options = sim.Options(faults=("restart", "abandon", "stall"), newer_faults=sim.NEWER_FAULTS)
            self.assertEqual(wrong(seed, options), [])

    def test_a_pause_holds_a_tenant_and_touches_no_other(self) -> None:
        """Only clients with state at Redis are closed; others if it lasts for longer than what is
        not sent is held. Nothing is lost, mixed up or stuck.
        """
        for seed in range(1, 16):
            self.assertEqual(wrong(seed, sim.Options(newer=sim.NEWER, newer_faults=("pause",) * 3)), [])
            self.assertEqual(wrong(seed, sim.Options(newer=sim.NEWER, faults=("restart",), newer_faults=sim.PAUSES)), [])

    def test_a_blocked_client_is_closed_by_a_pause_though_it_was_answered(self) -> None:
        """Redis answered its BLPOP at that moment. So the client saw an idle connection end."""
        for seed in (300367, 300727, 400773):
            self.assertEqual(wrong(seed, sim.options_of(seed)), [])

    def test_a_pause_that_closes_an_idle_client_is_found(self) -> None:
        """Nothing above forgives that."""

        def close(session: Session) -> bool:
            return session.credential is not None and not session.ended and session.ending.pause()

        with mock.patch.object(Session, "pause", close):
            found = sim.Simulation(11, sim.Options(newer=sim.NEWER, newer_faults=("pause",))).run()
        self.assertEqual({wrong.kind for wrong in found}, {"closed-idle"})

    def test_a_log_in_waits_no_longer_though_redis_was_back_for_a_moment(self) -> None:
        """Redis answered others for half a second of its 15 seconds."""
        self.assertEqual(wrong(300573, sim.options_of(300573)), [])

    def test_a_log_in_with_a_former_password_may_be_closed(self) -> None:
        """It was wrong by the time when the client had a slot, and its answer was delayed."""
        self.assertEqual(wrong(1040519, sim.options_of(1040519)), [])

    def test_a_log_in_that_is_held_for_less_is_found(self) -> None:
        remaining = HeldWork._remaining

        def less(held: HeldWork, problem: messages.MessageError, since: float) -> float:
            return remaining(held, problem, since) - 8

        options = sim.Options(faults=("restart", "abandon", "stall"), newer_faults=sim.NEWER_FAULTS)
        with mock.patch.object(HeldWork, "_remaining", less):
            found = sim.Simulation(6, options).run()
        self.assertEqual({wrong.kind for wrong in found}, {"closed-log-in"})

    def test_nothing_is_expected_behind_a_quit(self) -> None:
        """A client that had read slowly asked for more behind its QUIT."""
        self.assertEqual(wrong(400645, sim.options_of(400645)), [])

    def test_a_message_within_a_reply_is_no_part_of_it(self) -> None:
        """In RESP3 a subscriber gets EXEC's reply and its own message within, unlike in version
        0.1.
        """
        for seed in range(1, 5):
            self.assertEqual(wrong(seed, sim.Options(newer=("hear_itself",), faults=sim.FAULTS)), [])

    def test_a_client_that_left_while_it_was_blocked_takes_no_item(self) -> None:
        """Nor is anything behind its blocked command run, unlike in version 0.1."""
        for seeds, faults in (((1, 2, 3, 16, 54), ()), ((2, 4, 8), sim.FAULTS)):
            for seed in seeds:
                options = sim.Options(newer=("leave_blocked",), limits=sim.ALL_LIMITS, faults=faults)
                self.assertEqual(wrong(seed, options), [])

    def test_scripts_run_in_the_order_of_their_pipeline(self) -> None:
        """They go over another connection than the commands around them."""
        for seed, faults in ((2, ()), (4, ()), (6, ()), (3, sim.FAULTS), (5, sim.FAULTS)):
            options = sim.Options(newer=("scripts",) * 20, limits=sim.ALL_LIMITS, faults=faults)
            self.assertEqual(wrong(seed, options), [])

    def test_slow_scripts_and_large_replies_of_scripts(self) -> None:
        """Some take so long that Redis answers BUSY. Nothing is left behind, not even a byte in the
        tenants' accounts.
        """
        newer = (*sim.SCRIPTS, "scripts") * 3
        for seed, faults, memory in (
            *((2, (), None), (4, (), None), (6, (), 400_000), (8, (), 400_000)),
            *((3, sim.FAULTS, None), (98, sim.FAULTS, None), (5, sim.FAULTS, 400_000)),
        ):
            options = sim.Options(newer=newer, limits=sim.ALL_LIMITS, faults=faults, memory=memory)
            self.assertEqual(wrong(seed, options), [])

    def test_the_control_holds_with_slow_scripts(self) -> None:
        for seed in range(1, 6):
            self.assertEqual(wrong(seed, sim.Options(straight=True, newer=(*sim.SCRIPTS, "scripts"))), [])

    def test_the_control_holds_with_what_reaches_rare_branches(self) -> None:
        for seed in range(1, 11):
            options = sim.Options(straight=True, newer=(*sim.NEWER, *sim.RARE))
            self.assertEqual(wrong(seed, options), [])

    def test_a_client_that_leaves_fails_nobody_elses_command(self) -> None:
        """If a client leaves, no other gets `Redis cannot be reached`, unlike in version 0.1."""
        options = sim.Options(newer=("leave_blocked", "write_first", "read_slowly"))
        kinds = {wrong.kind for wrong in sim.Simulation(24, options).run()}
        self.assertNotIn("away", kinds)

    def test_a_session_whose_database_is_anothers_gets_none_of_its_items(self) -> None:
        """A session whose database has another owner gets none of the new owner's items, unlike in
        version 0.1.
        """
        for seed in (29, 61, 114):
            self.assertEqual(wrong(seed, sim.Options(faults=sim.FAULTS)), [])

    def test_no_command_of_a_pipeline_overtakes_another(self) -> None:
        """Commands of a pipeline keep their order, even behind many answers of the proxy itself."""
        for seed in (1, 7, 22):
            self.assertEqual(wrong(seed, sim.Options(faults=sim.FAULTS)), [])

    def test_a_client_that_writes_before_it_reads_is_not_stopped(self) -> None:
        """Nor is one that reads slowly closed, unlike in version 0.1."""
        for seed in (1, 2, 4, 24, 54):
            options = sim.Options(newer=("write_first", "read_slowly"), limits=sim.ALL_LIMITS)
            self.assertEqual(wrong(seed, options), [])

    def test_a_client_that_writes_first_goes_on_without_a_connection_of_its_own(self) -> None:
        """A script takes long, so that Redis prepares none."""
        newer = ("write_first", "slow_scripts") * 3
        reached: set[str] = set()
        for seed in (1, 15, 27, 30, 31):
            simulation = sim.Simulation(seed, sim.Options(newer=newer, newer_faults=("keep_busy",), limits=sim.ALL_LIMITS))
            self.assertEqual(simulation.run(), [])
            reached |= simulation.reached
        self.assertIn("no connection for a client that does not read", reached)

    def test_a_client_that_writes_first_is_closed_when_the_hold_is_over(self) -> None:
        """Redis has too many clients, for longer than what was not sent is held."""
        for seed in (13, 16, 25):
            options = sim.Options(newer=("write_first",) * 4, newer_faults=("fill_for_long",), limits=sim.ALL_LIMITS)
            self.assertEqual(wrong(seed, options), [])

    def test_a_client_that_reads_slowly_is_not_closed_while_redis_restarts(self) -> None:
        """Its own connection to Redis is lost, on which it has nothing."""
        self.assertEqual(wrong(223, sim.Options(newer=sim.NEWER, faults=sim.FAULTS + sim.NEWER_FAULTS)), [])

    def test_a_client_that_half_closes_is_answered_after_a_slow_script(self) -> None:
        """Redis is not away, though it lets the client's connection wait for more than a second."""
        self.assertEqual(wrong(291, sim.options_of(291)), [])

    def test_what_was_held_when_the_client_sent_its_end_of_file_is_not_run(self) -> None:
        """Redis had too many clients. The client was closed without its replies, as it should."""
        self.assertEqual(wrong(1020143, sim.options_of(1020143)), [])

    def test_replies_that_are_lost_behind_an_end_of_file_are_found(self) -> None:
        """Though Redis has too many clients: nothing above forgives that of what has run."""
        simulation = sim.Simulation(5, sim.Options(limits=(), newer=("half_close",) * 9, newer_faults=("fill",) * 4))
        half_closed = Ending.half_closed

        def lose(ending: Ending) -> None:
            session = ending._session
            if simulation.redis.full and session.replies.pending:
                ending.at_once()
                session.connection.close(messages.CLIENT_LEFT.code)
            else:
                half_closed(ending)

        with mock.patch.object(Ending, "half_closed", lose):
            self.assertIn("closed", {wrong.kind for wrong in simulation.run()})

    def test_a_large_command_waits_long_after_redis_was_replaced(self) -> None:
        """An attempt to connect to the former address took its whole time."""
        self.assertEqual(wrong(2060269, sim.options_of(2060269)), [])

    def test_a_command_that_is_told_without_reason_that_redis_was_replaced_is_found(self) -> None:
        """Though Redis was replaced, before the client sent the command."""

        def refuse(session: Session, *_: object) -> None:
            session.refuse_waiting(messages.REPLACED.text)

        options = sim.Options(newer=("large",) * 9, newer_faults=("fail_over", "replace_while_waiting"))
        with mock.patch.object(commands, "_begin_stream", refuse):
            found = sim.Simulation(4, options).run()
        self.assertEqual({wrong.kind for wrong in found}, {"replaced"})

    def test_an_attempt_to_connect_has_an_end_where_nothing_answers(self) -> None:
        """An attempt in a restart behind a failover never ended, and no INFO was answered any more.
        When another one ended, Redis had been back for three seconds.
        """
        self.assertEqual(wrong(3000379, sim.options_of(3000379)), [])
        for seed in (105, 174, 207):
            options = sim.Options(newer=("info",) * 20, faults=("restart",) * 4, newer_faults=("fail_over",))
            self.assertEqual(wrong(seed, options), [])

    def test_a_wait_beside_a_flood_is_one_number(self) -> None:
        alone, beside = floods.slowest_ping(), floods.beside("unknown")()
        self.assertLess(alone, 0.001)
        self.assertGreater(beside, alone)
        self.assertEqual(beside, floods.beside("unknown")())

    def test_no_flood_makes_another_tenant_wait(self) -> None:
        """Without a share for each tenant, the proxy handled thousands of commands in one turn."""
        for name in floods.FLOODS:
            with self.subTest(name):
                self.assertLess(floods.beside(name)(), 0.015)

    def test_each_attack_on_the_proxys_time_is_a_flood(self) -> None:
        self.assertLessEqual(WORK.keys(), floods.FLOODS.keys() | floods.ELSEWHERE.keys())
        for name in floods.ELSEWHERE.values():
            self.assertTrue(unittest.defaultTestLoader.loadTestsFromName(name).countTestCases())

    def test_what_no_simulation_reaches_is_reached_by_a_test(self) -> None:
        for branch, (_, name) in OUTSIDE.items():
            reached: set[str] = set()
            with mock.patch.object(redisproxy.probes, "reached", reached.add):
                result = unittest.TestResult()
                unittest.defaultTestLoader.loadTestsFromName(name).run(result)
            self.assertTrue(result.wasSuccessful(), name)
            self.assertEqual((result.testsRun, branch in reached, branch in probes()), (1, True, True))

    def test_a_client_that_leaves_before_the_reply_to_its_hello_harms_no_other(self) -> None:
        before = tuple(name for name in sim.RARE if name != "list_clients")
        options = sim.Options(
            limits=sim.ALL_LIMITS,
            newer=sim.NEWER + before,
            faults=sim.FAULTS,
            newer_faults=sim.NEWER_FAULTS + sim.RARE_FAULTS,
            memory=sim.options_of(41065).memory,
        )
        self.assertEqual(wrong(41065, options), [])

    def test_nothing_is_wrong_in_rare_branches(self) -> None:
        """Each fault and each kind of client that is there to reach them."""
        for seed in (5, 25, 129, 142):
            options = sim.Options(
                limits=sim.ALL_LIMITS, newer=(*sim.NEWER, *sim.RARE), faults=sim.FAULTS, newer_faults=sim.RARE_FAULTS
            )
            self.assertEqual(wrong(seed, options), [])

    def test_plain_commands_become_slow_ones_and_quick_again(self) -> None:
        """While clients are in the middle of pipelines, large commands and transactions."""
        reached: set[str] = set()
        for seed in (16, 26, 31, 34):
            limits = ("CONFIRMED_SECONDS", "LATE_SECONDS", "WINDOW_MOST")
            options = sim.Options(newer=sim.NEWER, newer_faults=sim.SLOW_LOG_FAULTS, limits=limits)
            simulation = sim.Simulation(seed, options)
            self.assertEqual(simulation.run(), [])
            reached |= simulation.reached
        for branch in (
            "slow command is confirmed by Redis's log",
            "slow command counts as quick again",
            "command waits for a place in its tenant's window",
            "end of a large command waits for a place in its tenant's window",
        ):
            self.assertIn(branch, reached)

    def test_commands_that_wait_for_the_window_keep_their_order(self) -> None:
        """Behind a run that was divided, clients got the replies of others, or none."""
        reached: set[str] = set()
        for seed in (3, 10, 13, 14):
            simulation = sim.Simulation(seed, self.WINDOWS)
            self.assertEqual(simulation.run(), [])
            reached |= simulation.reached
        self.assertIn("run of commands is divided, because its tenant's window became smaller", reached)

    def test_redis_is_replaced_or_a_tenant_paused_while_commands_wait_for_the_window(self) -> None:
        reached: set[str] = set()
        for seed in (10, 27):
            simulation = sim.Simulation(seed, self.WINDOWS)
            self.assertEqual(simulation.run(), [])
            reached |= simulation.reached
        self.assertIn("Redis was replaced while commands waited for the window", reached)
        self.assertIn("commands of the window are not sent: their connection was left long ago", reached)

    WINDOWS = sim.Options(newer=sim.WINDOWS * 3, newer_faults=sim.WINDOW_FAULTS, limits=sim.ALL_LIMITS)

    def test_the_control_holds_with_windows(self) -> None:
        for seed in range(1, 11):
            self.assertEqual(wrong(seed, sim.Options(straight=True, newer=(*sim.RARE, *sim.WINDOWS))), [])

    def test_rare_branches_have_names_of_their_own(self) -> None:
        simulation = sim.Simulation(7, sim.Options(newer=sim.NEWER, faults=sim.FAULTS))
        simulation.run()
        self.assertTrue(simulation.reached)
        self.assertLessEqual(simulation.reached, probes())
