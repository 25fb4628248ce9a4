"""Stale values, early refresh, tags and many keys, on real nodes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.conf import settings

from cachebackend import RingCache, protocol
from cachebackend.backend.scope import scope_of
from cachebackend.clock import SystemClock
from cacheproject.demo.models import Article

Call = Callable[..., Any]


class MovableClock(SystemClock):
    """The machine's clock, which a test can set forward."""

    ahead = 0.0

    def now(self) -> float:  # type: ignore[override]  # a static method of the machine's clock
        return SystemClock.now() + self.ahead


@pytest.fixture
def clock(ring_cache: RingCache) -> MovableClock:
    """The clock of the ring cache."""
    ring_cache.client.context.clock = clock = MovableClock()
    return clock


@pytest.fixture
def cache(fill: str, empty_nodes: None) -> RingCache:
    """A cache that claims with the server's compare-and-set, and one that claims with a script."""
    return RingCache(settings.CACHES["default"]["LOCATION"], {"OPTIONS": {"fill": fill}})


def by_another_caller(cache: RingCache) -> Any:
    """Return what another thread gets of k, which allows a stale value."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(
            cache.get_or_set, "k", lambda: pytest.fail("a second load"), 60, stale_for=30
        ).result()


def test_a_stale_value_is_served_while_one_caller_loads(cache: RingCache, call: Call) -> None:
    """While the loader of the first caller runs, a second caller gets the stale value at once."""
    cache.client.context.clock = clock = MovableClock()
    served = []

    def loader() -> str:
        served.append(by_another_caller(cache))
        return "new"

    cache.get_or_set("k", "old", 60, stale_for=30)
    clock.ahead = 70
    assert cache.get("k") is None
    assert call(cache, "get_or_set", "k", loader, 60, stale_for=30) == "new"
    assert served == ["old"]
    assert cache.get("k") == "new"


@pytest.mark.parametrize("many", [False, True])
def test_a_loader_is_not_served_a_stale_value(cache: RingCache, call: Call, many: bool) -> None:
    """What it makes would keep the stale value for a whole timeout; it loads the value itself."""
    pages = []

    def read() -> Any:
        if many:
            return cache.get_or_set_many(["k"], lambda _: {"k": "loaded"}, 60, stale_for=30)["k"]
        return cache.get_or_set("k", "loaded", 60, stale_for=30)

    def refresh() -> str:
        with ThreadPoolExecutor(1) as threads:
            pages.append(threads.submit(call, cache, "get_or_set", "page", read).result())
        return "refused"

    cache.get_or_set("k", "old", 60, stale_for=30)
    assert cache.make_stale("k", 30)
    cache.get_or_set("k", refresh, 60, stale_for=30)
    assert pages == ["loaded"]
    assert cache.get("k") == "loaded"


def test_an_invalidation_wins_over_a_refresh(cache: RingCache) -> None:
    """A delete during the load removes the claimed record, so the fill is refused."""
    cache.client.context.clock = clock = MovableClock()
    cache.get_or_set("k", "old", 60, stale_for=30)
    clock.ahead = 70
    assert cache.get_or_set("k", lambda: str(cache.delete("k")), 60, stale_for=30) == "True"
    assert cache.get("k") is None
    assert cache.client.counters.total().stale_sets_refused == 1


def test_an_expired_value_is_a_miss_for_every_method(
    ring_cache: RingCache, clock: MovableClock, call: Call
) -> None:
    """The record is still stored, for calls that allow a stale value."""
    ring_cache.get_or_set("k", "old", 60, stale_for=30)
    assert call(ring_cache, "has_key", "k") is True
    clock.ahead = 70
    assert call(ring_cache, "has_key", "k") is False
    assert call(ring_cache, "touch", "k", 10) is False
    assert call(ring_cache, "get_many", ["k"]) == {}
    assert call(ring_cache, "add", "k", "added") is True
    assert call(ring_cache, "get", "k") == "added"


def test_touch_makes_a_loaded_value_fresh_for_longer(
    ring_cache: RingCache, clock: MovableClock, call: Call
) -> None:
    """It extends ``fresh_until`` of the record, and not only the TTL of the key."""
    ring_cache.get_or_set("k", "value", 60)
    assert call(ring_cache, "touch", "k", 600) is True
    clock.ahead = 70
    assert call(ring_cache, "get", "k") == "value"
    assert call(ring_cache, "touch", "k", None) is True
    clock.ahead = 7000
    assert call(ring_cache, "get", "k") == "value"


def test_a_loaded_integer_can_be_added_to(ring_cache: RingCache, call: Call) -> None:
    """It is stored as a bare integer."""
    ring_cache.get_or_set("k", 5, 60)
    assert call(ring_cache, "incr", "k") == 6


@pytest.mark.parametrize("options", [{"stale_for": 30}, {"tags": ["t"]}], ids=str)
def test_an_integer_that_is_not_stored_bare_can_be_added_to(
    cache: RingCache, call: Call, options: dict[str, Any]
) -> None:
    """It keeps its timeout, its tags and the time of its refresh."""
    assert cache.get_or_set("k", 5, 60, **options) == 5
    assert call(cache, "incr", "k") == 6
    assert call(cache, "decr", "k", 10) == -4
    with pytest.raises(OverflowError):
        call(cache, "incr", "k", -(2**63))
    left = 60 + options.get("stale_for", 0)
    assert left - 5 < (cache.ttl("k") or 0) <= left
    assert cache.get_or_set("text", "v", 60, **options) == "v"
    with pytest.raises(TypeError, match="not an integer"):
        call(cache, "incr", "text")
    cache.invalidate_tags("t")
    cache.make_stale("k", 30)
    with pytest.raises(ValueError, match="not found"):
        call(cache, "incr", "k")


def test_an_integer_that_changes_while_it_is_added_to_is_read_again(cache: RingCache) -> None:
    """No increment is lost."""
    cache.get_or_set("k", 5, 60, stale_for=30)
    operation = protocol.incr(cache.client.context, cache.key_bytes("k"), 1)

    def add_between() -> protocol.Operation[int | None]:
        effect = next(operation)
        effect = operation.send((yield effect))
        cache.incr("k", 100)
        try:
            while True:
                effect = operation.send((yield effect))
        except StopIteration as end:
            return end.value

    assert cache.client.run(add_between()) == 106
    assert cache.get("k") == 106


def test_jitter_shortens_loaded_timeouts_only(empty_nodes: None) -> None:
    """By up to the given share."""
    cache = RingCache(settings.CACHES["default"]["LOCATION"], {"OPTIONS": {"jitter": 0.5}})
    timeouts = {cache.fill_options(100).ttl_ms for _ in range(50)}
    assert len(timeouts) > 10
    assert all(50_000 <= (timeout or 0) <= 100_000 for timeout in timeouts)
    assert cache.ttl_ms(100) == 100_000


def test_many_keys_are_loaded_in_one_call(cache: RingCache, call: Call) -> None:
    """Only the keys that miss; a key that the loader does not return has no value."""
    requested: list[list[str]] = []

    def loader(keys: list[str]) -> dict[str, str]:
        requested.append(keys)
        return {key: key.upper() for key in keys if key != "none"}

    cache.set("a", "A")
    keys = ["a", "b", "none", "c"]
    assert call(cache, "get_or_set_many", iter(keys), loader) == {"a": "A", "b": "B", "c": "C"}
    assert call(cache, "get_or_set_many", ["b", "c"], loader) == {"b": "B", "c": "C"}
    assert requested == [["b", "none", "c"]]


def test_invalidating_a_tag_makes_every_value_with_it_a_miss(cache: RingCache, call: Call) -> None:
    """And no other value; for get, get_many and get_or_set."""
    for key, tags in (("a", ["x"]), ("b", ["x", "y"]), ("c", ["y"]), ("d", [])):
        call(cache, "get_or_set", key, key.upper(), tags=tags)
    assert call(cache, "get_many", "abcd") == {"a": "A", "b": "B", "c": "C", "d": "D"}
    call(cache, "invalidate_tags", "x")
    assert call(cache, "get_many", "abcd") == {"c": "C", "d": "D"}
    assert call(cache, "get", "b") is None
    assert call(cache, "get_or_set", "b", "new", tags=["x", "y"]) == "new"
    assert call(cache, "get", "b") == "new"


def test_a_tag_invalidated_during_the_load_makes_the_value_a_miss(cache: RingCache) -> None:
    """Although its lease was valid and it was filled."""

    def loader() -> str:
        cache.invalidate_tags("x")
        return "old"

    assert cache.get_or_set("k", loader, tags=["x"]) == "old"
    assert cache.get("k") is None


def test_models_and_rows_are_tags(ring_cache: RingCache) -> None:
    """The tag of a row is for that row, the tag of a model for all rows."""
    rows = f"{ring_cache.key_prefix}:1:rows:{scope_of('default')}:demo_article".encode()
    assert ring_cache.tag_bytes(Article) == rows + b"\xff"
    assert ring_cache.tag_bytes(Article(pk=7)) == rows + b":7\xff"


def test_a_stale_value_is_served_to_calls_that_allow_it(cache: RingCache, call: Call) -> None:
    """One of them loads it again; for every other call the key is a miss."""
    served = []

    def loader() -> str:
        served.append(by_another_caller(cache))
        return "new"

    cache.get_or_set("k", "old", 60, stale_for=30)
    assert call(cache, "make_stale", "k", 30) is True
    assert call(cache, "get", "k") is None
    assert call(cache, "has_key", "k") is False
    assert call(cache, "get_or_set", "k", loader, 60, stale_for=30) == "new"
    assert served == ["old"]
    assert call(cache, "get", "k") == "new"


def test_make_stale_refuses_the_fill_of_a_running_refresh(cache: RingCache) -> None:
    """The refresh read before the invalidation; the next caller loads at once."""
    cache.client.context.clock = clock = MovableClock()
    cache.get_or_set("k", "old", 60, stale_for=30)
    clock.ahead = 70

    def loader() -> str:
        assert cache.make_stale("k", 30)
        return "from before"

    assert cache.get_or_set("k", loader, 60, stale_for=30) == "from before"
    assert cache.get_or_set("k", lambda: "after", 60, stale_for=30) == "after"
    assert cache.get("k") == "after"


def test_make_stale_deletes_a_record_that_was_not_loaded(cache: RingCache, call: Call) -> None:
    """A value that ``set`` stored, a lease, or nothing."""
    cache.set("k", "set")
    assert call(cache, "make_stale", "k", 30) is False
    assert call(cache, "get_or_set", "k", "loaded", stale_for=30) == "loaded"
    assert call(cache, "make_stale", "absent", 30) is False
    assert call(cache, "make_stale", "k", 0) is False
    assert call(cache, "get", "k") is None
