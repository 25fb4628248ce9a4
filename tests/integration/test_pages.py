"""Values that are made from cached rows: no write leaves one that was made from the old row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.db.models.functions import Now

from cachebackend import RingCache, cached, invalidation
from cachebackend.invalidation import deletes, pending_deletes
from cachebackend.invalidation.outbox import write_row
from cachebackend.invalidation.outbox_keys import keys_of_row, stored_rows
from cachebackend.models import OutboxRow
from cacheproject.demo.models import Article

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


@cached(timeout=600, tags=[Article, "front"])
def page(pk: int) -> str:
    return Article.cached.get(pk=pk).title


@pytest.fixture
def article() -> Article:
    """A row, which is cached."""
    article = Article.objects.create(slug="first", title="Old")
    Article.cached.get(slug="first")
    return article


def save(article: Article) -> None:
    article.title = "New"
    article.save()


def save_in_a_transaction(article: Article) -> None:
    with transaction.atomic():
        save(article)


def update(article: Article) -> None:
    Article.objects.filter(pk=article.pk).update(title="New")


def write_and_invalidate(article: Article) -> None:
    """Write past the managers, and invalidate the row and its model in one call."""
    Article._base_manager.filter(pk=article.pk).update(title="New")
    invalidation.invalidate("front", article)


def die_and_relay(article: Article) -> None:
    """Write, die after the commit, and let the relay delete the keys."""
    Article._base_manager.filter(pk=article.pk).update(title="New")
    cache = Article.cached.cache
    keys = {*Article.cached.keys_of([{"pk": article.pk}], "default"), cache.tag_bytes(Article)}
    write_row("default", {"default": keys})
    age_and_relay()


def age_and_relay() -> None:
    OutboxRow.objects.update(created=Now() - timedelta(seconds=5))
    invalidation.relay()


WRITES: tuple[Callable[[Article], object], ...] = (
    save,
    save_in_a_transaction,
    update,
    write_and_invalidate,
    die_and_relay,
)


@pytest.mark.parametrize("write", WRITES)
def test_a_page_made_between_the_deletes_is_not_stale(
    article: Article, ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch, write: Callable[[Article], Any]
) -> None:
    """After the delete of a tag no loader finds the old row, at whichever moment it runs."""
    delete_many = deletes.protocol.delete_many
    made: list[str] = []

    def delete_one_by_one(context: Any, keys: Sequence[bytes], **how: Any) -> Any:
        """Deletes of one scatter may arrive in any order: tags first, and a page is made after each."""
        unconfirmed = []
        for key in sorted(keys, key=lambda key: not key.endswith(b"\xff")):
            unconfirmed += yield from delete_many(context, [key], **how)
            made.append(page(article.pk))
        return unconfirmed

    assert page(article.pk) == "Old"
    monkeypatch.setattr(deletes.protocol, "delete_many", delete_one_by_one)
    write(article)
    monkeypatch.undo()
    assert len(made) >= 2
    assert page(article.pk) == "New"


def test_a_tag_is_invalidated_by_the_commit_of_each_open_transaction(ring_cache: RingCache) -> None:
    """A string says nothing about the database that was written."""
    with transaction.atomic(using="lite"):
        ring_cache.get_or_set("k", lambda: "of before", tags=["front"])
        invalidation.invalidate("front")
        assert ring_cache.get("k") is None
        ring_cache.get_or_set("k", lambda: "still of before", tags=["front"])
    assert ring_cache.get("k") is None


def test_rows_that_are_invalidated_by_hand_are_in_the_outbox(
    article: Article, ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one row with the tags of the call: a crash, or a node that does not answer, loses no delete."""

    def refuse(*_: Any) -> Any:
        return {"default": {b"unconfirmed"}}

    monkeypatch.setattr(pending_deletes.PendingDeletes, "delete", refuse)
    invalidation.invalidate(article, "front")
    [row] = stored_rows("default")
    keys = keys_of_row(row)["default"]
    assert keys >= set(Article.cached.keys_of([{"pk": article.pk, "slug": "first"}], "default"))
    assert keys >= {ring_cache.tag_bytes(each) for each in ("front", Article, article)}
    monkeypatch.undo()
    age_and_relay()
    assert OutboxRow.objects.count() == 0
