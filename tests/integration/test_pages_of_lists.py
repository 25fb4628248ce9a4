"""A value that a loader makes from a cached list: its model's tag is deleted after the list's tags.

A reader comes between the deletes of one scatter, which the nodes run in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection

from cachebackend import RingCache, invalidate
from cachebackend.invalidation import deletes, pending_deletes
from cachebackend.invalidation.relay import relay
from cachebackend.models import OutboxRow
from tests.zoo.models import Author, Poem

pytestmark = [pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def author() -> Author:
    """The author of a poem."""
    author = Author.objects.create(name="a")
    Poem.objects.create(name="old", author=author)
    return author


def page(cache: RingCache) -> Any:
    """Return a page that is made from a cached list, under the tag of the model."""
    return cache.get_or_set("page", lambda: list(Poem.cached.values_list("name", flat=True)), tags=[Poem])


@pytest.fixture
def cache(ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch) -> RingCache:
    """The cache. Between the delete of the model's tag and the others of its scatter, the page is read."""
    scatter: Callable[..., list[bytes]] = deletes._scatter
    [tag] = ring_cache.many_tag_bytes([deletes_tag(ring_cache)])

    def in_steps(each: RingCache, keys: Any, *args: Any) -> list[bytes]:
        first = [key for key in keys if key == tag]
        missed = scatter(each, first) if first else []
        if first:
            page(ring_cache)
        return missed + scatter(each, [key for key in keys if key != tag], *args)

    page(ring_cache)
    monkeypatch.setattr(deletes, "_scatter", in_steps)
    return ring_cache


def deletes_tag(cache: RingCache) -> str:
    """Return the name of the model's tag."""
    from cachebackend.backend.scope import scope_of
    from cachebackend.backend.tag_names import model_tag_name

    return model_tag_name(Poem, scope_of("default"))


def save(author: Author) -> None:
    Poem.objects.create(name="new", author=author)


def raw(author: Author) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {Poem._meta.db_table} SET name = 'new'")
    invalidate(Poem)


@pytest.mark.parametrize("write", [save, raw])
def test_a_page_is_not_made_from_an_old_list_under_a_new_tag(
    cache: RingCache, author: Author, write: Callable[[Author], None]
) -> None:
    """The writer deletes what makes the list wrong first, also if it does not know what changed."""
    write(author)
    assert "new" in page(cache)


@pytest.mark.parametrize("write", [save, raw])
def test_the_relay_deletes_in_the_same_order(
    cache: RingCache, author: Author, write: Callable[[Author], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer died after its commit."""
    with monkeypatch.context() as patch:
        patch.setattr(pending_deletes.PendingDeletes, "delete", lambda _: {"default": {b""}})
        write(author)
    OutboxRow.objects.update(created="2020-01-01T00:00:00Z")
    assert relay().pending == 0
    assert "new" in page(cache)
