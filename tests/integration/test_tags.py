"""Values with tags: an operation that needs a value treats one whose tag is gone as no value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings

from cachebackend import RingCache, protocol

pytestmark = pytest.mark.usefixtures("each_ring")

Call = Callable[..., Any]


@pytest.fixture
def cache(fill: str, empty_nodes: None) -> RingCache:
    """A cache that fills with the server's compare-and-set, and one that fills with a script."""
    return RingCache(settings.CACHES["default"]["LOCATION"], {"OPTIONS": {"fill": fill}})


@pytest.mark.parametrize("before", [(), ("a",), ("b", "c")], ids=str)
@pytest.mark.parametrize("value", ["old", 1], ids=str)
def test_a_value_without_a_tag_that_is_asked_for_is_a_miss(
    cache: RingCache, call: Call, before: tuple[str, ...], value: Any
) -> None:
    """A process that does not know the tag stored it, so the tag's invalidation would not reach it."""
    cache.get_or_set("k", value, 60, tags=before)
    assert call(cache, "get_or_set", "k", "new", 60, tags=["a", "b"]) == "new"
    call(cache, "invalidate_tags", "b")
    assert call(cache, "get_or_set", "k", "newer", 60, tags=["a", "b"]) == "newer"


def test_values_without_a_tag_that_is_asked_for_are_misses_in_reads_of_many(
    cache: RingCache, call: Call
) -> None:
    """A value that has the tag and another one is a hit."""
    cache.set("a", "old")
    cache.get_or_set("b", "with more tags", 60, tags=["t", "u"])

    def loader(keys: list[str]) -> dict[str, str]:
        return dict.fromkeys(keys, "new")

    loaded = call(cache, "get_or_set_many", ["a", "b"], loader, 60, tags=["t"])
    assert loaded == {"a": "new", "b": "with more tags"}


def test_a_copy_in_the_near_cache_is_not_used_if_tags_are_asked_for(empty_nodes: None) -> None:
    """Copies do not say which tags their values have."""
    near = RingCache(settings.CACHES["default"]["LOCATION"], {"OPTIONS": {"near": {"max_entries": 10}}})
    near.set("k", "old")
    while not near.client.has_near_copy(near.key_bytes("k")):
        near.get("k")
    assert near.get_or_set("k", "new", 60, tags=["t"]) == "new"
    assert near.get("k") == "new"
    near.client.close()


def test_tags_that_do_not_fit_into_a_record_are_refused_before_the_load(cache: RingCache, call: Call) -> None:
    """The error says how much fits."""

    def load() -> None:
        pytest.fail("loaded")

    with pytest.raises(ValueError, match=r"a value has 4000 tags .* 65535 fit"):
        call(cache, "get_or_set", "k", load, 60, tags=[f"t{number}" for number in range(4000)])
    many = [f"t{number}" for number in range(1000)]
    assert call(cache, "get_or_set", "k", "v", 60, tags=[*many, *many]) == "v"
    assert call(cache, "get", "k") == "v"


def test_a_get_that_knows_the_tags_sees_their_invalidation(cache: RingCache, call: Call) -> None:
    """It reads their tokens with the value, whether the value still has these tags or others."""
    cache.get_or_set("k", "v", 60, tags=["t", "u"])
    assert [call(cache, "get", "k") for _ in range(2)] == ["v", "v"]
    cache.invalidate_tags("u")
    assert call(cache, "get", "k") is None
    cache.get_or_set("k", "new", 60, tags=["u", "w"])
    assert [call(cache, "get", "k") for _ in range(2)] == ["new", "new"]
    cache.invalidate_tags("w")
    assert call(cache, "get", "k") is None
    cache.set("k", "plain")
    assert [call(cache, "get", "k") for _ in range(2)] == ["plain", "plain"]


@pytest.fixture(params=["deleted", "replaced"])
def void(request: pytest.FixtureRequest, cache: RingCache) -> str:
    """The key of a value whose tag is gone, or has another token by now."""
    cache.get_or_set("k", {"old": 1}, 60, tags=["t", "u"])
    cache.invalidate_tags("t")
    if request.param == "replaced":
        cache.get_or_set("other", 1, 60, tags=["t"])
    return "k"


