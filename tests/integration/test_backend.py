"""Django's cache API, each test on the sync methods and on their async twins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.base import CacheKeyWarning
from django.test import override_settings

from cachebackend import RingCache
from cachebackend.codec import RELEASED, lease_record
from cachebackend.errors import ConfigurationError, NodeUnavailableError, RingCacheError

pytestmark = pytest.mark.usefixtures("each_ring")

Call = Callable[..., Any]
KEYS = [f"key:{number}" for number in range(60)]


def raw(cache: RingCache, key: str, *command: Any) -> Any:
    """Send a command with a key to the key's node, without the cache."""
    encoded = cache.key_bytes(key)
    return cache.client.nodes[cache.client.ring.owner(encoded)].call((command[0], encoded, *command[1:]))


def test_many_keys_spread_over_all_nodes_come_back(ring_cache: RingCache, call: Call) -> None:
    """``set_many`` returns no failed key, ``get_many`` takes an iterator and keeps its order."""
    data = {key: {"n": number} for number, key in enumerate(KEYS)}
    assert call(ring_cache, "set_many", data, 60) == []
    assert {ring_cache.client.ring.owner(ring_cache.key_bytes(key)) for key in KEYS} == {0, 1, 2}
    assert list(call(ring_cache, "get_many", iter([*KEYS, "absent"])).items()) == list(data.items())
    call(ring_cache, "delete_many", iter(KEYS[:30]))
    assert list(call(ring_cache, "get_many", KEYS)) == KEYS[30:]


@pytest.mark.parametrize("empty", [[], (), iter(())])
def test_no_keys_are_no_round_trip_and_no_error(ring_cache: RingCache, call: Call, empty: Any) -> None:
    """``delete_many([])``, ``get_many([])``, ``set_many({})``."""
    call(ring_cache, "delete_many", empty)
    assert call(ring_cache, "get_many", []) == {}
    assert call(ring_cache, "set_many", {}) == []


@pytest.mark.parametrize(
    ("timeout", "milliseconds"),
    [(None, -1), (60, 60_000), (0.5, 500), (0.0004, 1), (0, -2), (-1, -2), (-0.5, -2)],
)
@pytest.mark.parametrize("method", ["set", "add", "touch", "set_many", "get_or_set"])
def test_a_timeout_is_exact_to_the_millisecond(
    ring_cache: RingCache, call: Call, method: str, timeout: Any, milliseconds: int
) -> None:
    """None never expires; 0 and less expire at once; a part of a millisecond is rounded up to one."""
    match method:
        case "touch":
            call(ring_cache, "set", "k", "v", 1000)
            assert call(ring_cache, "touch", "k", timeout) is True
        case "set_many":
            call(ring_cache, "set_many", {"k": "v"}, timeout)
        case _:
            call(ring_cache, method, "k", "v", timeout)
    found = raw(ring_cache, "k", b"PTTL")
    if milliseconds > 1:
        assert milliseconds - 200 < found <= milliseconds
    elif milliseconds == 1:
        assert found in {0, 1, -2}
    else:
        assert call(ring_cache, "pttl", "k") == (None if milliseconds == -1 else 0)


def test_none_is_a_value(ring_cache: RingCache, call: Call) -> None:
    """A cached None is a hit for every method for which an absent key is a miss."""
    call(ring_cache, "set", "k", None)
    assert call(ring_cache, "get", "k", "default") is None
    assert call(ring_cache, "get_many", ["k", "l"]) == {"k": None}
    assert call(ring_cache, "add", "k", 1) is False
    assert call(ring_cache, "has_key", "k") is True
    assert call(ring_cache, "get_or_set", "k", lambda: pytest.fail("loaded")) is None
    assert call(ring_cache, "incr_version", "k") == 2
    assert call(ring_cache, "get", "k", "default", version=2) is None


def test_counting(ring_cache: RingCache, call: Call) -> None:
    """The node adds to the integer, whose timeout does not change."""
    call(ring_cache, "set", "k", 5, 60)
    assert call(ring_cache, "incr", "k") == 6
    assert call(ring_cache, "decr", "k", 10) == -4
    assert raw(ring_cache, "k", b"PTTL") > 0
    with pytest.raises(ValueError, match="Key 'absent' not found"):
        call(ring_cache, "incr", "absent")
    call(ring_cache, "set", "t", "text")
    with pytest.raises(TypeError, match="not an integer"):
        call(ring_cache, "incr", "t")
    call(ring_cache, "set", "b", 2**63 - 1)
    with pytest.raises(OverflowError):
        call(ring_cache, "incr", "b")


@pytest.mark.parametrize(
    "record", [lease_record(bytes(16)), RELEASED, b"Q" + bytes(16)], ids=["lease", "released", "quarantine"]
)
def test_a_lease_or_quarantine_is_a_miss_to_every_method(
    ring_cache: RingCache, call: Call, record: bytes
) -> None:
    """Atomically, on the node: no method distinguishes it from an absent key."""
    raw(ring_cache, "k", b"SET", record)
    assert call(ring_cache, "get", "k", "default") == "default"
    assert call(ring_cache, "get_many", ["k"]) == {}
    assert call(ring_cache, "has_key", "k") is False
    assert call(ring_cache, "touch", "k", 10) is False
    with pytest.raises(ValueError, match="not found"):
        call(ring_cache, "incr", "k")
    with pytest.raises(ValueError, match="not found"):
        call(ring_cache, "incr_version", "k")
    for name, arguments in (("touch", [0]), ("expire", [0]), ("expire_at", [0]), ("persist", [])):
        assert call(ring_cache, name, "k", *arguments) is False
    assert call(ring_cache, "keys") == []
    assert raw(ring_cache, "k", b"GET") == record
    assert call(ring_cache, "add", "k", "v") is True


