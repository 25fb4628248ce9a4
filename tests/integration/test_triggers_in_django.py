"""Triggers within Django: its transactions take in their outbox rows, raw SQL is invalidated at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from psycopg import sql

from cachebackend import invalidation
from cachebackend.invalidation import trigger_rows
from cachebackend.models import OutboxRow
from tests.integration.triggered import AUTHOR, author
from tests.shop.models import Author, Poem, Sonnet
from tests.zoo.models import Desk, Label

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


def test_a_django_transaction_leaves_no_row_of_a_trigger(author: Author) -> None:
    """Its own outbox row takes in the rows of its triggers, and is deleted after the nodes confirm."""
    with transaction.atomic():
        author.name = "Psappho"
        author.save()
        with transaction.atomic():
            Poem.objects.create(author=author, title="Ode")
        assert OutboxRow.objects.count() == 2
    assert OutboxRow.objects.count() == 0
    assert Author.cached.get(pk=author.pk).name == "Psappho"


@pytest.fixture
def scribe() -> Iterator[None]:
    """A role that may read authors, and may write to a table that nobody caches."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE ROLE scribe; CREATE TABLE log (id serial, line text); "
            f"GRANT SELECT ON {AUTHOR} TO scribe; GRANT ALL ON log, log_id_seq TO scribe"
        )
        yield
        cursor.execute("DROP TABLE log; DROP OWNED BY scribe; DROP ROLE scribe")


@pytest.mark.usefixtures("scribe")
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO log (line) VALUES ('x')",
        "SELECT line FROM log FOR UPDATE",
        "SELECT nextval('log_id_seq')",
        "CREATE TEMPORARY TABLE page (line text) ON COMMIT DROP",
        "CREATE TEMPORARY TABLE page (line text) ON COMMIT DROP; SET TRANSACTION READ ONLY",
        "SET LOCAL search_path = pg_temp; CREATE TEMPORARY TABLE page (line text) ON COMMIT DROP",
    ],
)
def test_a_transaction_in_which_no_trigger_wrote_does_not_look_into_the_outbox(
    author: Author, statement: str
) -> None:
    """It has a transaction id, but needs no rights on the outbox. It may store what it reads."""
    Author.cached.cache.clear()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL ROLE scribe")
        cursor.execute(statement)
        if "search_path" not in statement:
            assert Author.cached.get(pk=author.pk) == author
    if "search_path" not in statement:
        with CaptureQueriesContext(connection) as captured:
            assert Author.cached.get(pk=author.pk) == author
        assert len(captured) == 0


@pytest.mark.parametrize("undone", [False, True])
def test_a_setting_of_the_transaction_says_whether_triggers_wrote(author: Author, undone: bool) -> None:
    """It is reverted with their rows, and taken back with a rollback of the savepoint that took them."""
    assert not trigger_rows.may_have_trigger_rows("default")
    with transaction.atomic():
        outer = connection.savepoint()
        with connection.cursor() as cursor:
            cursor.execute(f"UPDATE {AUTHOR} SET name = 'Psappho' WHERE id = %s", [author.pk])
        assert trigger_rows.may_have_trigger_rows("default")
        inner = connection.savepoint()
        assert list(trigger_rows.take_trigger_rows("default"))
        assert not trigger_rows.may_have_trigger_rows("default")
        transaction.savepoint_rollback(inner)
        assert trigger_rows.may_have_trigger_rows("default")
        if undone:
            transaction.savepoint_rollback(outer)
            assert not trigger_rows.may_have_trigger_rows("default")
    assert not trigger_rows.may_have_trigger_rows("default")
    assert Author.cached.get(pk=author.pk).name == ("Sappho" if undone else "Psappho")
    assert OutboxRow.objects.count() == 0


