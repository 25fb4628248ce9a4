"""The cost of a dead node, with a gutter and without, and the hit ratio of a ring that grows.

``python -m benchmarks.outage`` prints a table; ``--json`` one object. Exits with 1 if a read
failed, if the 99th percentile of reads became more than twice as slow after the node was
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
#: Seconds within which a dead node must be ejected.
EJECTING_SECONDS = 1.0
#: How many times slower the 99th percentile may become; how far the hit ratio may fall beyond the node's
#: share.
MAX_SLOWER, SLACK = 2.0, 0.05
NODE = "ring-b"


@dataclass
class Phase:
    """The reads of one phase.

    Attributes:
        seconds: The seconds of each read.
        loads: Reads that missed, and loaded from the source.
        errors: Reads that raised.
    """

    seconds: list[float] = field(default_factory=list)
    loads: int = 0
    errors: int = 0

    def summary(self) -> dict[str, float]:
        """Return reads, hit ratio, errors, and milliseconds of the median and the 99th percentile."""
        cuts = statistics.quantiles(self.seconds, n=100)
        return {
            "reads": len(self.seconds),
            "hit_ratio": round(1 - self.loads / len(self.seconds), 4),
            "errors": self.errors,
            "p50_ms": round(cuts[49] * 1e3, 3),
            "p99_ms": round(cuts[98] * 1e3, 3),
        }


def reads(cache: Any, seconds: float) -> Phase:
    """Read keys for ``seconds`` from several threads, some keys much more often than others."""
    phase, lock = Phase(), threading.Lock()
    end = time.monotonic() + seconds

    def run(number: int) -> None:
        generator, own = random.Random(number ^ time.time_ns()), Phase()

        def load() -> str:
            own.loads += 1
            return "value"

        while time.monotonic() < end:
            key = f"k{int(KEYS * generator.random() ** 2)}"
            started = time.perf_counter()
            try:
                cache.get_or_set(key, load, 300)
            except Exception:  # noqa: BLE001  # the log has the error
                own.errors += 1
            own.seconds.append(time.perf_counter() - started)
        with lock:
            phase.seconds += own.seconds
            phase.loads += own.loads
            phase.errors += own.errors

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return phase


def ring_cache(urls: list[str], **options: Any) -> Any:
    """Return a cache over some nodes."""
    from cachebackend import RingCache

    return RingCache(urls, {"KEY_PREFIX": "outage", "OPTIONS": options})


def outage(services: Services, gutter: list[str]) -> dict[str, dict[str, float]]:
    """Kill a node under load and bring it back; return the summary of each phase."""
    cache = ring_cache(services.ring_urls[:3], gutter=gutter)
    for node in cache.client.nodes:
        node.call((b"FLUSHALL",))
    reads(cache, PHASE_SECONDS / 2)
    phases = {"before": reads(cache, PHASE_SECONDS)}
    services.kill(NODE)
    phases["first second"] = reads(cache, EJECTING_SECONDS)
    phases["away"] = reads(cache, PHASE_SECONDS)
    services.restart(NODE)
    reads(cache, PHASE_SECONDS)  # until the node is probed and filled again
    phases["back"] = reads(cache, PHASE_SECONDS)
    return {name: phase.summary() for name, phase in phases.items()}


def growth(four: list[str]) -> dict[str, float]:
    """Grow a ring from three nodes to four, warm and at once; return the moved share and the hit ratios."""
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


def missed(results: dict[str, dict[str, float]], share: float) -> list[str]:
    """Return descriptions of the results outside the limits."""
    found = [f"{name}: {each['errors']} reads failed" for name, each in results.items() if each["errors"]]
    slower = results["away"]["p99_ms"] / results["before"]["p99_ms"]
    if slower > MAX_SLOWER:
        found.append(f"the 99th percentile became {slower:.1f} times as slow with the node ejected")
    if results["away"]["hit_ratio"] < results["before"]["hit_ratio"] - share - SLACK:
        found.append(
            f"the hit ratio fell to {results['away']['hit_ratio']:.2f}, by more than the node's share"
        )
    if results["back"]["hit_ratio"] < results["before"]["hit_ratio"] - SLACK:
        found.append(
            f"the hit ratio is {results['back']['hit_ratio']:.2f} with the node back: it is not used again"
        )
    return found


def main() -> None:
    """Measure, print, and exit with 0 if all results are within the limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    # With a database: without it the missed deletes cannot be replayed, and the node is not used again
    with Services(ring=5, queue=0) as services:
        set_up(services)
        from django.core.management import call_command

        call_command("migrate", verbosity=0, interactive=False)
        *nodes, spare = services.ring_urls
        shares = ring_cache(nodes[:3]).client.ring.shares()
        share = shares[1] / sum(shares)
        results: dict[str, Any] = {"share": round(share, 4)}
        for name, gutter in (("without a gutter", []), ("with a gutter", [spare])):
            results[name] = outage(services, gutter)
        results["growth"] = growth(nodes)
    faults = [f for name in ("without a gutter", "with a gutter") for f in missed(results[name], share)]
    if options.json:
        print(json.dumps(results | {"missed": faults}))
    else:
        print(f"{NODE} has {share:.1%} of the keys")
        for name in ("without a gutter", "with a gutter"):
            for phase, counts in results[name].items():
                print(f"{name:18} {phase:14} " + "  ".join(f"{n} {v}" for n, v in counts.items()))
        print(f"three nodes to four: {results['growth']}")
        for fault in faults:
            print(f"missed: {fault}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
