"""Mutants of the near cache: each removes one line, and a named test must fail."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend import RingCache
from cachebackend.near import NearCache
from cachebackend.near import cache as near_cache
from cacheproject.services import Services
from tests.integration import test_near

cache = test_near.cache  # a fixture that those tests need
pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


def test_copy_without_a_valid_placeholder(cache: RingCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply that an invalidation overtook is stored as a copy."""

    def keep(self: NearCache, read: Any, *arguments: Any) -> None:
        self._placeholders[read.key] = read.placeholder
        real(self, read, *arguments)

    real = NearCache.keep
    monkeypatch.setattr(NearCache, "keep", keep)
    with pytest.raises(AssertionError):
        test_near.test_a_reply_that_an_invalidation_overtook_is_not_copied(cache, monkeypatch)


def test_own_write_without_dropping_the_copy(cache: RingCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process reads the old value after its own write, until the invalidation message arrives."""
    monkeypatch.setattr(type(cache.client.context), "drop_near", lambda *_: None)
    monkeypatch.setattr(NearCache, "drop", lambda *_: None)
    with pytest.raises(AssertionError):
        test_near.test_a_process_sees_its_own_writes_at_once(cache, "set")


def test_copies_of_a_node_that_is_down_are_not_dropped(
    cache: RingCache, monkeypatch: pytest.MonkeyPatch, services: Services
) -> None:
    """Its keys may change without an invalidation message."""
    never = property(lambda _: False, lambda *_: None)
    monkeypatch.setattr(near_cache._Tracking, "is_lost", never)  # tracking_lost itself is bound already
    with pytest.raises(AssertionError):
        test_near.test_the_copies_of_a_node_that_is_down_are_dropped(cache, services)


def test_copy_read_by_a_loader(cache: RingCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy from before an invalidation remains in the value that the loader makes."""
    monkeypatch.setattr(near_cache, "in_loader", lambda: False)
    with pytest.raises(AssertionError):
        test_near.test_a_loader_reads_past_the_copies(cache, monkeypatch, "get_or_set", "get")
