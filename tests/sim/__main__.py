"""Runs simulations: ``python -m tests.sim``. Reports what was wrong with which seeds, and ends with
status 1 if anything was.

With ``--waits`` it reports how long a PING takes while another tenant floods the proxy.
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
import time
from itertools import count
from pathlib import Path

from twisted.logger import globalLogBeginner

from benchmarks.attacks import ROWS

from . import floods
from . import simulation as sim

ROOT = Path(__file__).parents[2]
#: Rare branches that no simulation reaches. By name: why, and the test that reaches it instead.
OUTSIDE = {
    "a command goes on in another turn": (
        "no client of the simulation subscribes to patterns that match key events in several ways",
        "tests.session.test_key_events.HeardTests.test_many_of_them_are_found_in_several_turns",
    ),
    "a tenant would have too many patterns": (
        "no client of the simulation subscribes to patterns",
        "tests.upstream.test_patterns.CountTests.test_the_limit_is_for_all_processes_together",
    ),
    "markers are set again over another connection": (
        "no client of the simulation subscribes to patterns",
        "tests.upstream.test_markers.MarkersTests.test_after_a_loss_all_are_set_again",
    ),
    "patterns are to be granted while others are removed": (
        "no client of the simulation subscribes to patterns",
        "tests.upstream.test_patterns.RaceTests.test_in_any_order_of_their_commands_the_pattern_is_granted_at_the_end",
    ),
    "patterns that nobody uses are removed": (
        "no client of the simulation subscribes to patterns",
        "tests.upstream.test_patterns.CleanerTests.test_an_unused_pattern_is_removed_after_two_looks",
    ),
    "unused patterns cannot be looked for now": (
        "no client of the simulation subscribes to patterns",
        "tests.upstream.test_patterns.CleanerTests.test_a_look_that_fails_is_made_again",
    ),
    "client's end of file waits for its turn": (
        "no tenant of the simulation ends so many connections at once",
        "tests.clients.test_work.PlainTests.test_ends_of_many_have_turns",
    ),
    "page of a list is too large, and is read in smaller ones": (
        "the API of Kubernetes is not simulated",
        "tests.sources.test_large_secrets.SizeTests.test_a_page_that_is_too_large_is_read_in_smaller_ones",
    ),
    "connection that makes room is cut off": (
        "the simulation has room for the log-ins of all its clients",
        "tests.clients.test_admission.AdmissionTests.test_those_that_had_to_go_and_do_not_are_cut_off",
    ),
    "connection without a log-in makes room for a newer one": (
        "the simulation has room for the log-ins of all its clients",
        "tests.clients.test_connection.FactoryTests.test_one_without_a_password_makes_room_for_a_newer_one",
    ),
    "TLS handshake waits for its turn": (
        "the simulation has no TLS",
        "tests.listen.test_handshakes.TurnTests.test_so_many_are_made_in_one_turn",
    ),
    "many small records of TLS are work": (
        "the simulation has no TLS",
        "tests.listen.test_handshakes.RecordTests.test_many_small_records_are_work",
    ),
    "multiplexed connection opened after it was given up": (
        "work that the end of an attempt lets go on has to fail in the same call, and connecting does not",
        "tests.upstream.test_multiplexed.OpeningTests"
        ".test_one_that_is_opened_when_its_attempt_has_just_been_given_up_is_dropped",
    ),
    "it is not known whose script was ended": (
        "the simulated Redis ends no scripts",
        "tests.upstream.test_script_watch.ScriptWatchTests.test_if_it_is_not_known_whose_it_was_nobody_is_refused_scripts",
    ),
    "open transactions of a tenant reach their limit": (
        "no client of the simulation sends 64 MiB",
        "tests.session.test_costs.TransactionTests.test_up_to_the_limit_it_is_sent_and_not_beyond",
    ),
}


def probes() -> set[str]:
    """Returns the names of all rare branches in the product."""
    found = set()
    for path in (ROOT / "redisproxy").rglob("*.py"):
        if path.name != "probes.py":
            found |= set(re.findall(r'probes\.reached\("([^"]+)"\)', path.read_text()))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", default="1:", help="FIRST:END, or FIRST: without an end (default: %(default)s)")
    parser.add_argument("--seconds", type=float, help="end after so many seconds of processor time")
    parser.add_argument("--straight", action="store_true", help="all without the proxy: the control")
    parser.add_argument("--faults", help=f"with all seeds, and only these: {', '.join(sim.FAULTS)}; all; none")
    parser.add_argument("--waits", action="store_true", help="how long a PING takes beside a flood")
    parser.add_argument("--verbose", action="store_true", help="a line for each seed, and all that was wrong with it")
    given = parser.parse_args()
    if given.waits:
        for name in floods.FLOODS:
            slowest = floods.beside(name)()
            print(f"beside {ROWS[name].title}: the slowest PING takes {1000 * slowest:.3f} ms", flush=True)
        return 0
    return run(given)


def choose(text: str, all_of_them: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names in a comma-separated option. Ends the program for an unknown one."""
    if text in ("all", "none"):
        return all_of_them if text == "all" else ()
    names = tuple(text.split(","))
    unknown = set(names) - set(all_of_them)
    if unknown:
        sys.exit(f"{', '.join(sorted(unknown))}: there are {', '.join(all_of_them)}; all")
    return names


def options(seed: int, given: argparse.Namespace) -> sim.Options:
    """Returns the options for a seed."""
    if given.straight or given.faults is not None:
        return sim.Options(
            straight=given.straight,
            limits=sim.ALL_LIMITS,
            newer=sim.NEWER,
            faults=choose(given.faults or "none", sim.FAULTS),
        )
    return sim.options_of(seed)


def run(given: argparse.Namespace) -> int:
    """Runs the seeds and reports what they found."""
    # Without this, Twisted would keep all log events and everything in them.
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False)
    first, _, end = given.seeds.partition(":")
    began = time.process_time()
    kinds: dict[str, dict[int, str]] = {}
    reached: set[str] = set()
    runs = 0
    for seed in range(int(first), int(end)) if end else count(int(first)):
        if given.seconds and time.process_time() - began > given.seconds:
            break
        try:
            simulation = sim.Simulation(seed, options(seed, given))
            found = simulation.run()
        except KeyboardInterrupt:
            break  # reports what is known
        except Exception:
            print(f"seed {seed}:", flush=True)
            raise
        runs += 1
        if runs % 20 == 0:
            gc.collect()  # the objects of a simulation refer to each other in circles
        reached |= simulation.reached
        for wrong in found:
            kinds.setdefault(wrong.kind, {}).setdefault(seed, wrong.text)
        if given.verbose or (found and not end and not given.seconds):
            print(f"seed {seed}: {len(found)} wrong; extreme: {', '.join(simulation.extreme) or 'no limit'}", flush=True)
            for wrong in found:
                print(f"  {wrong.kind}: {wrong.text}", flush=True)
    took = time.process_time() - began
    print(f"{runs} seeds, {took:.1f} s of processor time: {took / max(runs, 1):.2f} s each")
    for kind, seeds in sorted(kinds.items()):
        seed, text = next(iter(seeds.items()))
        print(f"{kind}: {len(seeds)} seeds ({', '.join(map(str, list(seeds)[:10]))}); seed {seed}: {text}")
    never = probes() - reached - OUTSIDE.keys()
    print(
        f"rare branches: {len(reached)} reached, {len(OUTSIDE.keys() - reached)} outside, "
        f"{len(never)} never{''.join(sorted(f'{chr(10)}  {name}' for name in never))}"
    )
    return 1 if kinds else 0


if __name__ == "__main__":
    sys.exit(main())
