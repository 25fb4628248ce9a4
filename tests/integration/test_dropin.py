"""What users of django-redis call: the same names, and the same answers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync
from django.core.cache import caches
from django.test import override_settings

from cachebackend import RingCache
from cachebackend.checks import check_peer_settings, check_ring_settings
from cachebackend.errors import ConfigurationError, RingCacheError
from cachebackend.options import RingOptions

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
Call = Callable[..., Any]


def test_times_to_live_are_told(ring_cache: RingCache, call: Call) -> None:
    """0 where there is no value, None for ever; a lease is no value."""
    assert call(ring_cache, "ttl", "k") == 0
    ring_cache.set("k", 1, 100)
    assert 99 <= call(ring_cache, "ttl", "k") <= 100
    assert 99_000 < call(ring_cache, "pttl", "k") <= 100_000
    ring_cache.set("k", 1, None)
    assert call(ring_cache, "ttl", "k") is None
    assert call(ring_cache, "pttl", "k") is None


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("expire", lambda: 50),
        ("expire", lambda: timedelta(seconds=50)),
        ("pexpire", lambda: timedelta(seconds=50)),
        ("pexpire", lambda: 50_000),
        ("expire_at", lambda: datetime.now(UTC) + timedelta(seconds=50)),
        ("expire_at", lambda: datetime.now(UTC).timestamp() + 50),
        ("pexpire_at", lambda: (datetime.now(UTC).timestamp() + 50) * 1000),
        ("pexpire_at", lambda: datetime.now(UTC) + timedelta(seconds=50)),
    ],
)
def test_times_to_live_are_changed(
    ring_cache: RingCache, call: Call, name: str, given: Callable[[], Any]
) -> None:
    """By seconds, milliseconds and moments; of nothing that is not there."""
    assert call(ring_cache, name, "k", given()) is False
    ring_cache.set("k", 1, 1000)
    assert call(ring_cache, name, "k", given()) is True
    assert 45 < (ring_cache.ttl("k") or 0) <= 50
    assert call(ring_cache, "persist", "k") is True
    assert ring_cache.ttl("k") is None
    assert call(ring_cache, name, "k", 0) is True
    assert ring_cache.get("k") is None


def test_keys_are_found_by_pattern(ring_cache: RingCache, call: Call) -> None:
    """On all nodes, of this alias and version, without what is no value."""
    names = {f"user:{n}" for n in range(50)}
    ring_cache.set_many(dict.fromkeys(names, 1))
    ring_cache.set("other", 1)
    ring_cache.set("user:1", 1, version=2)
    ring_cache.get_or_set("tagged", lambda: 1, tags=["user:tag"])
    ring_cache.client.nodes[0].call((b"SET", b"foreign:1:user:x", b"1"))
    assert set(call(ring_cache, "keys", "user:*")) == names
    assert set(ring_cache.iter_keys("user:*", itersize=7)) == names
    assert call(ring_cache, "keys", "user:*", version=2) == ["user:1"]
    assert call(ring_cache, "delete_pattern", "user:*", itersize=10) == 50
    assert set(call(ring_cache, "keys")) == {"other", "tagged"}


def test_half_a_character_in_a_key_harms_nobody(ring_cache: RingCache, call: Call) -> None:
    """It is found again, deleted and locked as others are; what is no text at all is passed over."""
    ring_cache.set_many({"\ud800x": 1, "x": 2})
    ring_cache.client.nodes[0].call((b"SET", ring_cache.key_bytes("") + b"\xff", b"1"))
    assert set(call(ring_cache, "keys", "*x")) == {"\ud800x", "x"}
    assert set(call(ring_cache, "keys")) == {"\ud800x", "x"}
    with ring_cache.lock("\ud800x", timeout=10):
        assert ring_cache.lock("\ud800x", timeout=10).acquire(blocking=False) is False
    assert call(ring_cache, "delete_pattern", "\ud800*") == 1
    assert ring_cache.get_many(["\ud800x", "x"]) == {"x": 2}


def test_a_timeout_is_a_number_or_a_timedelta(ring_cache: RingCache, call: Call) -> None:
    """Anything else is told what it may be."""
    call(ring_cache, "set", "k", 1, timedelta(seconds=50))
    assert 45 < (ring_cache.ttl("k") or 0) <= 50
    for wrong in (math.inf, math.nan):
        with pytest.raises(
            ValueError, match="a number of seconds, a timedelta, or None for ever; not (inf|nan)"
        ):
            call(ring_cache, "set", "k", 1, wrong)
    with pytest.raises(TypeError, match="not '10'"):
        call(ring_cache, "touch", "k", "10")


def test_keys_of_a_key_function_cannot_be_found(settings: Any) -> None:
    """And it is said so."""
    block = settings.CACHES["default"] | {"KEY_FUNCTION": lambda key, *_: f"hidden-{key}"}
    with override_settings(CACHES=settings.CACHES | {"default": block}):
        cache = caches.create_connection("default")
        with pytest.raises(RingCacheError, match="KEY_FUNCTION"):
            cache.keys("*")  # type: ignore[attr-defined]  # RingCache's own


def test_a_value_is_set_only_if_there_is_one_or_none(ring_cache: RingCache, call: Call) -> None:
    """``nx`` and ``xx``; it returns whether it was stored."""
    assert call(ring_cache, "set", "k", 1, xx=True) is False
    assert ring_cache.get("k") is None
    assert call(ring_cache, "set", "k", 1, nx=True) is True
    assert call(ring_cache, "set", "k", 2, nx=True) is False
    assert call(ring_cache, "set", "k", {"a": 3}, 100, xx=True) is True
    assert ring_cache.get("k") == {"a": 3}
    assert 99 <= (ring_cache.ttl("k") or 0) <= 100
    assert call(ring_cache, "set", "k", 4, None, xx=True) is True
    assert ring_cache.ttl("k") is None
    assert call(ring_cache, "set", "k", 5, 0, xx=True) is True
    assert ring_cache.get("k") is None
    with pytest.raises(ValueError, match="not both"):
        call(ring_cache, "set", "k", 1, nx=True, xx=True)


def test_a_lock_is_held_by_one(ring_cache: RingCache) -> None:
    """redis-py's, on the node that owns it."""
    with ring_cache.lock("job", timeout=10):
        assert ring_cache.lock("job", timeout=10).acquire(blocking=False) is False
        assert ring_cache.get("job") is None
    assert ring_cache.lock("job", timeout=10).acquire(blocking=False) is True


