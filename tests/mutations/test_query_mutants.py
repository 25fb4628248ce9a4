"""Mutants of what results of queries depend on, and of what writes do to them; a named test catches each."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend import RingCache
from cachebackend.invalidation import outbox, query_changes, stored_keys
from cachebackend.protocol.cache import shapes
from cachebackend.queries import binding, dependencies, evaluation
from tests.integration import test_cached_querysets, test_query_changes, test_query_results
from tests.integration.test_query_changes import Results, authors, cache, poems, results, watched
from tests.mutations.test_mutants import is_caught
from tests.unit.queries import test_binding, test_dependencies
from tests.unit.queries.compiled import catalogues
from tests.zoo.models import Poem

__all__ = ["authors", "cache", "catalogues", "poems", "results", "watched"]

Patch = pytest.MonkeyPatch


@pytest.mark.usefixtures("catalogues")
class TestDependencies:
    """Mutants of what a query depends on."""

    def test_null_bound_across_an_outer_join(self, monkeypatch: Patch) -> None:
        """A new row ends an absence, and has not the digest of NULL."""
        monkeypatch.setattr(binding, "_may_be_absent", lambda *_: False)
        assert is_caught(test_binding.test_null_is_bound_where_no_outer_join_is)

    def test_one_shape_for_each_table(self, monkeypatch: Patch) -> None:
        """The second alias of a table binds other values."""
        read = dependencies._Dependencies.read

        def first_of_each_table(self: Any) -> Any:
            return list({each.table: each for each in reversed(read(self))}.values())

        monkeypatch.setattr(dependencies._Dependencies, "read", first_of_each_table)
        assert is_caught(test_dependencies.test_two_aliases_with_other_values_are_two_dependencies)

    def test_generated_columns_left_out(self, monkeypatch: Patch) -> None:
        """The result depends on the column alone, and not on those that it is made of."""
        monkeypatch.setattr(dependencies._Dependencies, "_columns", lambda _, __, ___, named: set(named))
        assert is_caught(test_dependencies.test_a_generated_column_depends_on_its_sources)


@pytest.mark.django_db(transaction=True, databases=["default", "lite"])
class TestWrites:
    """Mutants of what a write does to results."""

    def test_old_values_from_the_instance(
        self, cache: RingCache, poems: list[Poem], monkeypatch: Patch
    ) -> None:
        """A change has the values that the saved instance was loaded with."""
        value_change = query_changes._value_change

        def of_instance(row: Any, *arguments: Any, **options: Any) -> Any:
            old = None if row.old is None else {**row.old, "rank": 0}
            return value_change(row._replace(old=old), *arguments, **options)

        monkeypatch.setattr(query_changes, "_value_change", of_instance)
        assert is_caught(test_query_changes.test_old_values_are_those_of_the_database, cache, poems)

    def test_changes_dropped_from_the_outbox_row(
        self, results: Results, poems: list[Poem], monkeypatch: Patch
    ) -> None:
        """The row has the keys of rows alone."""
        pack = stored_keys.pack_keys

        def without_changes(keys: Any) -> bytes:
            return pack({alias: group - stored_keys.special_keys(group) for alias, group in keys.items()})

        monkeypatch.setattr(outbox, "pack_keys", without_changes)
        test = test_query_changes.test_the_relay_deletes_the_tags_of_a_transaction_whose_writer_died
        with monkeypatch.context() as inner:
            assert is_caught(test, results, poems, inner)

    def test_changes_not_replayed_to_a_node_that_returns(
        self, results: Results, cache: RingCache, poems: list[Poem], monkeypatch: Patch
    ) -> None:
        """It gets the keys of rows alone."""
        monkeypatch.setattr(outbox, "wrong_keys_at", lambda *_: set())
        test = test_query_changes.test_a_node_that_returns_gets_the_deletes_of_tags_of_pending_changes
        with monkeypatch.context() as inner:
            assert is_caught(test, results, cache, poems, inner)

    def test_a_transaction_that_reads_results_of_tables_that_it_changed(
        self, cache: RingCache, monkeypatch: Patch
    ) -> None:
        """It does not see its own changes."""
        monkeypatch.setattr(evaluation, "has_changed_tables", lambda *_: False)
        poems = self._poems()
        assert is_caught(test_cached_querysets.test_a_transaction_sees_its_own_changes, poems)

    def test_a_shard_without_a_limit(self, cache: RingCache, monkeypatch: Patch) -> None:
        """A table with ever new forms of queries fills a node, and its writers read all of them."""
        monkeypatch.setattr(shapes, "MAX_SHAPES", 10**6)
        test = test_query_results.test_a_full_shard_takes_no_shape_except_the_general_one
        assert is_caught(test, cache)

    @staticmethod
    def _poems() -> list[Poem]:
        made: Any = test_cached_querysets
        return list(made.poems.__wrapped__(made.authors.__wrapped__()))
