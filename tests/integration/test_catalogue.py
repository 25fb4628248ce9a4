"""What Postgres says of tables."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from cachebackend.backend.collations import _exact, inexact_column
from cachebackend.invalidation.catalogue import (
    TableCatalogue,
    bindable_fields,
    catalogue_of,
    forget_catalogues,
)
from tests.zoo.models import FAMILIES, Poem, Sum

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(databases=["default", "lite"])]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    forget_catalogues()
    yield
    forget_catalogues()


def catalogue(*statements: str) -> TableCatalogue:
    """Return the catalogue of the table ``t`` after some statements."""
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    return catalogue_of("t", "default")


def test_columns_are_bound_whose_types_and_collations_are_exact() -> None:
    """Floats, JSON, intervals, char(n), decimals without a scale, texts of any length or case, are not."""
    found = catalogue(
        # The server may have been built without ICU, whose collations alone ignore case
        'CREATE COLLATION lax FROM "C"',
        "UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'lax'",
        """CREATE TABLE t (a int, b varchar(9), c text, d numeric(9, 2), e date, f timestamptz, g uuid,
            h bool, i float8, j jsonb, k interval, l char(3), m timestamp, n int[],
            o varchar(9) COLLATE lax, p varchar, q numeric)""",
    )
    assert found.kinds == {
        "a": "integer", "b": "text", "d": "decimal", "e": "date", "f": "moment", "g": "uuid",
        "h": "boolean",
    }  # fmt: skip
    assert found == TableCatalogue(kinds=found.kinds, is_table=True, may_change_other_rows=False)


def test_generated_columns_are_found() -> None:
    """A statement that names another column changes them."""
    assert catalogue_of(Sum._meta.db_table, "default").generated == {"twice"}


def test_a_trigger_before_a_row_is_found_and_one_after_it_is_not() -> None:
    """Only the first kind changes columns of the row that is written."""
    function = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
    after = "CREATE TRIGGER g AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()"
    assert not catalogue("CREATE TABLE t (a int)", function, after).has_before_row_triggers
    forget_catalogues()
    assert catalogue(
        after.replace("AFTER", "BEFORE").replace("TRIGGER g", "TRIGGER h")
    ).has_before_row_triggers


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE t (a int) PARTITION BY RANGE (a)"],
        ["CREATE TABLE p (a int) PARTITION BY RANGE (a)", "CREATE TABLE t PARTITION OF p DEFAULT"],
        ["CREATE TABLE t (a int)", "CREATE TABLE child () INHERITS (t)"],
        ["CREATE TABLE p (a int)", "CREATE TABLE t () INHERITS (p)"],
    ],
)
def test_partitions_and_inheritance_are_found(statements: list[str]) -> None:
    """A write to one table changes rows of another."""
    assert catalogue(*statements).is_partition_or_inherits


def test_row_security_is_found() -> None:
    """Two roles see different rows."""
    assert catalogue("CREATE TABLE t (a int)", "ALTER TABLE t ENABLE ROW LEVEL SECURITY").has_row_security


@pytest.mark.parametrize("rule", ["ON DELETE CASCADE", "ON DELETE SET NULL", "ON UPDATE CASCADE"])
def test_a_table_that_cascades_change_is_found(rule: str) -> None:
    """The database itself changes its rows. The table that it refers to is written by statements alone."""
    parent = "CREATE TABLE p (id int PRIMARY KEY)"
    assert catalogue(parent, f"CREATE TABLE t (a int REFERENCES p (id) {rule})").is_changed_by_cascade
    assert not catalogue_of("p", "default").is_changed_by_cascade
    assert not catalogue_of(Poem._meta.db_table, "default").is_changed_by_cascade  # Django cascades


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW t AS SELECT 1 AS a",
        "CREATE MATERIALIZED VIEW t AS SELECT 1 AS a",
        "CREATE UNLOGGED TABLE t (a int)",
        "CREATE TEMPORARY TABLE t (a int)",
    ],
)
def test_only_permanent_tables_are_tables(statement: str) -> None:
    """Views show rows of others, and what is not logged is lost in a crash."""
    assert not catalogue(statement).is_table


def test_a_table_with_a_rewrite_rule_is_not_a_table() -> None:
    """Its rules may write anything instead."""
    rule = "CREATE RULE r AS ON UPDATE TO t DO INSTEAD NOTHING"
    assert not catalogue("CREATE TABLE t (a int)", rule).is_table


def test_what_django_makes_is_bound() -> None:
    """Columns of a model on Postgres and on SQLite, without those that fields or types exclude."""
    for using in ("default", "lite"):
        names = {field.name for field in bindable_fields(Poem, using)}
        assert names == {"id", "name", "rank", "author"}
    by_model = {
        model.__name__: {field.name for field in bindable_fields(model, "default")}
        for model in (*FAMILIES["values"], *FAMILIES["columns"])
    }
    assert by_model["Bill"] == {"name", "rank"}
    assert by_model["Moment"] == {"id", "name", "rank", "at", "day", "amount"}
    assert by_model["Stock"] == {"shop", "sku", "rank"}
    assert by_model["Sum"] == {"id", "rank", "twice", "made"}
    assert by_model["Word"] == {"rank"}


def test_a_table_of_another_schema_is_found_by_its_quoted_name() -> None:
    """Django takes such a name as it is."""
    catalogue("CREATE SCHEMA s", "CREATE TABLE s.u (a int)")
    assert catalogue_of('"s"."u"', "default").bindable == {"a"}


def test_what_a_transaction_with_a_search_path_of_its_own_finds_is_not_remembered() -> None:
    """A table of the same name in another schema may have other columns and triggers."""
    table = Poem._meta.db_table
    with connection.cursor() as cursor, transaction.atomic():
        cursor.execute(f"CREATE SCHEMA other; CREATE TABLE other.{table} (name text)")
        cursor.execute("SET LOCAL search_path = other, public")
        assert catalogue_of(table, "default").bindable == set()
        assert bindable_fields(Poem, "default") == ()
        transaction.set_rollback(True)
    assert {field.name for field in bindable_fields(Poem, "default")} == {"id", "name", "rank", "author"}


def test_a_transaction_with_a_setting_of_its_own_reads_each_table_once() -> None:
    """Until it makes another setting, or rolls one back. Each statement would run the same query again."""
    table, field = Poem._meta.db_table, Poem._meta.get_field("name")
    forget_catalogues()
    _exact.clear()

    def queries() -> int:
        with CaptureQueriesContext(connection) as queries:
            for _ in range(3):
                catalogue_of(table, "default")
                inexact_column(field, "default")
        return len(queries)

    with connection.cursor() as cursor, transaction.atomic():
        cursor.execute("SET LOCAL search_path = public")
        assert (queries(), queries()) == (2, 0)
        cursor.execute("SAVEPOINT before")
        cursor.execute("SET LOCAL TimeZone = 'UTC'")
        assert queries() == 2
        cursor.execute("ROLLBACK TO before")
        assert (queries(), queries()) == (2, 0)
