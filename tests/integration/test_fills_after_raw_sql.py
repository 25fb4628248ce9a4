"""What raw SQL, the driver, functions and COPY have changed is not stored, nor is an old value returned."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from django.db import connection, transaction

from cachebackend.models import OutboxRow
from tests.integration.fill_readers import (
    AUTHOR,
    Read,
    RolledBackError,
    assert_all_read,
    author,
    elsewhere,
    functions,
    has_tags,
    lease_on_get,
    raw_rename,
    read,
    reader,
    ring,
    with_postgres,
)
from tests.shop.models import Author
from tests.zoo.models import Seat

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes", "lease_on_get"),
]


@with_postgres
def test_what_raw_sql_has_changed_is_not_stored(author: Author, reader: Any, read: Read) -> None:
    """If the table has triggers. The transaction reads its own change, also if the old value is cached."""
    if has_tags(reader):
        read(author)
    with pytest.raises(RolledBackError), transaction.atomic():
        raw_rename(author, "Lost")
        assert read(author) == "Lost"
        assert elsewhere(lambda: read(author)) == "First"
        raise RolledBackError
    assert_all_read(read, author, "First")


def get_and_set() -> Any:
    """Read the name of a seat through an alias whose misses acquire leases."""
    cache = ring("leasing")
    name = cache.get("name")
    if name is None:
        cache.set("name", name := Seat.objects.get(pk=1).name)
    return name


READS_OF_SEATS: dict[str, Callable[[], Any]] = {
    "row": lambda: Seat.cached.get(pk=1).name,
    "exists": lambda: Seat.cached.filter(name="First").exists(),
    "values": lambda: list(Seat.cached.values_list("name", flat=True)),
    "rows": lambda: [seat.name for seat in Seat.cached.all()],
    "count": lambda: Seat.cached.filter(name="Lost").count(),
    "get_or_set": lambda: ring().get_or_set("name", lambda: Seat.objects.get(pk=1).name),
    "get_or_set_many": lambda: ring().get_or_set_many(
        ["name"], lambda keys: {key: Seat.objects.get(pk=1).name for key in keys}
    ),
    "set": get_and_set,
}


@pytest.mark.parametrize("read", READS_OF_SEATS.values(), ids=READS_OF_SEATS)
@pytest.mark.parametrize("is_whole", [False, True], ids=["savepoint", "transaction"])
def test_what_raw_sql_has_changed_without_triggers_is_not_stored(
    read: Callable[[], Any], is_whole: bool
) -> None:
    """Nothing says which rows it has changed, so the transaction stores none, also not under a savepoint."""
    Seat.objects.create(pk=1, hall=1, name="First")
    with nullcontext() if is_whole else transaction.atomic():
        with pytest.raises(RolledBackError), transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(f"UPDATE {Seat._meta.db_table} SET name = 'Lost' WHERE id = 1")
            lost = read()
            raise RolledBackError
        assert read() != lost
    assert read() != lost


@with_postgres
def test_a_savepoint_does_not_hide_what_raw_sql_changed_before_it(
    author: Author, reader: Any, read: Read
) -> None:
    """The rollback of the savepoint in which the change was noticed leaves the change itself."""
    if has_tags(reader):
        read(author)
    with pytest.raises(RolledBackError), transaction.atomic():
        raw_rename(author, "Lost")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            read(author)
            raise ZeroDivisionError
        assert read(author) == "Lost"
        raise RolledBackError
    assert_all_read(read, author, "First")


@with_postgres
def test_a_savepoint_of_the_same_name_hides_no_changes(author: Author, reader: Any, read: Read) -> None:
    """As in an import that makes one for each row: a rollback to the last one leaves the first row."""
    if has_tags(reader):
        read(author)
    with pytest.raises(RolledBackError), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SAVEPOINT row_of_import")
            raw_rename(author, "Lost")
            cursor.execute("SAVEPOINT row_of_import")
            cursor.execute("ROLLBACK TO SAVEPOINT row_of_import")
        assert read(author) == "Lost"
        raise RolledBackError
    assert_all_read(read, author, "First")


@with_postgres
def test_raw_sql_in_a_read_only_transaction(author: Author, reader: Any, read: Read) -> None:
    """The question for the rows of triggers writes nothing, so it does not fail."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
            cursor.execute("SELECT now()")
        assert read(author) == "First"
    assert_all_read(read, author, "First")


