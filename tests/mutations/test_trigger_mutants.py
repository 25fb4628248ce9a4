"""Each line that the triggers' outbox rows rest on, taken out: a named test must notice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from cachebackend.invalidation import transactions, trigger_rows
from tests.integration import test_triggers
from tests.integration.test_triggers import author, other  # noqa: F401  # fixtures of the tests that must notice
from tests.mutations.test_mutants import is_caught
from tests.shop.models import Author

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
Patch = pytest.MonkeyPatch
Other = psycopg.Connection[Any]


def test_a_transaction_that_drops_what_triggers_wrote(author: Author, monkeypatch: Patch) -> None:  # noqa: F811
    """It is taken out of the outbox, and owed by nobody."""
    take = trigger_rows.take_trigger_rows

    def forget(using: str) -> Iterator[Any]:
        list(take(using))
        return iter(())

    monkeypatch.setattr(transactions, "take_trigger_rows", forget)
    test = test_triggers.test_raw_sql_in_a_transaction_that_django_noticed_is_acted_on_at_its_commit
    assert is_caught(test, author)


def test_a_save_that_drops_more_than_it_deleted(author: Author, other: Other, monkeypatch: Patch) -> None:  # noqa: F811
    """An outbox row that names another row, too, is dropped as if it did not."""
    find = trigger_rows.find_trigger_rows
    monkeypatch.setattr(transactions, "find_trigger_rows", lambda *given: (find(*given)[0], []))
    test = test_triggers.test_what_another_program_wrote_of_the_row_meanwhile_is_settled_with_it
    assert is_caught(test, author, other)
