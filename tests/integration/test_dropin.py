"""The methods that users of django-redis call: the same names, and the same results."""

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
from cacheproject.services import Services

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
Call = Callable[..., Any]


def test_ttl_and_pttl_return_the_remaining_time(ring_cache: RingCache, call: Call) -> None:
    """0: the key has no value. None: the value never expires."""
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
def test_expire_and_persist_change_the_remaining_time(
    ring_cache: RingCache, call: Call, name: str, given: Callable[[], Any]
) -> None:
    """With seconds, milliseconds and times; a key without a value is not changed."""
    assert call(ring_cache, name, "k", given()) is False
    ring_cache.set("k", 1, 1000)
    assert call(ring_cache, name, "k", given()) is True
    assert 45 < (ring_cache.ttl("k") or 0) <= 50
    assert call(ring_cache, "persist", "k") is True
    assert ring_cache.ttl("k") is None
    assert call(ring_cache, name, "k", 0) is True
    assert ring_cache.get("k") is None


def test_keys_are_found_by_pattern(ring_cache: RingCache, call: Call) -> None:
    """On all nodes, for this alias and version; leases and tags are left out."""
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


def test_a_lone_surrogate_in_a_key_works(ring_cache: RingCache, call: Call) -> None:
    """Such a key is listed, deleted and locked like others; a key that is not text is skipped."""
    ring_cache.set_many({"\ud800x": 1, "x": 2})
    ring_cache.client.nodes[0].call((b"SET", ring_cache.key_bytes("") + b"\xff", b"1"))
    assert set(call(ring_cache, "keys", "*x")) == {"\ud800x", "x"}
    assert set(call(ring_cache, "keys")) == {"\ud800x", "x"}
    with ring_cache.lock("\ud800x", timeout=10):
        assert ring_cache.lock("\ud800x", timeout=10).acquire(blocking=False) is False
    assert call(ring_cache, "delete_pattern", "\ud800*") == 1
    assert ring_cache.get_many(["\ud800x", "x"]) == {"x": 2}


def test_a_timeout_is_a_number_or_a_timedelta(ring_cache: RingCache, call: Call) -> None:
    """Anything else raises an error that says what is allowed."""
    call(ring_cache, "set", "k", 1, timedelta(seconds=50))
    assert 45 < (ring_cache.ttl("k") or 0) <= 50
    for wrong in (math.inf, math.nan):
        with pytest.raises(
            ValueError, match="a number of seconds, a timedelta, or None for ever; not (inf|nan)"
        ):
            call(ring_cache, "set", "k", 1, wrong)
    with pytest.raises(TypeError, match="not '10'"):
        call(ring_cache, "touch", "k", "10")


def test_keys_of_a_key_function_cannot_be_listed(settings: Any) -> None:
    """And the error says why."""
    block = settings.CACHES["default"] | {"KEY_FUNCTION": lambda key, *_: f"hidden-{key}"}
    with override_settings(CACHES=settings.CACHES | {"default": block}):
        cache = caches.create_connection("default")
        with pytest.raises(RingCacheError, match="KEY_FUNCTION"):
            cache.keys("*")  # type: ignore[attr-defined]  # RingCache's own


def test_set_with_nx_or_xx_stores_only_if_absent_or_present(ring_cache: RingCache, call: Call) -> None:
    """It returns whether the value was stored."""
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
    """It is redis-py's lock, on the node that owns its name."""
    with ring_cache.lock("job", timeout=10):
        assert ring_cache.lock("job", timeout=10).acquire(blocking=False) is False
        assert ring_cache.get("job") is None
    assert ring_cache.lock("job", timeout=10).acquire(blocking=False) is True


