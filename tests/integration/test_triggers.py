"""Triggers: they record changes that Django does not see, and the relay deletes the keys."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from django.db import connection, transaction

from cachebackend import invalidation
from cachebackend.invalidation import triggers
from tests.integration.triggered import AUTHOR, POEM, author, outbox_rows
from tests.shop.models import Author, Poem, Sonnet

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


def test_raw_sql_from_another_program_is_invalidated(
    author: Author, program: psycopg.Connection[Any]
) -> None:
    """The row, its old lookup value, and the cached absence of its new lookup value."""
    with pytest.raises(Author.DoesNotExist):
        Author.cached.get(name="Psappho")
    program.execute(f"UPDATE {AUTHOR} SET name = 'Psappho' WHERE id = %s", [author.pk])
    assert Author.cached.get(name="Sappho").pk == author.pk
    relayed = invalidation.relay()  # at once: only the relay handles it
    assert (relayed.rows, relayed.pending) == (1, 0)
    assert Author.cached.get(name="Psappho").pk == author.pk
    assert Author.cached.get(pk=author.pk).name == "Psappho"
    with pytest.raises(Author.DoesNotExist):
        Author.cached.get(name="Sappho")


def test_a_statement_of_many_rows_writes_one_outbox_row(program: psycopg.Connection[Any]) -> None:
    """A very large statement writes a few rows of limited size; a statement without changes writes none."""
    insert = (
        f"INSERT INTO {AUTHOR} (name, code) SELECT 'n' || n, gen_random_uuid() FROM generate_series(1, %s) n"
    )
    program.execute(insert, [triggers.ROWS_PER_OUTBOX_ROW])
    program.execute(f"UPDATE {AUTHOR} SET name = name || 'x' WHERE name = 'nobody'")
    [(label, rows)] = outbox_rows()
    assert label == "shop.author"
    assert len(rows) == triggers.ROWS_PER_OUTBOX_ROW
    assert rows[0].keys() == {"id", "name", "code"}
    program.execute(f"DELETE FROM {AUTHOR}")
    program.execute(insert, [triggers.ROWS_PER_OUTBOX_ROW + 1])
    assert [len(rows) for _, rows in outbox_rows()[2:]] in ([1000, 1], [1, 1000])


def test_truncate_invalidates_the_rows_it_removes(author: Author, program: psycopg.Connection[Any]) -> None:
    """And the rows of the tables to which it cascades."""
    poem = Poem.objects.create(author=author, title="Ode")
    invalidation.relay()
    Poem.cached.get(pk=poem.pk)
    program.execute(f"TRUNCATE {AUTHOR} CASCADE")
    assert invalidation.relay().rows == 2
    for manager, pk in ((Author.cached, author.pk), (Poem.cached, poem.pk)):
        with pytest.raises(manager.model.DoesNotExist):
            manager.get(pk=pk)


def test_truncate_invalidates_rows_that_its_snapshot_does_not_have(
    author: Author, program: psycopg.Connection[Any]
) -> None:
    """Of a transaction that is not READ COMMITTED: then everything of the model is invalidated."""
    with program.transaction():
        program.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        program.execute("SELECT 1")
        late = Author.objects.create(name="Corinna")
        invalidation.relay()
        Author.cached.get(pk=late.pk)
        program.execute(f"TRUNCATE {AUTHOR} CASCADE")
    assert invalidation.relay().pending == 0
    for pk in (author.pk, late.pk):
        with pytest.raises(Author.DoesNotExist):
            Author.cached.get(pk=pk)


def test_truncate_invalidates_rows_that_a_policy_hides(author: Author) -> None:
    """Row-level security holds for the query of a trigger, and not for TRUNCATE."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("CREATE ROLE tenant")
            cursor.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO tenant")
            cursor.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO tenant")
            cursor.execute(f"ALTER TABLE {AUTHOR} ENABLE ROW LEVEL SECURITY")
            cursor.execute("SET LOCAL ROLE tenant")
            cursor.execute(f"TRUNCATE {AUTHOR} CASCADE")
            cursor.execute("RESET ROLE")
        with pytest.raises(Author.DoesNotExist):
            Author.cached.get(pk=author.pk)
        transaction.set_rollback(True)
    assert Author.cached.get(pk=author.pk) == author


