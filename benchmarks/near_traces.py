"""Hit ratios of the near cache's policies on the ARC paper's OLTP trace, compared with published ones.

``python -m benchmarks.near_traces TRACE`` prints a table and exits with 1 if a policy is outside its
tolerance. Source: Megiddo and Modha, "ARC", FAST '03, table IV; S3-FIFO by libcachesim.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cachebackend.management.traces import read_trace
from cachebackend.policies import POLICIES, hit_ratio

SIZES = (1000, 2000, 5000, 10000, 15000)
PUBLISHED = {
    "lru": (32.83, 42.47, 53.65, 60.70, 64.63),
    "s3fifo": (40.86, 47.03, 55.75, 62.69, 65.98),
}
#: How far a policy's hit ratio may be from the published one, in percent of all requests.
TOLERANCE = {"lru": 0.01, "s3fifo": 0.5}


def main() -> None:
    """Print the table."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.near_traces TRACE")
    keys = list(read_trace(Path(sys.argv[1])).blocks)
    missed = False
    for policy, published in PUBLISHED.items():
        found = [100 * hit_ratio(POLICIES[policy](size), keys) for size in SIZES]
        bad = [abs(a - b) > TOLERANCE[policy] for a, b in zip(found, published, strict=True)]
        missed |= any(bad)
        print(f"{policy:8} " + " ".join(f"{value:6.2f}" for value in found))
        print(f"{'expected':8} " + " ".join(f"{value:6.2f}" for value in published))
    sys.exit(missed)


if __name__ == "__main__":
    main()
