"""What a dead node costs, with a gutter and without, and what a ring that grows keeps of its hits.

``python -m benchmarks.outage`` prints a table; ``--json`` one object. Exits with 1 if a read
failed, if the slowest of a hundred reads became more than twice as slow once the node was
ejected, or if the hit ratio fell by more than the node's share.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.herd import set_up
from cacheproject.services import Services

KEYS, THREADS, PHASE_SECONDS = 3000, 4, 4.0
#: A node that is ejected may have cost that much by then.
EJECTING_SECONDS = 1.0
#: What the slowest of a hundred reads may become; and how far the hit ratio may fall below the node's share.
MOST_SLOWER, SLACK = 2.0, 0.05
NODE = "ring-b"


@dataclass
class Phase:
    """What came of some seconds of reads.

    Attributes:
        seconds: What each read took.
        loads: Reads that found nothing, and asked the source.
        errors: Reads that raised.
    """

    seconds: list[float] = field(default_factory=list)
    loads: int = 0
    errors: int = 0

    def told(self) -> dict[str, float]:
        """Return reads, hit ratio, errors, and milliseconds of the median and of the slowest 1 %."""
        cuts = statistics.quantiles(self.seconds, n=100)
        return {
            "reads": len(self.seconds),
            "hit_ratio": round(1 - self.loads / len(self.seconds), 4),
            "errors": self.errors,
            "p50_ms": round(cuts[49] * 1e3, 3),
            "p99_ms": round(cuts[98] * 1e3, 3),
        }


def reads(cache: Any, seconds: float) -> Phase:
    """Read keys for so long from several threads, some much more often than others."""
    phase, lock = Phase(), threading.Lock()
    end = time.monotonic() + seconds

    def run(number: int) -> None:
        chance, mine = random.Random(number ^ time.time_ns()), Phase()

        def load() -> str:
            mine.loads += 1
            return "value"

        while time.monotonic() < end:
            key = f"k{int(KEYS * chance.random() ** 2)}"
            begun = time.perf_counter()
            try:
                cache.get_or_set(key, load, 300)
            except Exception:  # noqa: BLE001  # what it was is told by the log
                mine.errors += 1
            mine.seconds.append(time.perf_counter() - begun)
        with lock:
            phase.seconds += mine.seconds
            phase.loads += mine.loads
            phase.errors += mine.errors

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return phase


def ring_cache(urls: list[str], **options: Any) -> Any:
    """Return a cache over these nodes."""
    from cachebackend import RingCache

    return RingCache(urls, {"KEY_PREFIX": "outage", "OPTIONS": options})


def outage(services: Services, gutter: list[str]) -> dict[str, dict[str, float]]:
    """Kill a node under load and bring it back; return the figures of each phase."""
    cache = ring_cache(services.ring_urls[:3], gutter=gutter)
    for node in cache.client.nodes:
        node.call((b"FLUSHALL",))
    reads(cache, PHASE_SECONDS / 2)
    phases = {"before": reads(cache, PHASE_SECONDS)}
    services.kill(NODE)
    phases["first second"] = reads(cache, EJECTING_SECONDS)
    phases["away"] = reads(cache, PHASE_SECONDS)
    services.restart(NODE)
    reads(cache, PHASE_SECONDS)  # until it is probed, and filled again
    phases["back"] = reads(cache, PHASE_SECONDS)
    return {name: phase.told() for name, phase in phases.items()}


def growth(four: list[str]) -> dict[str, float]:
    """Grow three nodes to four, warm and at once; return what moved, and the hit ratio of each key once."""
    three = four[:3]
    before = ring_cache(three)

    def hit_ratio(cache: Any) -> float:
        loads: list[int] = []
        for number in range(KEYS):
            cache.get_or_set(f"k{number}", lambda: loads.append(1) or "value", 300)
        return round(1 - len(loads) / KEYS, 4)

    found: dict[str, float] = {}
    for name, options in (("warm", {"leaving": three}), ("at_once", {})):
        cache = ring_cache(four, **options)
        for node in cache.client.nodes:
            node.call((b"FLUSHALL",))
        hit_ratio(before)
        found[f"hit_ratio_{name}"] = hit_ratio(cache)
        found["moved"] = round(cache.client.ring.moved(before.client.ring) / 65_536, 4)
    return found


def missed(told: dict[str, dict[str, float]], share: float) -> list[str]:
    """Return what is not as it should be."""
    found = [f"{name}: {each['errors']} reads failed" for name, each in told.items() if each["errors"]]
    slower = told["away"]["p99_ms"] / told["before"]["p99_ms"]
    if slower > MOST_SLOWER:
        found.append(f"the slowest of a hundred reads took {slower:.1f} times as long with the node ejected")
    if told["away"]["hit_ratio"] < told["before"]["hit_ratio"] - share - SLACK:
        found.append(f"the hit ratio fell to {told['away']['hit_ratio']:.2f}, by more than the node's share")
    if told["back"]["hit_ratio"] < told["before"]["hit_ratio"] - SLACK:
        found.append(
            f"the hit ratio is {told['back']['hit_ratio']:.2f} with the node back: it was not let in"
        )
    return found


def main() -> None:
    """Measure, print, and exit with 0 if all is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    # With the database: without it a node is not let in again, for it could not be told what it missed
    with Services(ring=5, queue=0) as services:
        set_up(services)
        from django.core.management import call_command

        call_command("migrate", verbosity=0, interactive=False)
        *nodes, spare = services.ring_urls
        shares = ring_cache(nodes[:3]).client.ring.shares()
        share = shares[1] / sum(shares)
        told: dict[str, Any] = {"share": round(share, 4)}
        for name, gutter in (("without a gutter", []), ("with a gutter", [spare])):
            told[name] = outage(services, gutter)
        told["growth"] = growth(nodes)
    faults = [f for name in ("without a gutter", "with a gutter") for f in missed(told[name], share)]
    if options.json:
        print(json.dumps(told | {"missed": faults}))
    else:
        print(f"{NODE} has {share:.1%} of the keys")
        for name in ("without a gutter", "with a gutter"):
            for phase, figures in told[name].items():
                print(f"{name:18} {phase:14} " + "  ".join(f"{n} {v}" for n, v in figures.items()))
        print(f"three nodes to four: {told['growth']}")
        for fault in faults:
            print(f"missed: {fault}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
