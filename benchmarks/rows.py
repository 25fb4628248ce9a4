"""Cached rows: a hit by primary key, by a lookup and of many rows, beside the bare commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.bare import BareSocket
from benchmarks.enqueue import make_rows
from benchmarks.goals import Goal, Measured, measure_ratios
from benchmarks.herd import set_up
from benchmarks.rounds import one_core
from cacheproject.services import Services

__all__ = ["GOALS", "measure"]

BARE, MANY = "bare GET and decoding", "get_many of the same 20 keys"
WHY = (
    "Most of the difference is spent in Python: routers and settings are asked where the row is, its key is "
    "made, and the instance is constructed."
)
GOALS = (
    Goal("cached.get(pk)", BARE, 1.4, "at_most", WHY),
    Goal("cached.get(slug)", BARE, 2.4, "at_most", WHY),
    Goal("cached.in_bulk of 20", MANY, 1.3, "at_most", WHY),
)
ROWS = 20


def measure(*, quick: bool) -> Measured:
    """Measure the reads of cached articles, whose columns take 500 bytes in the ring."""
    with one_core(), Services(ring=3, queue=1, postgres=True) as services:
        set_up(services)
        pks = make_rows(ROWS)
        return Measured(measure_ratios(GOALS, ways(services, pks), quick=quick))


def ways(services: Services, pks: list[int]) -> dict[str, Callable[[], Any]]:
    """Return the ways to read; the rows are cached."""
    from cachebackend import protocol
    from cachebackend.backend import ring_cache
    from cachebackend.codec import LOADED_BYTES, msgpack
    from cacheproject.demo.models import Article

    Article.objects.update(title="A reasonable product title for a row", body="x" * 200)
    cached, cache = Article.cached, ring_cache("default")
    pk, slug = pks[0], Article.objects.get(pk=pks[0]).slug
    keys = {pk: cache.key_bytes(cached.key_of(pk=pk)) for pk in pks}
    cached.in_bulk(pks)
    cached.get(slug=slug)
    bare = BareSocket(services.ring_urls[cache.client.ring.owner(keys[pk])])
    context = cache.client.context
    return {
        BARE: lambda: msgpack.loads(bare.call(b"GET", keys[pk])[LOADED_BYTES:]),
        "cached.get(pk)": lambda: cached.get(pk=pk),
        "cached.get(slug)": lambda: cached.get(slug=slug),
        MANY: lambda: cache.client.run(protocol.get_many(context, keys)),
        "cached.in_bulk of 20": lambda: cached.in_bulk(pks),
    }
