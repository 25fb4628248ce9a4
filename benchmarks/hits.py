"""Hits of one key: a get beside a bare socket, through Django's proxy and on the object, and get_or_set."""

from __future__ import annotations

from benchmarks.bare import BareSocket
from benchmarks.goals import Goal, Measured, measure_ratios
from benchmarks.herd import set_up
from benchmarks.rounds import one_core
from cacheproject.services import Services

__all__ = ["GOALS", "measure"]

BARE, PROXY, OBJECT, LOADED = "bare socket", "get, 100 B", "get, 100 B, on the object", "get_or_set, 100 B"
GOALS = (
    Goal(
        PROXY,
        BARE,
        1.15,
        "at_most",
        "Django's proxy alone takes as long as the goal allows: it finds the cache object of the thread.",
    ),
    Goal(
        OBJECT,
        BARE,
        1.08,
        "at_most",
        "One poll waits for the reply, because the kernel's own timeout begins again with each signal; the "
        "rest is Python: the pool, the checks of the reply, the counters and the codec.",
    ),
    Goal(
        LOADED,
        PROXY,
        1.15,
        "at_most",
        "It asks for a lease with the value: a random token, and a command of seven words.",
    ),
)


def measure(*, quick: bool) -> Measured:
    """Measure the ways to read a cached value of 100 bytes, all from the node that owns the key."""
    with one_core(), Services(ring=3, queue=0, postgres=False) as services:
        set_up(services)
        from django.core.cache import cache, caches

        ring = caches["default"]
        ring.set("hit", "x" * 100, 300)
        key = ring.key_bytes("hit")  # type: ignore[attr-defined]  # RingCache's own
        owner = ring.client.ring.owner(key)  # type: ignore[attr-defined]  # RingCache's own
        bare = BareSocket(services.ring_urls[owner])
        ways = {
            BARE: lambda: bare.call(b"GET", key),
            PROXY: lambda: cache.get("hit"),
            OBJECT: lambda: ring.get("hit"),
            LOADED: lambda: cache.get_or_set("hit", dict, 300),
        }
        return Measured(measure_ratios(GOALS, ways, quick=quick))