def test_a_record_that_cannot_be_read_is_a_miss_and_counted(ring_cache: RingCache, call: Call) -> None:
    """Foreign bytes, and a key that is not a string at all."""
    raw(ring_cache, "k", b"SET", b"\x80garbage")
    raw(ring_cache, "l", b"LPUSH", b"x")
    assert call(ring_cache, "get", "k") is None
    assert call(ring_cache, "get", "l") is None
    assert call(ring_cache, "get_or_set", "k", "loaded") == "loaded"
    assert ring_cache.client.counters.total().undecodable == 3


def test_get_or_set_loads_once_and_keeps_the_value(ring_cache: RingCache, call: Call) -> None:
    """A callable is called; anything else is the value."""
    assert call(ring_cache, "get_or_set", "k", lambda: [1]) == [1]
    assert call(ring_cache, "get_or_set", "k", lambda: pytest.fail("loaded again")) == [1]
    assert call(ring_cache, "get_or_set", "l", "value", 10, version=3) == "value"
    assert call(ring_cache, "get", "l", version=3) == "value"


def test_aget_or_set_takes_a_coroutine_function(ring_cache: RingCache) -> None:
    """The loader may await."""

    async def loader() -> int:
        await asyncio.sleep(0)
        return 7

    assert asyncio.run(ring_cache.aget_or_set("k", loader)) == 7
    assert ring_cache.get("k") == 7


def test_clear_deletes_the_keys_of_this_prefix_only(ring_cache: RingCache, call: Call) -> None:
    """In all versions, on all nodes; the prefix may contain any character."""
    other = RingCache(settings.CACHES["default"]["LOCATION"], {"KEY_PREFIX": "d*mo"})
    other.set_many(dict.fromkeys(KEYS, 1))
    ring_cache.set_many(dict.fromkeys(KEYS, 1), version=7)
    ring_cache.set("k", 1)
    call(ring_cache, "clear")
    assert ring_cache.get_many(KEYS, version=7) == {}
    assert ring_cache.get("k") is None
    assert len(other.get_many(KEYS)) == len(KEYS)
    call(other, "clear")
    assert other.get_many(KEYS) == {}


def test_clear_refuses_a_key_function_that_hides_the_key(ring_cache: RingCache) -> None:
    """It cannot find the keys of its alias, so it deletes nothing."""
    ring_cache.key_func = lambda key, prefix, version: f"{hash((key, prefix, version))}"
    with pytest.raises(RingCacheError, match="its KEY_FUNCTION hides the key"):
        ring_cache.clear()


def test_a_key_function_may_be_swapped(ring_cache: RingCache, call: Call) -> None:
    """The next call uses it."""
    call(ring_cache, "set", "k", 1)
    ring_cache.key_func = lambda key, prefix, version: f"other-{prefix}-{version}-{key}"
    assert call(ring_cache, "get", "k") is None
    call(ring_cache, "set", "k", 2)
    assert raw(ring_cache, "k", b"GET") == b"2"
    assert ring_cache.key_bytes("k") == f"other-{ring_cache.key_prefix}-1-k".encode()


@pytest.mark.parametrize("key", ["with space", "x" * 300, "tab\t", "\x7f"])
def test_a_key_that_memcached_would_refuse_causes_a_warning(ring_cache: RingCache, key: str) -> None:
    """As in Django's own backends; the key works nevertheless."""
    with pytest.warns(CacheKeyWarning):
        ring_cache.set(key, 1)
    with pytest.warns(CacheKeyWarning):
        assert ring_cache.get(key) == 1


def test_bad_settings_name_every_fault() -> None:
    """At the first use, before a connection is opened, with the name of the alias."""
    block = {"BACKEND": "cachebackend.RingCache", "LOCATION": "redis://h", "OPTIONS": {"codek": "auto"}}
    with override_settings(CACHES={"default": block}):
        says = r"CACHES\['default'\]\['OPTIONS'\]\['codek'\]: unknown option; did you mean 'codec'"
        with pytest.raises(ConfigurationError, match=says):
            caches["default"].get("k")


@pytest.mark.parametrize("mode", ["miss", "raise"])
def test_a_node_that_is_down_at_start(call: Call, mode: str) -> None:
    """``"miss"``: its keys are misses and nothing raises; ``"raise"``: the error names the node."""
    cache = RingCache("redis://127.0.0.1:1/0?name=gone", {"OPTIONS": {"on_node_failure": mode}})
    if mode == "raise":
        with pytest.raises(NodeUnavailableError, match="node 'gone' is not reachable"):
            call(cache, "get", "k")
        return
    call(cache, "set", "k", 1)
    assert call(cache, "get", "k", "default") == "default"
    assert call(cache, "get_many", ["k"]) == {}
    assert call(cache, "set_many", {"k": 1}) == ["k"]
    assert call(cache, "delete", "k") is False
    assert call(cache, "get_or_set", "k", lambda: 5) == 5
    assert cache.client.counters.total().node_failures > 5
