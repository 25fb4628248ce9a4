"""Gets in asyncio, of a hundred tasks at once and of one task alone, beside redis-py's asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.goals import Goal, Measured, measure_ratios
from benchmarks.herd import set_up
from benchmarks.rounds import one_core
from cacheproject.services import Services

__all__ = ["GOALS", "measure"]

TASKS = 100
OURS, PEER = f"aget, {TASKS} tasks", f"redis-py asyncio, {TASKS} tasks"
OURS_ALONE, PEER_ALONE = "aget, one task", "redis-py asyncio, one task"
GOALS = (
    Goal(
        OURS,
        PEER,
        0.16,
        "at_most",
        "Half of what is left is the event loop's own work for a task; the rest: a future, two coroutines.",
    ),
    Goal(OURS_ALONE, PEER_ALONE, 0.6, "at_most"),
)


def measure(*, quick: bool) -> Measured:
    """Measure gets of a value of 100 bytes, which the same server holds for both clients."""
    with one_core(), Services(ring=1, queue=0, postgres=False) as services:
        set_up(services)
        import redis.asyncio
        from django.core.cache import caches

        ring = caches["default"]
        ring.set("hit", "x" * 100, 300)
        key = ring.key_bytes("hit")  # type: ignore[attr-defined]  # RingCache's own
        loop = asyncio.new_event_loop()
        peer = redis.asyncio.Redis.from_url(services.ring_urls[0].partition("?")[0])

        def at_once(get: Callable[[], Awaitable[Any]], tasks: int) -> Callable[[], Any]:
            async def run() -> None:
                await asyncio.gather(*[get() for _ in range(tasks)])

            async def one() -> None:
                for _ in range(TASKS):
                    await get()

            return lambda: loop.run_until_complete(run() if tasks > 1 else one())

        ways = {
            OURS: at_once(lambda: ring.aget("hit"), TASKS),
            PEER: at_once(lambda: peer.get(key), TASKS),
            OURS_ALONE: at_once(lambda: ring.aget("hit"), 1),
            PEER_ALONE: at_once(lambda: peer.get(key), 1),
        }
        try:
            return Measured(measure_ratios(GOALS, ways, quick=quick, per_call=TASKS))
        finally:
            loop.run_until_complete(peer.aclose())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