@pytest.mark.parametrize("reset", ["RESET ALL", sql.SQL("RESET ALL"), "SELECT 1; reset  all"])
@pytest.mark.parametrize("is_committed", [False, True])
def test_a_transaction_that_resets_its_settings_looks_into_the_outbox(
    author: Author, reset: Any, *, is_committed: bool
) -> None:
    """The setting in which its triggers said that they wrote is lost."""
    with suppress(ZeroDivisionError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE {AUTHOR} SET name = 'Psappho' WHERE id = %s", [author.pk])
        cursor.execute(reset)
        Author.cached.cache.clear()
        assert Author.cached.get(pk=author.pk).name == "Psappho"
        if not is_committed:
            raise ZeroDivisionError
    assert Author.cached.get(pk=author.pk).name == ("Psappho" if is_committed else "Sappho")
    assert OutboxRow.objects.count() == 0


def test_serializable_transactions_that_share_no_row_do_not_conflict() -> None:
    """A scan of the outbox would be a read of every outbox row that others write."""

    def insert_label() -> None:
        with transaction.atomic():
            cursor = connection.cursor()
            cursor.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            Label.objects.create(name="other")
        connection.close()

    with connection.cursor() as cursor:
        cursor.execute(f"VACUUM ANALYZE {OutboxRow._meta.db_table}")
        with transaction.atomic():
            cursor.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            Desk.objects.create(name="one")
            thread = threading.Thread(target=insert_label)
            thread.start()
            thread.join()
    assert (Desk.objects.count(), Label.objects.count()) == (1, 1)


def test_the_rows_of_triggers_of_an_earlier_release_are_left_to_the_relay(author: Author) -> None:
    """Such a trigger does not say in the session that it wrote."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE {AUTHOR} SET name = 'Psappho' WHERE id = %s", [author.pk])
        cursor.execute("SET LOCAL ringcache.wrote = ''")
    assert Author.cached.get(pk=author.pk).name == "Sappho"
    assert invalidation.relay().rows == 1
    assert Author.cached.get(pk=author.pk).name == "Psappho"


def test_a_save_in_autocommit_deletes_the_row_of_its_trigger(author: Author) -> None:
    """Also for a row that is spread over several tables; nothing remains for the relay."""
    author.name = "Psappho"
    author.save()
    sonnet = Sonnet.objects.create(author=author, title="18")
    assert OutboxRow.objects.count() == 0
    assert Author.cached.get(name="Psappho").pk == author.pk
    sonnet.delete()
    author.delete()
    assert OutboxRow.objects.count() == 0


def test_raw_sql_in_autocommit_is_invalidated_at_once(author: Author) -> None:
    """It runs in a transaction of its own, so the relay is not needed for it."""
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {AUTHOR} SET name = 'Psappho' WHERE id = %s RETURNING name", [author.pk])
        assert cursor.fetchall() == [("Psappho",)]
        assert cursor.rowcount == 1
    assert Author.cached.get(pk=author.pk).name == "Psappho"
    assert OutboxRow.objects.count() == 0
    with connection.cursor() as cursor:
        cursor.executemany(f"UPDATE {AUTHOR} SET name = %s WHERE id = %s", [("Sappho", author.pk)])
    assert Author.cached.get(pk=author.pk).name == "Sappho"


@pytest.mark.parametrize(
    "statement",
    [
        f"/* page */ UPDATE {AUTHOR} SET name = 'Psappho'",
        f"UPDATE {AUTHOR.upper()} SET name = 'Psappho'",
        f"SET lock_timeout = 0; UPDATE {AUTHOR} SET name = 'Psappho'",
        f"UPDATE {AUTHOR} SET name = 'Psappho'".encode(),
        sql.SQL("UPDATE {} SET name = 'Psappho'").format(sql.Identifier(AUTHOR)),
    ],
    ids=["comment", "upper case", "after SET", "bytes", "composed"],
)
def test_forms_of_raw_sql_in_autocommit(author: Author, statement: Any) -> None:
    """The relay is not needed for any of them."""
    with connection.cursor() as cursor:
        cursor.execute(statement)
    assert Author.cached.get(pk=author.pk).name == "Psappho"
    assert OutboxRow.objects.count() == 0


@pytest.mark.parametrize(
    "statement",
    [
        f"DO $$ BEGIN UPDATE {AUTHOR} SET name = 'Psappho'; COMMIT; END $$",
        f"WITH one AS (SELECT 1) SELECT name FROM {AUTHOR}",
        f"VACUUM {AUTHOR}",
    ],
)
def test_statements_that_must_not_be_in_a_transaction(author: Author, statement: str) -> None:
    """They run as they are; what they change waits for the relay."""
    with connection.cursor() as cursor:
        cursor.execute(statement)
    invalidation.relay()
    assert Author.cached.get(pk=author.pk).name == Author.objects.get(pk=author.pk).name


@pytest.mark.parametrize("alone", [False, True])
def test_raw_sql_in_a_django_transaction_is_invalidated_at_its_commit(author: Author, alone: bool) -> None:
    """The relay is not needed for it, and no other write."""
    with transaction.atomic():
        if not alone:
            Poem.objects.create(author=author, title="Ode")
        with connection.cursor() as cursor:
            cursor.execute(f"UPDATE {AUTHOR} SET name = 'Psappho' WHERE id = %s", [author.pk])
    assert Author.cached.get(pk=author.pk).name == "Psappho"
    assert OutboxRow.objects.count() == 0


@pytest.mark.parametrize("atomic", [False, True])
def test_raw_sql_quarantines_strict_keys(
    author: Author, monkeypatch: pytest.MonkeyPatch, atomic: bool
) -> None:
    """Before the commit, as other writes do."""
    monkeypatch.setattr(Author.cached, "is_strict", True)
    [key, *_] = Author.cached.keys_of([{"pk": author.pk}], "default")
    client = Author.cached.cache.client
    records: list[Any] = []
    commit = connection._commit

    def look_and_commit() -> None:
        records.append(client.nodes[client.ring.owner(key)].call((b"GET", key)))
        commit()

    monkeypatch.setattr(connection, "_commit", look_and_commit)
    with transaction.atomic() if atomic else nullcontext(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE {AUTHOR} SET name = 'Psappho' WHERE id = %s", [author.pk])
    assert records[0][:1] == b"Q"