@with_postgres
def test_a_temporary_table_in_a_read_only_transaction(author: Author, reader: Any, read: Read) -> None:
    """Its rows give the transaction an id, but no row of a trigger is deleted: Postgres would refuse that."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE IF NOT EXISTS numbers (number int)")
            cursor.execute("SET TRANSACTION READ ONLY")
            cursor.execute("INSERT INTO numbers VALUES (1)")
        assert read(author) == "First"
    assert_all_read(read, author, "First")


def rename_by_query(author: Author) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM rename(%s, 'Lost')", [author.pk])


def rename_by_callproc(author: Author) -> None:
    with connection.cursor() as cursor:
        cursor.callproc("rename", [author.pk, "Lost"])


def rename_after_set(author: Author) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SET LOCAL lock_timeout = 0; UPDATE {AUTHOR} SET name = 'Lost' WHERE id = {author.pk}"
        )


def rename_by_driver(author: Author) -> None:
    connection.connection.execute(f"UPDATE {AUTHOR} SET name = 'Lost' WHERE id = %s", [author.pk])


def rename_by_stream(author: Author) -> None:
    with connection.cursor() as cursor:
        list(cursor.stream("SELECT * FROM rename(%s, 'Lost')", [author.pk]))


#: Ways to change a row that no statement shows.
UNSEEN = [rename_by_query, rename_by_callproc, rename_after_set, rename_by_driver, rename_by_stream]


@with_postgres
@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("rename", UNSEEN)
def test_what_no_statement_shows_is_not_stored(
    author: Author, rename: Callable[[Author], None], reader: Any, read: Read
) -> None:
    """Before a fill the database is asked what the triggers wrote."""
    with pytest.raises(RolledBackError), transaction.atomic():
        rename(author)
        assert read(author) == "Lost"
        raise RolledBackError
    assert_all_read(read, author, "First")


@with_postgres
@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("rename", UNSEEN)
def test_what_no_statement_shows_is_invalidated_at_the_commit(
    author: Author, rename: Callable[[Author], None]
) -> None:
    """The relay is not needed for it."""
    Author.cached.get(pk=author.pk)
    with transaction.atomic():
        rename(author)
    assert Author.cached.get(pk=author.pk).name == "Lost"
    assert OutboxRow.objects.count() == 0


@with_postgres
@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_copied_rows(ending: str) -> None:
    """The cursor of the driver copies them, past Django's wrappers."""
    with pytest.raises(Author.DoesNotExist):
        Author.cached.get(name="Copied")
    with transaction.atomic():
        with connection.cursor() as cursor, cursor.copy(f"COPY {AUTHOR} (id, name, code) FROM STDIN") as copy:
            copy.write_row((77, "Copied", "9d1a44ba-5a5c-4a3c-8f43-8c3a0ed3a7a1"))
        assert Author.cached.get(pk=77).name == "Copied"
        transaction.set_rollback(ending == "rollback")
    for lookup in ({"pk": 77}, {"name": "Copied"}):
        if ending == "commit":
            assert Author.cached.get(**lookup).pk == 77
        else:
            with pytest.raises(Author.DoesNotExist):
                Author.cached.get(**lookup)


@with_postgres
def test_what_a_transaction_past_django_has_changed_is_not_stored(
    author: Author, reader: Any, read: Read
) -> None:
    """The program began it: by SQL, or by the driver."""
    read(author)
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            raw_rename(author, "Lost")
            seen = read(author)
        finally:  # the next test needs the connection
            cursor.execute("ROLLBACK")
    assert seen == "Lost" or not has_tags(reader)
    assert_all_read(read, author, "First")
    with connection.connection.transaction(force_rollback=True):
        raw_rename(author, "Lost")
        read(author)
    assert_all_read(read, author, "First")


@with_postgres
def test_one_text_may_begin_a_transaction_and_change_rows(author: Author, reader: Any, read: Read) -> None:
    """What its other statements change is not stored, and a cached row does not hide it."""
    if has_tags(reader):
        read(author)
    with connection.cursor() as cursor:
        cursor.execute(f"BEGIN; UPDATE {AUTHOR} SET name = 'Lost' WHERE id = {author.pk}")
        try:
            assert read(author) == "Lost"
        finally:  # the next test needs the connection
            cursor.execute("ROLLBACK")
    assert_all_read(read, author, "First")


@with_postgres
def test_a_role_that_only_reads_needs_no_rights_on_the_outbox(author: Author) -> None:
    """The outbox is not asked where no trigger has written."""
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE reader; GRANT SELECT ON {AUTHOR} TO reader")
        try:
            with transaction.atomic():
                cursor.execute("SET LOCAL ROLE reader")
                cursor.execute("SELECT pg_advisory_xact_lock(1)")
                assert Author.cached.get(pk=author.pk).name == "First"
                assert Author.cached.get(pk=author.pk).name == "First"
        finally:
            cursor.execute("DROP OWNED BY reader; DROP ROLE reader")
