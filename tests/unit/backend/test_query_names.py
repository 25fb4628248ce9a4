"""The names of the tags of query results and of the registry's shards."""

from __future__ import annotations

from fnmatch import fnmatchcase

from django.core.cache.backends.base import memcache_key_warnings

from cachebackend.backend.query_names import (
    SHARDS,
    prefixes_of_queries,
    shape_tag_name,
    shard_names,
    table_of_shard,
)


def test_a_table_has_several_shards() -> None:
    """Each has a name of its own."""
    assert len(set(shard_names("default@shop", "shop_product"))) == SHARDS


def test_the_names_of_two_scopes_differ() -> None:
    """A tenant's results are not invalidated, and not kept, by those of another."""
    assert shape_tag_name("a", "t", "x") != shape_tag_name("b", "t", "x")
    assert not set(shard_names("a", "t")) & set(shard_names("b", "t"))


def test_the_prefixes_match_the_shards_in_every_namespace() -> None:
    """A change in an unknown namespace deletes the shards of all of them."""
    first, second = prefixes_of_queries("default@shop", "shop_product")
    for scope in ("default@shop", "default@shop+tenant"):
        assert all(fnmatchcase(name, f"{first}*{second}*") for name in shard_names(scope, "shop_product"))


def test_the_table_of_a_shard_is_in_its_name() -> None:
    """Also in the key of a shard. A name that is not a shard's names no table."""
    assert table_of_shard("shapes:default@shop:shop_product:3") == "shop_product"
    assert table_of_shard("demo:1:shapes:default@shop:shop_product:3") == "shop_product"
    assert [table_of_shard(name) for name in ("", "x", "x:y", ":")] == ["", "", "x", ""]


def test_a_table_with_a_space_makes_keys_that_django_accepts() -> None:
    """It warns about a key with a space, at each write."""
    table = 'stock of "2026"'
    names = [*shard_names("default@shop", table), shape_tag_name("default@shop", table, "x")]
    assert not [warning for name in names for warning in memcache_key_warnings(name)]
    assert prefixes_of_queries("default@shop", table)[1] in names[0]
    assert names[0] != shard_names("default@shop", 'stock of "2025"')[0]
