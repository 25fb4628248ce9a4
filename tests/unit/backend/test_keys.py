"""Keys, versions and timeouts of Django, as the nodes have them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.cache.backends.base import CacheKeyWarning

from cachebackend.backend.keys import (
    KeyCache,
    change_key,
    is_tag_key,
    pattern_key,
    pattern_of_key,
    special_keys,
)
from cachebackend.backend.tag_names import tag_name
from cachebackend.errors import RingCacheError
from tests.shop.models import Tag


class Plain(KeyCache):
    """A cache with Django's own keys."""


def cache_of(**params: Any) -> KeyCache:
    return Plain({"KEY_PREFIX": "demo", "TIMEOUT": 300} | params)


@pytest.mark.parametrize(
    ("key", "version", "made"),
    [("k", None, b"demo:1:k"), ("k", 0, b"demo:0:k"), (5, 7, b"demo:7:5"), ("ž", None, "demo:1:ž".encode())],
)
def test_a_key_is_djangos_as_bytes(key: Any, version: int | None, made: bytes) -> None:
    """Prefix, version and key."""
    assert cache_of().key_bytes(key, version) == made
    assert cache_of().many_key_bytes([key, "other"], version)[0] == made


@pytest.mark.parametrize("key", ["a b", "a\nb", "x" * 250])
def test_a_key_that_memcached_would_refuse_is_warned_of(key: str) -> None:
    """One or many; and it is used all the same."""
    for made in (lambda: cache_of().key_bytes(key), lambda: cache_of().many_key_bytes(["k", key])[1]):
        with pytest.warns(CacheKeyWarning):
            assert made() == f"demo:1:{key}".encode()


def test_a_key_is_encoded_once() -> None:
    """Caches with the same prefix and version share its bytes, in all threads."""
    assert cache_of().key_bytes("remembered") is cache_of().key_bytes("remembered")
    assert cache_of().key_bytes("remembered", 1) is not cache_of().key_bytes("remembered")


@pytest.mark.parametrize(
    ("attribute", "value", "made"),
    [
        ("key_prefix", "other", b"other:1:k"),
        ("version", 2, b"demo:2:k"),
        ("key_func", lambda key, *_: key, b"k"),
    ],
)
def test_an_attribute_that_decides_the_bytes_of_keys_may_be_set(
    attribute: str, value: Any, made: bytes
) -> None:
    """As tests do, which have a prefix of their own; the bytes from before are not used."""
    cache = cache_of()
    assert cache.key_bytes("k") == b"demo:1:k"
    setattr(cache, attribute, value)
    assert cache.key_bytes("k") == made


def test_a_key_function_is_asked_each_time() -> None:
    """Its keys may depend on more than its arguments."""
    numbers = iter(range(10))
    cache = cache_of(KEY_FUNCTION=lambda key, prefix, version: f"{prefix}:{version}:{key}:{next(numbers)}")
    assert [cache.key_bytes("k"), cache.key_bytes("k")] == [b"demo:1:k:0", b"demo:1:k:1"]


def test_a_warning_comes_each_time() -> None:
    """The bytes of a key that memcached would refuse are not remembered."""
    for _ in range(2):
        with pytest.warns(CacheKeyWarning):
            cache_of().key_bytes("a b")


def test_many_different_keys_take_a_bounded_memory() -> None:
    """After some thousands of keys, encoding begins with an empty memory."""
    cache = cache_of(KEY_PREFIX="many")
    first = cache.key_bytes("first")
    keys = [cache.key_bytes(f"key:{number}") for number in range(2_000)]
    assert len(set(keys)) == 2_000
    assert cache.key_bytes("first") is not first
    assert cache.key_bytes("first") == first


def test_half_a_surrogate_pair_makes_a_key_too() -> None:
    """Django takes any text; it comes back from the bytes."""
    assert cache_of().key_bytes("\ud800") == b"demo:1:\xed\xa0\x80"


def test_a_key_function_of_the_project_makes_the_keys() -> None:
    """One that hides the key leaves nothing by which ``clear`` could find them."""
    cache = cache_of(KEY_FUNCTION=lambda key, prefix, version: f"{version}/{prefix}/{key}")
    assert cache.many_key_bytes(["k", "l"]) == [b"1/demo/k", b"1/demo/l"]
    assert cache.pattern == b"[0-9]*/demo/*"
    assert not cache.has_plain_keys
    with pytest.raises(RingCacheError, match="KEY_FUNCTION"):
        _ = cache_of(KEY_FUNCTION=lambda *_: "always").pattern