def test_a_lock_and_a_value_of_one_name_do_not_affect_each_other(ring_cache: RingCache) -> None:
    """No method of the one changes the other; ``clear`` does not release the lock."""
    for turn in range(20):  # some of their tokens look like integers
        assert ring_cache.lock(f"job{turn}", timeout=10).acquire(blocking=False) is True
        assert not ring_cache.has_key(f"job{turn}")
    assert ring_cache.keys() == []
    assert ring_cache.get_or_set("job1", lambda: 5) == 5
    ring_cache.delete("job2")
    ring_cache.clear()
    assert not any(ring_cache.lock(f"job{turn}", timeout=10).acquire(blocking=False) for turn in range(20))


@pytest.mark.ring_of_nodes
def test_a_client_is_of_the_node_that_owns_the_key(ring_cache: RingCache) -> None:
    """For commands that the cache has no method for."""
    ring_cache.set("k", 5)
    with ring_cache.get_client("k") as client:
        assert isinstance(client, redis.Redis)
        assert client.get(ring_cache.key_bytes("k")) == b"5"


def test_clear_all_flushes(ring_cache: RingCache, call: Call) -> None:
    """It deletes the keys of other aliases too; ``clear`` does not."""
    node = ring_cache.client.nodes[0]
    node.call((b"SET", b"foreign", b"1"))
    ring_cache.clear()
    assert node.call((b"EXISTS", b"foreign")) == 1
    call(ring_cache, "clear_all")
    assert node.call((b"DBSIZE",)) == 0


def test_options_of_django_redis_are_recognized() -> None:
    """Each fault says what replaces the option here."""
    given = {
        "CLIENT_CLASS": "django_redis.client.DefaultClient",
        "IGNORE_EXCEPTIONS": True,
        "SOCKET_TIMEOUT": 1,
    }
    with pytest.raises(ConfigurationError) as raised:
        RingOptions.read("redis://h:1?name=a", given, "CACHES['default']")
    message = str(raised.value)
    assert "['CLIENT_CLASS']: is an option of django-redis; here every alias is a ring" in message
    assert "use 'on_node_failure'" in message
    assert "use 'socket_timeout'" in message


def test_options_of_djangos_own_backend_are_recognized(settings: Any) -> None:
    """And so are settings outside OPTIONS and misspelt names; the message has no values."""
    options = {"pool_class": "s3cret", "PASSWORD": "s3cret", "PICKLE_VERSION": -1, "evicton": {}, "zzz": 1}
    with pytest.raises(ConfigurationError) as raised:
        RingOptions.read("redis://h:1?name=a", options, "CACHES['default']")
    message = str(raised.value)
    assert "['pool_class']: is an option of Django's RedisCache; here connections are opened" in message
    assert "use 'password', or the node's URL in LOCATION" in message
    assert "s3cret" not in message
    assert "pickle 5 is written" in message
    assert "did you mean 'eviction'?" in message
    assert re.search(r"\['zzz'\]: unknown option; known are .*gutter, .*joining, .*leaving, .*near", message)
    block = settings.CACHES["default"] | {"REVERSE_KEY_FUNCTION": "a.b"}
    with override_settings(CACHES=settings.CACHES | {"default": block}):
        [message] = check_ring_settings()
    assert "CACHES['default']['REVERSE_KEY_FUNCTION']: is a setting of django-redis" in message.msg


def test_settings_that_only_django_redis_reads_are_reported(settings: Any) -> None:
    """Unless one of the aliases still uses django-redis."""
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


@pytest.mark.ring_of_nodes
def test_a_ring_of_one_node_works(services: Services, settings: Any) -> None:
    """Every method works on it."""
    block = settings.CACHES["default"] | {"LOCATION": services.ring_urls[:1]}
    with override_settings(CACHES=settings.CACHES | {"default": block}):
        cache: Any = caches.create_connection("default")
        cache.set_many({"a": 1, "b": 2})
        assert cache.get_many(["a", "b"]) == {"a": 1, "b": 2}
        assert sorted(cache.keys()) == ["a", "b"]
        assert async_to_sync(cache.aget_or_set)("c", lambda: 3) == 3
