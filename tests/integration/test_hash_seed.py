"""The secret seed of the hash: clients with the same seed find each other's keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings

from cachebackend import RingCache
from cachebackend.protocol.ring.clear import delete_misplaced
from cacheproject.services import Services

pytestmark = [pytest.mark.ring_of_nodes, pytest.mark.usefixtures("empty_nodes")]
KEYS = {f"k{n}": n for n in range(60)}
CacheOf = Callable[..., RingCache]


@pytest.fixture
def cache_of(services: Services) -> Iterator[CacheOf]:
    """Return caches of the default alias with other options; each set of options has its own client."""
    caches = []

    def cache_of(**options: Any) -> RingCache:
        block = settings.CACHES["default"]
        options = block.get("OPTIONS", {}) | options
        caches.append(RingCache(services.ring_urls, {**block, "OPTIONS": options}))
        return caches[-1]

    yield cache_of
    for cache in caches:
        cache.client.close()


def test_clients_with_the_same_seed_find_each_others_keys(cache_of: CacheOf) -> None:
    """Both ways, with one key and with many; a number is the same secret as its digits."""
    one, other = cache_of(hash_seed="7"), cache_of(hash_seed=7)
    assert one.client is not other.client
    one.set_many(KEYS)
    assert other.get_many(KEYS) == KEYS
    assert {key: other.get(key) for key in KEYS} == KEYS
    other.delete_many(KEYS)
    assert one.get_many(KEYS) == {}


def test_a_client_with_another_seed_misses_nearly_all_keys(cache_of: CacheOf) -> None:
    """As after a change of ``KEY_PREFIX``: only keys whose owner is the same by chance are found."""
    cache_of(hash_seed="one").set_many(KEYS)
    for other in (cache_of(hash_seed="another"), cache_of()):
        assert len(other.get_many(KEYS)) < len(KEYS) / 2


def test_a_cleanup_deletes_the_keys_of_another_seed(cache_of: CacheOf) -> None:
    """The nodes hold them and do not own them any more, so a later return to the old seed finds none."""
    old, new = cache_of(hash_seed="old"), cache_of(hash_seed="new")
    old.set_many(KEYS)
    left = new.get_many(KEYS)
    context, pattern = new.client.context, new.pattern
    deleted = new.client.run(delete_misplaced(context, pattern, delete=True, progress=lambda _: None))
    assert deleted == len(KEYS) - len(left)
    assert old.get_many(KEYS) == left
