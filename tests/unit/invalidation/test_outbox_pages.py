"""Pages of outbox rows."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.invalidation import outbox_pages
from cachebackend.invalidation.outbox_keys import MAX_ROW_BYTES
from cachebackend.invalidation.outbox_pages import PAGE_BYTES, page_keys


class Rows:
    """Rows of some sizes; the first one has the primary key 1."""

    def __init__(self, *sizes: int) -> None:
        self._sizes = sizes

    def values_list(self, *_: str) -> list[tuple[int, int]]:
        return list(enumerate(self._sizes, 1))


HALF = PAGE_BYTES // 2
assert HALF <= MAX_ROW_BYTES


@pytest.mark.parametrize(
    ("sizes", "keys"),
    [
        ((), []),
        ((HALF, HALF, 1), [1, 2]),
        ((1, HALF, HALF), [1, 2]),
        ((MAX_ROW_BYTES + 1, HALF, HALF), [1, 2, 3]),
    ],
)
def test_a_page_has_the_first_rows_that_fit(sizes: tuple[int, ...], keys: list[int]) -> None:
    """At least one row; a row that is too long to be fetched takes no room."""
    rows: Any = Rows(*sizes)
    assert page_keys(rows) == keys


def test_a_page_has_a_most_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short rows too are locked by one transaction."""
    monkeypatch.setattr(outbox_pages, "ROWS_PER_PAGE", 2)
    rows: Any = Rows(1, 1, 1)
    assert page_keys(rows) == [1, 2]
