"""What a cache of some size would find of a trace, by policy; and what of it is enough."""

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
#: Shares of all keys that sizes are tried at.
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
#: More requests than these are thinned out by key.
MOST_REQUESTS = 200_000
WIDTH, HEIGHT, MARGIN = 640, 360, 48
_COLOURS = ("#2563eb", "#dc2626", "#16a34a", "#9333ea", "#ea580c", "#0891b2", "#6b7280")


def default_sizes(trace: Trace) -> list[int]:
    """Return sizes from a hundredth of the keys to all of them."""
    distinct = len(set(trace.blocks))
    return sorted({max(1, round(distinct * share)) for share in SHARES})


def sampled(trace: Trace) -> tuple[Trace, float]:
    """Return the requests of some keys only, if there are many, and the share of keys that is.

    A cache of that share of its size finds the same share of them.

    Source: Waldspurger et al., "Efficient MRC Construction with SHARDS", FAST '15.
    """
    rate = min(1.0, MOST_REQUESTS / max(1, len(trace)))
    if rate == 1.0:
        return trace, rate
    limit = int(rate * 2**64)
    kept = {key for key in set(trace.blocks) if xxh3_64_intdigest(str(key).encode()) < limit}
    taken = [key in kept for key in trace.blocks]
    return Trace(array("L", compress(trace.blocks, taken)), bytearray(compress(trace.writes, taken))), rate


def curves(
    trace: Trace, sizes: Sequence[int], rate: float, tell: Callable[[str], None]
) -> dict[str, list[float]]:
    """Return for each policy its hit ratio at each size.

    Args:
        trace: The requests. A write puts its key, and is not counted: it reads nothing.
        sizes: The sizes, in entries of the whole trace.
        rate: What share of the keys the requests are of.
        tell: Called with what is done next.
    """
    policies = SIMULATED.copy()
    if _has_libcachesim():
        policies.append(_Arc)
    found: dict[str, list[float]] = {}
    for policy in policies:
        tell(f"{policy.title}: {len(sizes)} sizes, {len(trace):,} requests each")
        found[policy.title] = [
            hit_ratio(policy(max(1, round(size * rate))), trace.blocks, trace.writes) for size in sizes
        ]
    return found


class _Arc:
    """libcachesim's ARC, with the interface of our policies."""

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
        if self._cache.find(self._request, update_cache=False) is None:  # a get puts what it does not find
            self._cache.get(self._request)


def _has_libcachesim() -> bool:
    try:
        import libcachesim  # noqa: F401  # whether it is there
    except ImportError:
        return False
    return True


def advice(
    sizes: Sequence[int], found: dict[str, list[float]], keep: float, entry_bytes: float | None = None
) -> str:
    """Return in a sentence the smallest size, and its policy, that keeps a share of the hits.

    Args:
        sizes: The sizes, the smallest first.
        found: What ``curves`` returned.
        keep: The share of the most hits that any of them finds.
        entry_bytes: What an entry takes on a node, on the average; None: that is not known.
    """
    most = max(ratio for ratios in found.values() for ratio in ratios)
    if not most:
        return "No key is asked for twice: no cache of any size would find anything."
    enough: dict[str, int] = {}
    for name, ratios in found.items():
        large = [size for size, ratio in zip(sizes, ratios, strict=True) if ratio >= keep * most]
        if large:
            enough[name] = large[0]
    size = min(enough.values())
    names = [name for name, each in enough.items() if each == size]
    others = [f"{name} needs {each:,}" for name, each in enough.items() if each > size]
    rest = f"; {', '.join(others)}" if others else ""
    memory = f" (about {size * entry_bytes / 1e6:,.3g} MB)" if entry_bytes else ""
    return (
        f"{size:,} entries{memory} with {' or '.join(names)} keep {keep:.0%} of the {most:.1%} of requests "
        f"that {sizes[-1]:,} entries find{rest}."
    )


def miss_ratio_chart(sizes: Sequence[int], found: dict[str, list[float]]) -> str:
    """Return the miss ratio over the size, a line for each policy, as an SVG file's text."""
    wide, high = WIDTH - 2 * MARGIN - 90, HEIGHT - 2 * MARGIN
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
    for at, size in enumerate(sizes):
        x = MARGIN + wide * at / steps
        parts.append(f'<text x="{x:.0f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{size:,}</text>')
    for number, (name, ratios) in enumerate(found.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(
            f"{MARGIN + wide * at / steps:.1f},{MARGIN + high * ratio:.1f}" for at, ratio in enumerate(ratios)
        )
        y = MARGIN + 16 * number
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<path d="M{WIDTH - MARGIN - 78} {y}h14" stroke="{colour}" stroke-width="3"/>'
            f'<text x="{WIDTH - MARGIN - 58}" y="{y + 4}">{name}</text>'
        )
    parts.append(
        f'<text x="{MARGIN}" y="{MARGIN - 16}">Requests that miss, by entries in the cache</text></svg>'
    )
    return "\n".join(parts) + "\n"
