"""Writes on a table with row-level security change the same rows as Django's own statements."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import connection, models, transaction

from cachebackend.invalidation import old_rows
from cachebackend.invalidation.catalogue import forget_catalogues
from tests.zoo.models import Author

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.own_connections,
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


def run(*statements: str) -> None:
    with connection.cursor() as cursor:
        for each in statements:
            cursor.execute(each)


@pytest.fixture
def writer() -> Iterator[None]:
    """Rows that are cached, and a role that may change all of them and read those of a low rank."""
    authors = Author.objects.bulk_create([Author(name=f"a{rank}", rank=rank) for rank in range(4)])
    Author.cached.in_bulk([author.pk for author in authors])
    run(
        "CREATE ROLE zoo_writer",
        "GRANT ALL ON zoo_author, cachebackend_outboxrow TO zoo_writer",
        "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO zoo_writer",
        "ALTER TABLE zoo_author ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY updated ON zoo_author FOR UPDATE USING (true)",
        "CREATE POLICY deleted ON zoo_author FOR DELETE USING (true)",
        "CREATE POLICY selected ON zoo_author FOR SELECT USING (rank < 2 OR rank = 50)",
        "SET ROLE zoo_writer",
    )
    forget_catalogues()
    yield
    run(
        "RESET ROLE",
        "DROP POLICY updated ON zoo_author",
        "DROP POLICY deleted ON zoo_author",
        "DROP POLICY selected ON zoo_author",
        "ALTER TABLE zoo_author DISABLE ROW LEVEL SECURITY",
        "DROP OWNED BY zoo_writer",
        "DROP ROLE zoo_writer",
    )
    forget_catalogues()


@pytest.mark.usefixtures("writer")
@pytest.mark.parametrize("is_atomic", [False, True])
@pytest.mark.parametrize("returns_old", [False, True])
def test_rows_that_cannot_be_read_are_changed(
    is_atomic: bool, returns_old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A RETURNING clause would leave them out."""
    if not returns_old:
        monkeypatch.setattr(old_rows, "POSTGRES_18", 10**9)
    if is_atomic:
        with transaction.atomic():
            assert Author.objects.update(rank=50) == 4
    else:
        assert Author.objects.update(rank=50) == 4
    run("RESET ROLE")
    cached = Author.cached.in_bulk(list(Author.objects.values_list("pk", flat=True)))
    assert [author.rank for author in cached.values()] == [50] * 4
    run("SET ROLE zoo_writer")
    assert models.QuerySet(Author)._raw_delete("default") == 4


@pytest.mark.usefixtures("writer")
def test_a_filter_reads_columns_in_any_case() -> None:
    """Then Postgres hides the rows from Django's own statement, too, and the changed rows are returned."""
    assert Author.objects.filter(rank__lt=3).update(rank=50) == 2