def test_copy_invalidates_the_absence_of_the_rows_that_it_inserts(program: psycopg.Connection[Any]) -> None:
    """A cached absence is loaded again."""
    with pytest.raises(Author.DoesNotExist):
        Author.cached.get(name="Alcaeus")
    with program.cursor() as cursor, cursor.copy(f"COPY {AUTHOR} (name, code) FROM STDIN") as copy:
        copy.write_row(("Alcaeus", "9d1a44ba-5a5c-4a3c-8f43-8c3a0ed3a7a1"))
    invalidation.relay()
    assert Author.cached.get(name="Alcaeus").name == "Alcaeus"


def test_a_cascade_in_the_database_is_invalidated(author: Author, program: psycopg.Connection[Any]) -> None:
    """Django's foreign keys do not cascade in the database; those of other programs may."""
    poem = Poem.objects.create(author=author, title="Ode")
    invalidation.relay()
    Poem.cached.get(pk=poem.pk)
    with connection.cursor() as cursor:
        cursor.execute(
            f"ALTER TABLE {POEM} ADD CONSTRAINT cascading FOREIGN KEY (author_id) "
            f"REFERENCES {AUTHOR} (id) ON DELETE CASCADE"
        )
    try:
        program.execute(f"DELETE FROM {AUTHOR} WHERE id = %s", [author.pk])
        assert {label for label, _ in outbox_rows()} == {"shop.author", "shop.poem"}
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {POEM} DROP CONSTRAINT cascading")
    invalidation.relay()
    with pytest.raises(Poem.DoesNotExist):
        Poem.cached.get(pk=poem.pk)


def test_a_change_in_a_parents_table_invalidates_its_children(
    author: Author, program: psycopg.Connection[Any]
) -> None:
    """Multi-table inheritance."""
    sonnet = Sonnet.objects.create(author=author, title="18")
    invalidation.relay()
    assert Sonnet.cached.get(pk=sonnet.pk).title == "18"
    program.execute(f"UPDATE {POEM} SET title = '130' WHERE id = %s", [sonnet.pk])
    invalidation.relay()
    assert Sonnet.cached.get(pk=sonnet.pk).title == "130"


def test_another_search_path_does_not_lose_a_change(author: Author, program: psycopg.Connection[Any]) -> None:
    """The trigger finds the outbox in the schema of the changed table."""
    program.execute("SET search_path TO pg_catalog")
    program.execute(f"UPDATE public.{AUTHOR} SET name = 'Psappho' WHERE id = %s", [author.pk])
    assert invalidation.relay().rows == 1


@pytest.mark.own_connections
def test_a_prepared_transaction_is_relayed_after_its_commit(
    author: Author, program: psycopg.Connection[Any]
) -> None:
    """Its outbox row is committed with it. Postgres prepares none whose triggers have notified the relay."""
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="NOTIFY"), program.transaction():
        program.execute(f"UPDATE {AUTHOR} SET name = 'Psappho'")
        program.execute("PREPARE TRANSACTION 'refused'")
    program.execute("SET ringcache.notify = 'off'")
    program.execute("BEGIN")
    program.execute(f"UPDATE {AUTHOR} SET name = 'Psappho'")
    program.execute("PREPARE TRANSACTION 'two_phases'")
    try:
        assert invalidation.relay().rows == 0
        assert Author.cached.get(pk=author.pk).name == "Sappho"
    finally:
        program.execute("COMMIT PREPARED 'two_phases'")
    assert invalidation.relay().rows == 1
    assert Author.cached.get(pk=author.pk).name == "Psappho"


def test_a_rolled_back_statement_leaves_no_outbox_row(
    author: Author, program: psycopg.Connection[Any]
) -> None:
    """The outbox row belongs to the transaction."""
    with pytest.raises(ZeroDivisionError), program.transaction():
        program.execute(f"DELETE FROM {AUTHOR}")
        raise ZeroDivisionError
    assert outbox_rows() == []
