"""What tests of triggers share: a cached row, and the rows of the outbox."""

from __future__ import annotations

import pytest

from cachebackend import invalidation
from cachebackend.models import OutboxRow
from tests.shop.models import Author, Poem

__all__ = ["AUTHOR", "POEM", "author", "outbox_rows"]

AUTHOR, POEM = Author._meta.db_table, Poem._meta.db_table


@pytest.fixture
def author() -> Author:
    """A row that is cached by its primary key and by a lookup."""
    author = Author.objects.create(name="Sappho")
    invalidation.relay()
    Author.cached.get(pk=author.pk)
    Author.cached.get(name="Sappho")
    return author


def outbox_rows() -> list[tuple[str, list[dict[str, str]]]]:
    return [(row.label, row.rows) for row in OutboxRow.objects.order_by("pk")]
