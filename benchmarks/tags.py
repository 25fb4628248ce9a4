"""What tags cost: hits of values with tags, compared with the same reads of values without tags.

Values and tags are on one node or on three, which share one core with the client. ``get_or_set`` names
the tags; ``get`` remembers those that the value had at the last read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from benchmarks.goals import Goal, Measured, measure_ratios
from benchmarks.herd import set_up
from benchmarks.rounds import one_core
from cacheproject.services import Services

__all__ = ["GOALS", "measure"]

#: The keys of each kind of value. A single one might be on the node of its tags by chance.
KEYS = 100
TIMEOUT, VALUE = 3600, "x" * 100
NO_TAG, ONE_TAG, FIVE_TAGS = "no tag", "1 tag", "5 tags"
TAGS = {NO_TAG: [], ONE_TAG: ["a"], FIVE_TAGS: ["a", "b", "c", "d", "e"]}
#: The reads of one key, and those of all keys in one call.
SINGLE = ("get", "get_or_set", "aget", "aget_or_set")
MANY = ("get_many", "get_or_set_many", "aget_many")
ONE_NODE, THREE_NODES = "one node", "three nodes"
_SOCKETS = "The tags are on up to three nodes, and each socket costs as much as the read without tags."
_APART = (
    "Tags are a second command, and their tokens are compared. Of many values, those with tags are decoded "
    "one by one, and those without tags together."
)
GOALS = tuple(
    Goal(f"{way}, {label}, {nodes}", f"{way}, {NO_TAG}, {nodes}", bound, "at_most", why)
    for nodes, why in ((ONE_NODE, _APART), (THREE_NODES, _SOCKETS))
    for ways, label, bound in ((SINGLE, ONE_TAG, 2.0), (SINGLE, FIVE_TAGS, 3.0), (MANY, FIVE_TAGS, 2.0))
    for way in ways
)


def measure(*, quick: bool) -> Measured:
    """Measure the ways to read values with and without tags, all of them hits."""
    with one_core(), Services(ring=3, queue=0, postgres=False) as services:
        set_up(services)
        from cachebackend import RingCache

        loop = asyncio.new_event_loop()
        ways: dict[str, Callable[[], Any]] = {}
        try:
            for nodes, urls in ((ONE_NODE, services.ring_urls[:1]), (THREE_NODES, services.ring_urls)):
                cache = RingCache(urls, {"KEY_PREFIX": str(len(urls))})
                for label, names in TAGS.items():
                    ways |= _ways(cache, loop, f"{label}, {nodes}", names)
            return Measured(measure_ratios(GOALS, ways, quick=quick, per_call=KEYS))
        finally:
            loop.close()


def _ways(
    cache: Any, loop: asyncio.AbstractEventLoop, label: str, tags: list[str]
) -> dict[str, Callable[[], Any]]:
    """Store ``KEYS`` values with tags, and return the ways to read all of them."""
    keys = [f"{len(tags)}-tags:{number}" for number in range(KEYS)]
    for key in keys:
        cache.get_or_set(key, VALUE, TIMEOUT, tags=tags)

    async def aget() -> None:
        for key in keys:
            await cache.aget(key)

    async def aget_or_set() -> None:
        for key in keys:
            await cache.aget_or_set(key, VALUE, TIMEOUT, tags=tags)

    ways: dict[str, Callable[[], Any]] = {
        "get": lambda: [cache.get(key) for key in keys],
        "get_or_set": lambda: [cache.get_or_set(key, VALUE, TIMEOUT, tags=tags) for key in keys],
        "aget": lambda: loop.run_until_complete(aget()),
        "aget_or_set": lambda: loop.run_until_complete(aget_or_set()),
        "get_many": lambda: cache.get_many(keys),
        "get_or_set_many": lambda: cache.get_or_set_many(keys, dict.fromkeys, TIMEOUT, tags=tags),
        "aget_many": lambda: loop.run_until_complete(cache.aget_many(keys)),
    }
    return {f"{way}, {label}": run for way, run in ways.items()}
