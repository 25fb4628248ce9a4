"""What a type checker makes of the public API; it is checked, and never run.

Each ``type: ignore`` is of a mistake that must be found: mypy complains of one that is not needed.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, assert_type
from uuid import UUID

from django.db.models import F

from cachebackend import (
    CachedManager,
    InvalidatingQuerySet,
    RingCache,
    WriteBehindManager,
    cached,
    invalidate,
    uuid7,
    writebehind,
)
from cachebackend.errors import ConfigurationError, RingCacheError
from cachebackend.protocol.queue import Partition
from cachebackend.testing import assert_invalidates, empty_ring
from cacheproject.demo.models import Article


def caches_values(cache: RingCache) -> None:
    cache.set("k", 1, timedelta(seconds=5))
    cache.set("k", 1, nx="yes")  # type: ignore[arg-type]
    assert_type(cache.set("k", 1, None, nx=True), bool)
    assert_type(cache.get_many(["k"]), dict[Any, Any])
    assert_type(cache.set_many({"k": 1}), list[Any])
    assert_type(cache.get_or_set_many(["k"], lambda keys: dict.fromkeys(keys, 1)), dict[Any, Any])
    assert_type(cache.incr("k"), int)
    assert_type(cache.has_key("k"), bool)
    assert_type(cache.ttl("k"), int | None)
    assert_type(cache.expire("k", timedelta(days=1)), bool)
    assert_type(cache.expire("k", "soon"), bool)  # type: ignore[arg-type]
    assert_type(cache.keys("k*"), list[str])
    assert_type(cache.delete_pattern("k*"), int)
    cache.get_or_set("k", lambda: 1, tags=[Article, "front"])
    cache.get_or_set("k", lambda: 1, tags=[5])  # type: ignore[list-item]
    cache.invalidate_tags(Article, "front")


async def caches_values_of_tasks(cache: RingCache) -> None:
    assert_type(await cache.aset("k", 1), bool)
    assert_type(await cache.aget_many(["k"]), dict[Any, Any])
    assert_type(await cache.aincr("k"), int)
    assert_type(await cache.attl("k"), int | None)


@cached(timeout=60, tags=[Article])
def title_of(pk: int) -> str:
    return str(pk)


@cached(timeout=60)
async def count_of(word: str) -> int:
    return len(word)


async def caches_functions() -> None:
    assert_type(title_of(1), str)
    assert_type(title_of.refresh(1), str)
    assert_type(title_of.key_of(1), str)
    title_of("one")  # type: ignore[arg-type]
    title_of.refresh()  # type: ignore[call-arg]
    title_of.forget(1)  # type: ignore[attr-defined]
    assert_type(await count_of("x"), int)
    count_of(1)  # type: ignore[arg-type, unused-coroutine]


async def reads_rows() -> None:
    assert_type(Article.cached, CachedManager[Article])
    assert_type(Article.cached.get(pk=1), Article)
    assert_type(await Article.cached.aget(pk=1), Article)
    assert_type(Article.cached.in_bulk([1]), dict[Any, Article])
    invalidate(Article, "front")
    invalidate(1)  # type: ignore[arg-type]


def writes_rows(rows: InvalidatingQuerySet[Article]) -> None:
    assert_type(rows.get(pk=1), Article)
    assert_type(rows.update(views=1), int)


async def writes_behind() -> None:
    assert_type(Article.behind, WriteBehindManager[Article])
    Article.behind.update(1, views=F("views") + 1)
    assert_type(Article.behind.get(1), Article)
    assert_type(await Article.behind.aget(1), Article)
    assert_type(Article.behind.create(pk=1), Article)
    assert_type(Article.behind.in_bulk([1]), dict[Any, Article])
    assert_type(uuid7(), UUID)
    assert_type(writebehind.dirty_partitions(), list[tuple[Partition, float]])
    assert_type(writebehind.node_faults(), list[str])
    assert_type(writebehind.drain(Partition("demo.article", 0)).rows, int)


def tests_itself() -> None:
    with assert_invalidates(Article, "front"):
        pass
    assert_invalidates(5)  # type: ignore[arg-type]
    with empty_ring(lease_on_get=True) as cache:
        assert_type(cache, RingCache)


def tells(error: RingCacheError) -> None:
    if isinstance(error, ConfigurationError):
        assert_type(error.faults, tuple[str, ...])
