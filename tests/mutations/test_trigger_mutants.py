"""Mutants of the triggers' outbox rows: each removes one line, and a named test must fail."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.core.cache import cache
from django.db import OperationalError

from cachebackend.invalidation import outbox_keys, row_texts, transactions, trigger_rows
from tests.integration import test_trigger_results, test_triggers_and_values, test_triggers_in_django
from tests.integration.results import Pages
from tests.integration.test_trigger_results import pages, samples  # noqa: F401  # fixtures of those tests
from tests.integration.triggered import author  # noqa: F401  # a fixture that those tests need
from tests.mutations.test_mutants import is_caught
from tests.shop.models import Author
from tests.unit.invalidation import test_row_texts

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
Patch = pytest.MonkeyPatch
Program = psycopg.Connection[Any]


def test_a_transaction_that_loses_the_rows_of_triggers(author: Author, monkeypatch: Patch) -> None:  # noqa: F811
    """They are deleted from the outbox, and no other row has their keys."""
    take = trigger_rows.take_trigger_rows

    def forget(using: str, *, leave: bool) -> Iterator[Any]:
        list(take(using, leave=leave))
        return iter(())

    monkeypatch.setattr(transactions, "take_trigger_rows", forget)
    test = test_triggers_in_django.test_raw_sql_in_a_django_transaction_is_invalidated_at_its_commit
    assert is_caught(test, author, False)


def test_a_transaction_that_looks_into_the_outbox_although_no_trigger_wrote(monkeypatch: Patch) -> None:
    """SERIALIZABLE transactions conflict then."""
    monkeypatch.setattr(transactions, "may_have_trigger_rows", lambda _: True)
    with pytest.raises(OperationalError, match="could not serialize access"):
        test_triggers_in_django.test_serializable_transactions_that_share_no_row_do_not_conflict()


def test_rows_of_triggers_that_stay_announced(author: Author, monkeypatch: Patch) -> None:  # noqa: F811
    """Every further read then looks into the outbox."""
    monkeypatch.setattr(trigger_rows, "WROTE", "ringcache.other")
    test = test_triggers_in_django.test_a_setting_of_the_transaction_says_whether_triggers_wrote
    assert is_caught(test, author, False)


def test_a_relay_that_reads_all_rows_or_none(
    author: Author,  # noqa: F811
    program: Program,
    monkeypatch: Patch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One row that cannot be processed then stops the relay of the database."""
    relay = sys.modules["cachebackend.invalidation.relay"]  # the package exports the function of this name
    monkeypatch.setattr(relay, "_read", lambda row: relay.RowKeys(outbox_keys.keys_of_row(row)))
    test = test_triggers_and_values.test_an_outbox_row_that_cannot_be_processed_does_not_delay_the_others
    with monkeypatch.context() as inner:
        assert is_caught(test, author, program, inner, caplog)


def test_an_unreadable_value_that_counts_as_null(monkeypatch: Patch) -> None:
    """A result that is bound to another value remains, although the row may have that value."""
    monkeypatch.setattr(row_texts, "_is_readable", lambda name, _, text: name in text)
    test = test_trigger_results.test_a_value_that_python_cannot_read_has_no_digest
    assert is_caught(test, "at", "infinity")


def test_a_list_of_columns_that_is_believed_of_any_trigger(
    pages: Pages,  # noqa: F811
    monkeypatch: Patch,
) -> None:
    """The trigger does not compare a column that a later migration has added."""
    monkeypatch.setattr(row_texts, "changed_member", lambda _: "changed of 00000000")
    assert is_caught(test_trigger_results.test_a_column_that_a_trigger_does_not_know, pages)
    pages.read()


def test_columns_of_other_models_that_are_forgotten(monkeypatch: Patch) -> None:
    """The trigger of one model does not compare them, and queries of another model depend on them."""
    monkeypatch.setattr(row_texts, "bindable_fields", lambda *_: ())
    monkeypatch.setattr(row_texts, "_columns_of_others", lambda _: frozenset())
    test = test_row_texts.test_columns_of_other_models_of_the_table_may_have_changed
    with monkeypatch.context() as inner:
        assert is_caught(test, inner)


def test_states_of_which_the_last_is_lost(
    pages: Pages,  # noqa: F811
    program: Program,
    monkeypatch: Patch,
) -> None:
    """A list that the row has left, or one that it has entered, remains."""
    changes = row_texts.value_changes
    monkeypatch.setattr(trigger_rows, "value_changes", lambda *arguments: [*changes(*arguments)][:-1])
    assert is_caught(test_trigger_results.test_raw_sql_of_another_program, "a group", pages, program)
    cache.clear()
    pages.read()
