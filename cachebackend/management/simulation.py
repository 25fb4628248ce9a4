"""Simulates caches of several sizes and policies on a trace, and says which size is enough."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any, ClassVar

from xxhash import xxh3_64_intdigest

from cachebackend.management.traces import Trace
from cachebackend.policies import POLICIES, SimulatedPolicy, hit_ratio
from cachebackend.policies.sampled import SampledLFU, SampledLRU

__all__ = ["SIMULATED", "advice", "curves", "default_sizes", "miss_ratio_chart", "sampled"]

#: The policies that are compared, without those that need another package: the near cache's and the nodes'.
SIMULATED: list[type[SimulatedPolicy[Any, bool]]] = [*POLICIES.values(), SampledLRU, SampledLFU]
#: The default sizes, as shares of all keys.
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
#: Of a longer trace, only the requests of a sample of its keys are simulated.
MAX_REQUESTS = 200_000
#: The size and the margin of the chart, in units of its view box.
WIDTH, HEIGHT, MARGIN = 640, 360, 48
#: The width that the names of the policies take at the right.
LEGEND_WIDTH = 90
_COLOURS = ("#2563eb", "#dc2626", "#16a34a", "#9333ea", "#ea580c", "#0891b2", "#6b7280")


def default_sizes(trace: Trace) -> list[int]:
    """Return sizes from one percent of the keys to all of them."""
    distinct = len(set(trace.blocks))
    return sorted({max(1, round(distinct * share)) for share in SHARES})


def sampled(trace: Trace) -> tuple[Trace, float]:
    """Return the requests of a sample of the keys, if there are many, and the sample's share of the keys.

    A cache that is smaller by that share has the same hit ratio on the sample.

    Source: Waldspurger et al., "Efficient MRC Construction with SHARDS", FAST '15.
    """
    rate = min(1.0, MAX_REQUESTS / max(1, len(trace)))
    if rate == 1.0:
        return trace, rate
    limit = int(rate * 2**64)
    sample = {key for key in set(trace.blocks) if xxh3_64_intdigest(str(key).encode()) < limit}
    is_sampled = [key in sample for key in trace.blocks]
    blocks = array("L", compress(trace.blocks, is_sampled))
    return Trace(blocks, bytearray(compress(trace.writes, is_sampled))), rate


def curves(
    trace: Trace, sizes: Sequence[int], rate: float, say: Callable[[str], None]
) -> dict[str, list[float]]:
    """Return for each policy its hit ratio at each size.

    Args:
        trace: The requests. A write stores its key; only reads are hits or misses.
        sizes: The sizes, in entries of the whole trace.
        rate: The share of the keys that the trace is a sample of, 0 to 1.
        say: Called with a line about the next step.
    """
    policies = SIMULATED.copy()
    if _has_libcachesim():
        policies.append(_Arc)
    hit_ratios: dict[str, list[float]] = {}
    for policy in policies:
        say(f"{policy.title}: {len(sizes)} sizes, {len(trace):,} requests each")
        hit_ratios[policy.title] = [
            hit_ratio(policy(max(1, round(size * rate))), trace.blocks, trace.writes) for size in sizes
        ]
    return hit_ratios


class _Arc:
    """ARC of libcachesim, with the interface of our policies."""

    title: ClassVar[str] = "ARC"

    def __init__(self, capacity: int) -> None:
        import libcachesim  # type: ignore[import-untyped]

        self._cache, self._request = libcachesim.ARC(cache_size=capacity), libcachesim.Request()
        self._request.obj_size = 1

    def get(self, key: int) -> bool | None:
        self._request.obj_id = key
        return True if self._cache.get(self._request) else None

    def put(self, key: int, entry: bool) -> None:
        self._request.obj_id = key
        if self._cache.find(self._request, update_cache=False) is None:  # a get stores what it does not find
            self._cache.get(self._request)


def _has_libcachesim() -> bool:
    try:
        import libcachesim  # noqa: F401  # only to see whether it is installed
    except ImportError:
        return False
    return True


def advice(
    sizes: Sequence[int], hit_ratios: dict[str, list[float]], share: float, entry_bytes: float | None = None
) -> str:
    """Return a sentence with the smallest size, and its policy, that has enough of the hits.

    Args:
        sizes: The sizes, the smallest first.
        hit_ratios: What ``curves`` returned.
        share: How much of the highest hit ratio is enough, 0 to 1.
        entry_bytes: The average size of an entry on a node, in bytes; None if it is not known.
    """
    highest = max(ratio for ratios in hit_ratios.values() for ratio in ratios)
    if not highest:
        return "No key is read twice: a cache of any size has no hits."
    enough: dict[str, int] = {}
    for name, ratios in hit_ratios.items():
        large = [size for size, ratio in zip(sizes, ratios, strict=True) if ratio >= share * highest]
        if large:
            enough[name] = large[0]
    size = min(enough.values())
    names = [name for name, each in enough.items() if each == size]
    others = [f"{name} needs {each:,}" for name, each in enough.items() if each > size]
    rest = f"; {', '.join(others)}" if others else ""
    memory = f" (about {size * entry_bytes / 1e6:,.3g} MB)" if entry_bytes else ""
    return (
        f"{size:,} entries{memory} with {' or '.join(names)} keep {share:.0%} of the {highest:.1%} of reads "
        f"that hit with {sizes[-1]:,} entries{rest}."
    )


def miss_ratio_chart(sizes: Sequence[int], hit_ratios: dict[str, list[float]]) -> str:
    """Return an SVG of the miss ratio by cache size, with a line for each policy."""
    wide, high = WIDTH - 2 * MARGIN - LEGEND_WIDTH, HEIGHT - 2 * MARGIN
    steps = max(1, len(sizes) - 1)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="11"><title>Miss ratio by cache size</title>'
        "<style>text{fill:#555}@media(prefers-color-scheme:dark){text{fill:#bbb}}</style>"
    )
    parts = [head]
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = MARGIN + high * (1 - share)
        parts.append(
            f'<path d="M{MARGIN} {y:.0f}h{wide}" stroke="#999" stroke-opacity=".35"/>'
            f'<text x="{MARGIN - 6}" y="{y + 4:.0f}" text-anchor="end">{share:.0%}</text>'
        )
    for index, size in enumerate(sizes):
        x = MARGIN + wide * index / steps
        parts.append(f'<text x="{x:.0f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{size:,}</text>')
    for number, (name, ratios) in enumerate(hit_ratios.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(
            f"{MARGIN + wide * index / steps:.1f},{MARGIN + high * ratio:.1f}"
            for index, ratio in enumerate(ratios)
        )
        y = MARGIN + 16 * number
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<path d="M{WIDTH - MARGIN - 78} {y}h14" stroke="{colour}" stroke-width="3"/>'
            f'<text x="{WIDTH - MARGIN - 58}" y="{y + 4}">{name}</text>'
        )
    parts.append(f'<text x="{MARGIN}" y="{MARGIN - 16}">Miss ratio, by entries in the cache</text></svg>')
    return "\n".join(parts) + "\n"
