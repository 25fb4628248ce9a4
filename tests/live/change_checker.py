"""Processes write behind, drain and read while everything around them changes; all must balance.

``python -m tests.live.change_checker --faults 200`` (``make soak``) does to a running site what
operators and accidents do: it migrates columns, deploys two versions of the code side by side,
replaces queue nodes, changes the number of partitions, restores older files, fills memory, shifts
clocks, and kills, freezes and locks what it can. Every few faults it suspends the processes, drains,
and compares the table with what was acknowledged. Nothing may be lost, doubled or out of order, except
exactly what the guarantees say of a queue node that comes back with less.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from typing import Any

from cacheproject.services import Services
from tests.live.changing_faults import FAULTS
from tests.live.changing_site import KINDS, Site
from tests.live.spawning import set_up

#: Faults between two comparisons; seconds of traffic after each fault, and the additions that they must have.
FAULTS_BETWEEN, TRAFFIC_SECONDS, ADDITIONS = 4, 1.0, 100


def check(site: Site, faults: int, seed: int, only: str = "") -> dict[str, Any]:
    """Inject faults, each kind in turn in a random order; return the result."""
    generator = random.Random(seed)
    random.seed(seed)
    injected: Counter[str] = Counter()
    chosen = [fault for fault in FAULTS if not only or fault.__name__ in only.split(",")]
    turns: list[Any] = []
    try:
        while injected.total() < faults:
            if not turns:
                turns = generator.sample(chosen, len(chosen))
            fault = turns.pop()
            started = time.monotonic()
            known = len(site.wrong)
            fault(site)
            injected[fault.__name__] += 1
            site.run_on(TRAFFIC_SECONDS, ADDITIONS)
            if injected.total() % FAULTS_BETWEEN == 0 or injected.total() == faults:
                site.weigh()
            seconds = time.monotonic() - started
            print(f"{injected.total()} {fault.__name__} {seconds:.1f} s {site.wrong[known:][:3]}", flush=True)
    finally:
        site.end()
    kills = dict.fromkeys(KINDS, 0)
    for actor, (kind, _) in enumerate(site.processes):
        kills[kind] += site.meters.kills[actor]
    return {
        "seed": seed,
        "faults": injected.total(),
        "injected": dict(injected),
        "kills": kills,
        "acknowledged": site.meters.total,
        "reads": sum(site.meters.reads),
        "wrong_reads": sum(site.meters.wrong_reads),
        "wrong": site.wrong,
    }


def main() -> None:
    """Run the check and print its result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=60, help="faults to inject (default: 60)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6, help="chooses the faults")
    parser.add_argument("--only", default="", help="only these faults, with commas")
    parser.add_argument("--durability", choices=("everysec", "fsync"), default="fsync")
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--drainers", type=int, default=2)
    parser.add_argument("--readers", type=int, default=1)
    options = parser.parse_args()
    counts = {"writer": options.writers, "drainer": options.drainers, "reader": options.readers}
    appendfsync = "always" if options.durability == "fsync" else "everysec"
    with Services(ring=1, queue=1, appendfsync=appendfsync) as services:
        set_up(services)
        site = Site(services, counts, options.durability)
        result = check(site, options.faults, options.seed, options.only)
    print(json.dumps(result))
    sys.exit(bool(result["wrong"] or result["wrong_reads"]))


if __name__ == "__main__":
    main()
