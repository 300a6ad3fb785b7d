"""Runs simulations: ``python -m tests.sim --seeds 1:1000``. Says which seeds found what, and ends with 1 if any did."""

from __future__ import annotations

import argparse
import sys
import time
from itertools import count

from . import simulation as sim


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim")
    parser.add_argument("--seeds", default="1:", help="FIRST:END, or FIRST: without an end (default: %(default)s)")
    parser.add_argument("--seconds", type=float, help="end after so many seconds of processor time")
    parser.add_argument("--straight", action="store_true", help="without the proxy: the control")
    parser.add_argument("--hard", default="", help=f"comma-separated: {', '.join(sim.HARD)}; all")
    parser.add_argument("--faults", default="", help=f"comma-separated: {', '.join(sim.FAULTS)}; all")
    parser.add_argument("--clients", type=int)
    parser.add_argument("--usual-limits", action="store_true", help="do not make limits tiny")
    parser.add_argument("--verbose", action="store_true", help="a line for each seed, and all that was wrong with it")
    given = parser.parse_args()
    first, _, end = given.seeds.partition(":")
    seeds = range(int(first), int(end)) if end else count(int(first))
    options = sim.Options(
        straight=given.straight,
        limits=not given.usual_limits,
        hard=sim.HARD if given.hard == "all" else tuple(filter(None, given.hard.split(","))),
        faults=sim.FAULTS if given.faults == "all" else tuple(filter(None, given.faults.split(","))),
        clients=given.clients,
    )
    began = time.process_time()
    kinds: dict[str, list[int]] = {}
    examples: dict[str, str] = {}
    runs = 0
    for seed in seeds:
        if given.seconds and time.process_time() - began > given.seconds:
            break
        simulation = sim.Simulation(seed, options)
        found = simulation.run()
        runs += 1
        if given.verbose:
            print(
                f"seed {seed}: {len(found)} wrong, t={simulation.world.now - 1000:.1f}, tiny: {simulation.tiny}", flush=True
            )
            for wrong in found:
                print(f"  {wrong.kind}: {wrong.text}")
        for wrong in found:
            kinds.setdefault(wrong.kind, [])
            if seed not in kinds[wrong.kind]:
                kinds[wrong.kind].append(seed)
            examples.setdefault(wrong.kind, f"seed {seed}: {wrong.text}")
    took = time.process_time() - began
    print(f"{runs} seeds, {took:.1f} s of processor time ({took / max(runs, 1):.2f} s each)")
    for kind, where in sorted(kinds.items()):
        print(f"{kind}: {len(where)} seeds ({', '.join(map(str, where[:10]))}); {examples[kind]}")
    return 1 if kinds else 0


if __name__ == "__main__":
    sys.exit(main())
