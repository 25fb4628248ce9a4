"""Mutants of what a drain says of its rows to the results of queries; a named test catches each."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.invalidation import old_rows
from cachebackend.invalidation.columns import ReadColumns
from cachebackend.invalidation.written_rows import WrittenRows
from cacheproject.demo.models import Article
from tests.integration import test_writebehind_results as tests
from tests.integration.results import Pages
from tests.integration.test_writebehind_results import articles, pages
from tests.mutations.test_mutants import is_caught

__all__ = ["articles", "pages"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes", "ring_cache")]
Patch = pytest.MonkeyPatch


def test_old_values_that_are_taken_for_the_new_ones(
    articles: list[Article],
    pages: Pages,
    monkeypatch: Patch,
) -> None:
    """The results that the row has left stay."""
    monkeypatch.setattr(WrittenRows, "needs_old", lambda *_: False)
    test = tests.test_a_changed_counter_leaves_the_results_that_do_not_depend_on_it
    assert is_caught(test, articles, pages, old_rows.POSTGRES_18, monkeypatch)


def test_changed_columns_that_are_left_out(
    articles: list[Article],
    pages: Pages,
    monkeypatch: Patch,
) -> None:
    """No result depends on a change of no column."""
    monkeypatch.setattr(ReadColumns, "differing", lambda *_: frozenset())
    test = tests.test_many_rows_make_every_result_wrong_that_depends_on_their_columns
    assert is_caught(test, articles, pages, old_rows.POSTGRES_18, monkeypatch)


@pytest.mark.parametrize("kind", ["inserted", "deleted"])
def test_rows_that_are_forgotten(
    articles: list[Article],
    pages: Pages,
    kind: str,
    monkeypatch: Patch,
) -> None:
    """A row that is created or deleted changes results, too."""

    def forget(*_: Any) -> list[Any]:
        return []

    monkeypatch.setattr(WrittenRows, kind, forget)
    assert is_caught(
        tests.test_a_created_and_a_deleted_row_are_in_the_results_with_their_values, articles, pages
    )


def test_a_value_that_cannot_be_read_is_an_error(
    articles: list[Article],
    pages: Pages,
    monkeypatch: Patch,
) -> None:
    """The rows of which one value cannot be read are taken for no rows."""
    monkeypatch.setattr(WrittenRows, "_read", lambda _, rows: [] if rows.error else list(rows.rows))
    test = tests.test_a_value_that_python_cannot_read_makes_everything_of_the_table_wrong
    assert is_caught(test, articles, pages, old_rows.POSTGRES_18, monkeypatch)