#: Each operation that needs a value: its arguments, and its results without and with a value.
NEEDS_A_VALUE: dict[str, tuple[tuple[Any, ...], Any, Any]] = {
    "has_key": ((), False, True),
    "ttl": ((), 0, 60),
    "touch": ((50,), False, True),
    "expire": ((50,), False, True),
    "persist": ((), False, True),
    "add": (("added",), True, False),
}


@pytest.mark.parametrize("name", NEEDS_A_VALUE)
def test_a_value_whose_tag_is_gone_is_no_value(cache: RingCache, call: Call, void: str, name: str) -> None:
    """For every operation that needs a value."""
    arguments, missing, _ = NEEDS_A_VALUE[name]
    assert call(cache, name, void, *arguments) == missing
    assert call(cache, "get", void) == ("added" if name == "add" else None)


@pytest.mark.parametrize("name", NEEDS_A_VALUE)
def test_a_value_whose_tags_are_valid_is_a_value(cache: RingCache, call: Call, name: str) -> None:
    """For the same operations."""
    cache.get_or_set("k", {"old": 1}, 60, tags=["t", "u"])
    arguments, _, present = NEEDS_A_VALUE[name]
    assert call(cache, name, "k", *arguments) == present
    assert call(cache, "get", "k") == {"old": 1}


def test_set_with_xx_needs_a_value_whose_tags_are_valid(cache: RingCache, call: Call, void: str) -> None:
    """As ``add`` needs a key without one."""
    assert call(cache, "set", void, "new", xx=True) is False
    cache.get_or_set("valid", "v", 60, tags=["t"])
    assert call(cache, "set", "valid", "new", xx=True) is True
    assert call(cache, "get_many", [void, "valid"]) == {"valid": "new"}


@pytest.mark.parametrize("name", ["add", "touch"])
def test_a_value_that_is_loaded_while_tags_are_checked_is_checked_too(
    cache: RingCache, void: str, name: str
) -> None:
    """The verdict holds for the tags of the old value only."""
    context, key = cache.client.context, cache.key_bytes(void)
    operations = {
        "add": lambda: protocol.add(context, key, "added", 60_000),
        "touch": lambda: protocol.touch(context, key, 0),
    }

    def load_between() -> protocol.Operation[bool]:
        operation = operations[name]()
        tokens = operation.send((yield next(operation)))
        verdict = operation.send((yield tokens))
        cache.get_or_set(void, "loaded", 60, tags=["t", "u"])
        reply = yield verdict
        try:
            while True:
                reply = yield operation.send(reply)
        except StopIteration as end:
            return bool(end.value)

    assert cache.client.run(load_between()) is (name == "touch")
    assert cache.get(void) == ("loaded" if name == "add" else None)


def test_keys_lists_only_values_whose_tags_are_valid(cache: RingCache, call: Call, void: str) -> None:
    """A loaded value whose time is over is not listed either."""
    cache.get_or_set("valid", "v", 60, tags=["u"])
    cache.get_or_set("over", "v", 60, stale_for=60)
    cache.make_stale("over", 60)
    cache.set("plain", 1)
    assert set(call(cache, "keys")) - {"other"} == {"valid", "plain"}


def test_incr_version_keeps_tags_and_timeout(cache: RingCache, call: Call) -> None:
    """The value in the new version is invalidated by the same tags."""
    cache.get_or_set("k", {"a": 1}, 60, tags=["t"])
    assert call(cache, "incr_version", "k") == 2
    assert call(cache, "get", "k") is None
    assert call(cache, "get", "k", version=2) == {"a": 1}
    assert 55 < (cache.ttl("k", version=2) or 0) <= 60
    assert call(cache, "decr_version", "k", version=2) == 1
    call(cache, "invalidate_tags", "t")
    assert call(cache, "get", "k") is None
    with pytest.raises(ValueError, match="Key 'k' not found"):
        call(cache, "incr_version", "k")


def test_incr_version_moves_a_value_without_timeout(cache: RingCache, call: Call) -> None:
    """As it is, and leaves nothing behind."""
    cache.set("k", 5, None)
    assert call(cache, "incr_version", "k", 2) == 3
    assert (cache.get("k"), cache.get("k", version=3), cache.ttl("k", version=3)) == (None, 5, None)
    with pytest.raises(ValueError, match="not found"):
        call(cache, "incr_version", "nothing")
