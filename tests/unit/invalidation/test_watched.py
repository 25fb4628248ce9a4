"""Which models' rows are part of which others."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.invalidation.watched import shares_rows
from tests.shop.models import Author, Book, Poem, Product, SaleProduct, Sonnet


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (Product, Product, True),
        (SaleProduct, Product, True),
        (Book, Product, True),
        (Product, Book, True),
        (Book, SaleProduct, True),
        (Poem, Sonnet, True),
        (Product, Poem, False),
        (Author, Poem, False),
    ],
)
def test_rows_are_shared_with_parents_children_and_proxies(one: Any, other: Any, expected: bool) -> None:
    """A row of a child is a row of its parents too; a foreign key shares nothing."""
    assert shares_rows(one, other) is expected