def test_a_lock_and_a_value_of_one_name_do_not_meet(ring_cache: RingCache) -> None:
    """Neither is the other's, whatever is done to it; not even ``clear`` opens a lock."""
    for turn in range(20):  # of which some have tokens that look like integers
        assert ring_cache.lock(f"job{turn}", timeout=10).acquire(blocking=False) is True
        assert not ring_cache.has_key(f"job{turn}")
    assert ring_cache.keys() == []
    assert ring_cache.get_or_set("job1", lambda: 5) == 5
    ring_cache.delete("job2")
    ring_cache.clear()
    assert not any(ring_cache.lock(f"job{turn}", timeout=10).acquire(blocking=False) for turn in range(20))


def test_a_client_is_of_the_node_that_owns_the_key(ring_cache: RingCache) -> None:
    """For what no method here does."""
    ring_cache.set("k", 5)
    with ring_cache.get_client("k") as client:
        assert isinstance(client, redis.Redis)
        assert client.get(ring_cache.key_bytes("k")) == b"5"


def test_clear_all_flushes(ring_cache: RingCache, call: Call) -> None:
    """Other aliases' keys, too; ``clear`` leaves them."""
    node = ring_cache.client.nodes[0]
    node.call((b"SET", b"foreign", b"1"))
    ring_cache.clear()
    assert node.call((b"EXISTS", b"foreign")) == 1
    call(ring_cache, "clear_all")
    assert node.call((b"DBSIZE",)) == 0


def test_options_of_django_redis_are_recognized() -> None:
    """Each fault says what takes the option's place here."""
    given = {
        "CLIENT_CLASS": "django_redis.client.DefaultClient",
        "IGNORE_EXCEPTIONS": True,
        "SOCKET_TIMEOUT": 1,
    }
    with pytest.raises(ConfigurationError) as raised:
        RingOptions.read("redis://h:1?name=a", given, "CACHES['default']")
    told = str(raised.value)
    assert "['CLIENT_CLASS']: is an option of django-redis; here every alias is a ring" in told
    assert "use 'on_node_failure'" in told
    assert "use 'socket_timeout'" in told


def test_options_of_djangos_own_backend_are_recognized(settings: Any) -> None:
    """And what else nobody here knows: settings beside OPTIONS, misspelt names, without their values."""
    options = {"pool_class": "p", "password": "s3cret", "PICKLE_VERSION": -1, "evicton": {}, "zzz": 1}
    with pytest.raises(ConfigurationError) as raised:
        RingOptions.read("redis://h:1?name=a", options, "CACHES['default']")
    told = str(raised.value)
    assert "['pool_class']: is an option of Django's RedisCache; here connections are opened" in told
    assert "['password']: is an option of Django's RedisCache; here it is part of the node's URL" in told
    assert "s3cret" not in told
    assert "pickle 5 is written" in told
    assert "did you mean 'eviction'?" in told
    assert re.search(r"\['zzz'\]: unknown option; known are .*gutter, .*joining, .*leaving, .*near", told)
    block = settings.CACHES["default"] | {"REVERSE_KEY_FUNCTION": "a.b"}
    with override_settings(CACHES=settings.CACHES | {"default": block}):
        [message] = check_ring_settings()
    assert "CACHES['default']['REVERSE_KEY_FUNCTION']: is a setting of django-redis" in message.msg


def test_settings_that_django_redis_alone_reads_are_told(settings: Any) -> None:
    """Unless one of the aliases is still its."""
    settings.DJANGO_REDIS_IGNORE_EXCEPTIONS = True
    [message] = check_peer_settings()
    assert (message.id, message.msg) == (
        "ringcache.W004",
        "DJANGO_REDIS_IGNORE_EXCEPTIONS is a setting of django-redis.",
    )
    assert "on_node_failure" in (message.hint or "")
    theirs = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://h:1"}
    with override_settings(CACHES=settings.CACHES | {"old": theirs}):
        assert check_peer_settings() == []


def test_one_node_is_a_fine_ring(settings: Any) -> None:
    """All of it works on a ring of one."""
    block = settings.CACHES["default"] | {"LOCATION": settings.CACHES["default"]["LOCATION"][:1]}
    with override_settings(CACHES=settings.CACHES | {"default": block}):
        cache: Any = caches.create_connection("default")
        cache.set_many({"a": 1, "b": 2})
        assert cache.get_many(["a", "b"]) == {"a": 1, "b": 2}
        assert sorted(cache.keys()) == ["a", "b"]
        assert async_to_sync(cache.aget_or_set)("c", lambda: 3) == 3