def test_a_pattern_matches_the_keys_of_every_version_and_nothing_else() -> None:
    """What is special in the prefix is escaped."""
    assert cache_of().pattern == b"demo:[0-9]*:*"
    assert cache_of(KEY_PREFIX="a*[b]").pattern == rb"a\*\[b\]:[0-9]*:*"
    assert cache_of().pattern_of("shop.tag:*") == rb"demo:[0-9]*:shop.tag:\**"
    assert KeyCache.escaped(b"a?\\-^") == rb"a\?\\\-\^"


@pytest.mark.parametrize(
    ("timeout", "milliseconds"),
    [(1, 1000), (0.0001, 1), (1.0005, 1001), (0, 0), (-1, -1000), (None, None),
     (timedelta(minutes=1), 60_000), (10**12, 31_622_400_000_000)],
)  # fmt: skip
def test_a_timeout_is_milliseconds_rounded_up(timeout: Any, milliseconds: int | None) -> None:
    """At most a thousand years; None is for ever."""
    assert cache_of().ttl_ms(timeout) == milliseconds


def test_the_default_timeout_is_the_alias() -> None:
    """Of its settings."""
    assert cache_of().ttl_ms() == 300_000
    assert cache_of(TIMEOUT=None).ttl_ms() is None


@pytest.mark.parametrize(
    ("timeout", "error"),
    [("5", TypeError), (object(), TypeError), (float("nan"), ValueError), (float("inf"), ValueError)],
)
def test_a_timeout_that_is_no_time_is_refused(timeout: Any, error: type[Exception]) -> None:
    """With what it may be."""
    with pytest.raises(error, match="a timeout is a number of seconds"):
        cache_of().ttl_ms(timeout)


def test_no_key_of_a_caller_is_that_of_a_tag() -> None:
    """A tag's key has a byte that UTF-8 never contains."""
    cache = cache_of()
    assert cache.tag_bytes("front") == b"demo:1:tag:front\xff"
    assert cache.many_tag_bytes([tag_name("front"), tag_name(Tag)]) == [
        cache.tag_bytes("front"),
        cache.tag_bytes(Tag),
    ]
    assert is_tag_key(cache.tag_bytes(Tag(pk=7)))


@pytest.mark.parametrize("key", ["tag:front", "tag:front\xff", "tag:front\udcff", b"tag:front\xff"])
def test_no_key_of_a_user_is_the_key_of_a_tag(key: Any) -> None:
    """A tag's key ends in a byte that UTF-8 does not have."""
    cache = cache_of()
    assert is_tag_key(cache.tag_bytes("front"))
    assert not is_tag_key(cache.key_bytes(key))
    assert not any(map(is_tag_key, cache.many_key_bytes([key, "other"])))


def test_a_pattern_is_kept_among_keys() -> None:
    """It is neither a value nor a tag, and the tags of a pattern are deleted when other tags are."""
    for is_tag in (False, True):
        key = pattern_key(b"p:*", is_tag=is_tag)
        assert pattern_of_key(key) == b"p:*"
        assert is_tag_key(key) is is_tag
    assert pattern_of_key(b"p:1") is None
    assert pattern_of_key(b"p:1\xff") is None


def test_keys_that_stand_for_others_are_found_among_many() -> None:
    """Also a change whose content has the bytes that mark patterns and changes."""
    special = {pattern_key(b"p:*", is_tag=tag) for tag in (True, False)} | {change_key(b"\xfe\xfd rows")}
    assert special_keys({b"p:1", b"p:2\xff", *special}) == special


def test_the_bytes_of_one_prefix_are_never_those_of_another() -> None:
    """Another thread may set the prefix of a shared cache object while a key is encoded."""
    cache, other = cache_of(), cache_of()
    other.key_prefix = "other"
    cache._encoded_keys = other._encoded_keys  # the prefix was read before, this after
    assert cache.key_bytes("shared") == b"demo:1:shared"
    assert other.key_bytes("shared") == b"other:1:shared"
