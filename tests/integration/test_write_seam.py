"""How writes are seen: by any model of a table, on each database, although the statement's text changes."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from datetime import timedelta
from typing import Any

import pgtrigger
import pytest
from django.apps.registry import Apps
from django.conf import settings
from django.core.cache import cache
from django.db import connection, connections, models, transaction
from django.db.migrations.state import ModelState, ProjectState
from django.db.models import Count, F, Q, Value
from django.db.models.functions import Concat, Now
from django.test.utils import CaptureQueriesContext, isolate_apps

from cachebackend import CachedManager, invalidation
from cachebackend.invalidation import old_rows, statement, tables, transactions, watched, writes
from cachebackend.invalidation.changes import TableChanges
from cachebackend.invalidation.pending_deletes import PendingDeletes
from cachebackend.models import OutboxRow
from tests.integration.test_writes import (
    FAMILY,
    MAKE,
    WAYS,
    Readable,
    before_postgres_18,  # noqa: F401  # a fixture
    make_inheritance,
    make_many,
    make_relations,
    read,
)
from tests.second_models import second_model
from tests.upserts import unique_fields
from tests.zoo.models import (
    FAMILIES,
    Author,
    Bar,
    Credit,
    Letter,
    Nickname,
    Place,
    Poem,
    Post,
    Seat,
    Tenant,
    Token,
)
from tests.zoo.router import Tenants

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
before_18 = pytest.mark.usefixtures("before_postgres_18")


# The text of a statement


def comment_before(run: Callable[..., Any], sql: str, *rest: Any) -> Any:
    return run(f"/* view=shop.detail */ {sql}", *rest)


def comment_after(run: Callable[..., Any], sql: str, *rest: Any) -> Any:
    return run(f"{sql} /* view=shop.detail */", *rest)


def on_another_cursor(run: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
    """Execute writes in a way that returns no rows to anybody."""
    if not sql.startswith(("INSERT", "UPDATE", "DELETE", "WITH")) or '"zoo_' not in sql:
        return run(sql, params, many, context)
    if connection.vendor == "sqlite":
        sql, params = sql.replace("%s", "?"), params or ()
    context["connection"].connection.cursor().execute(sql, params)
    run("SELECT 1 WHERE false", None, False, context)
    return None


def around(wrapper: Callable[..., Any]) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: connection.execute_wrapper(wrapper)


#: Code that changes the text of statements, by name.
CHANGERS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "a comment before": around(comment_before),
    "a comment after": around(comment_after),
}
if not settings.DATABASES["default"].get("OPTIONS", {}).get("prepare_threshold"):
    # It puts another statement before each one, which Postgres does not prepare
    CHANGERS["pgtrigger.ignore"] = lambda: pgtrigger.ignore("zoo.Singer:ringcache_update")
#: One way of each kind of statement.
STATEMENTS = [
    "save",
    "create",
    "update of all",
    "bulk_update",
    "bulk_create",
    "bulk_create, conflicts ignored",
    "upsert of another row",
    "_raw_delete",
    "delete with cascades of all kinds",
    "many-to-many clear",
    "parents through their child",
]


def write_under(way: str, *contexts: AbstractContextManager[Any]) -> list[str]:
    """Write inside contexts; return what the ring and the database differ in afterwards."""
    family = FAMILY.get(way, "relations")
    rows = MAKE[family]()
    readable = Readable(*FAMILIES[family])
    readable.read()
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        WAYS[way](rows)
    return readable.differences()


@pytest.mark.parametrize("changer", CHANGERS)
@pytest.mark.parametrize("way", STATEMENTS)
def test_a_statement_whose_text_is_changed_is_seen(way: str, changer: str) -> None:
    """A statement is not recognised by its text, which other packages change on the way."""
    assert write_under(way, CHANGERS[changer]()) == []


@pytest.mark.parametrize("changer", CHANGERS)
@pytest.mark.parametrize("way", ["save", "update of all", "upsert of another row"])
@before_18
def test_a_changed_text_is_seen_before_postgres_18(way: str, changer: str) -> None:
    """There a statement has a subquery too."""
    assert write_under(way, CHANGERS[changer]()) == []


#: Ways whose callers need nothing of what the statement returns.
WITHOUT_RESULT = ["update of all", "_raw_delete", "bulk_create, conflicts ignored", "many-to-many clear"]


@pytest.mark.postgres
def test_the_statements_of_a_wrapper_keep_their_results() -> None:
    """It may run some on its own cursor, before the write that it wraps."""
    author = Author.objects.create(name="first")
    found: list[Any] = []

    def look_first(run: Callable[..., Any], sql: str, *rest: Any) -> Any:
        if sql.startswith(("UPDATE", "WITH")) and not found:
            found.append(None)
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1; SELECT 2")
                found[0] = cursor.fetchone()
        return run(sql, *rest)

    with connection.execute_wrapper(look_first):
        Author.objects.filter(pk=author.pk).update(rank=3)
    assert found == [(1,)]
    assert Author.cached.get(pk=author.pk).rank == 3


@pytest.mark.parametrize("way", WITHOUT_RESULT)
def test_a_statement_that_returns_nothing_invalidates_everything(way: str) -> None:
    """Which rows have changed is not known, so none of the table stays cached."""
    assert write_under(way, connection.execute_wrapper(on_another_cursor)) == []


@pytest.fixture
def read_author() -> Author:
    """Return an author that is cached, as is a value that is tagged with the model."""
    author = Author.objects.create(name="first")
    Author.cached.get(pk=author.pk)
    Author.cached.get(name="first")
    cache.get_or_set("page", "first", 60, tags=[Author])
    return author


def change_unseen() -> None:
    with connection.execute_wrapper(on_another_cursor):
        Author.objects.update(name="new")


def test_unknown_rows_are_read_from_the_database_inside_the_transaction(read_author: Author) -> None:
    """What is cached is the row before the change, and others must get it until the commit."""
    with transaction.atomic():
        change_unseen()
        assert Author.cached.get(pk=read_author.pk).name == "new"
        transaction.set_rollback(True)
    assert Author.cached.get(pk=read_author.pk).name == "first"


def test_unknown_rows_survive_a_crash(read_author: Author, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outbox row says that everything must be deleted, and the relay does it."""
    monkeypatch.setattr(transactions.TransactionDeletes, "after_commit", lambda _: None)
    monkeypatch.setattr(statement, "can_write_outbox_row", lambda *_: False)
    change_unseen()
    assert Author.cached.get(pk=read_author.pk).name == "first"
    OutboxRow.objects.update(created=Now() - timedelta(seconds=5))  # a writer has a few seconds itself
    invalidation.relay()
    assert Author.cached.get(pk=read_author.pk).name == "new"
    assert cache.get("page") is None


# Before Postgres 18

#: Query sets that cannot be locked as they are.
QUERIES: dict[str, Callable[[], Any]] = {
    "distinct": lambda: Author.objects.filter(name="first").distinct(),
    "distinct over a join": lambda: Author.objects.filter(poem__name="Poem a").distinct(),
    "an aggregate": lambda: Author.objects.annotate(n=Count("letter")).filter(n__gt=0, name="first"),
    "groups": lambda: Author.objects.values("name").annotate(n=Count("letter")).filter(n__gt=0, name="first"),
    "an outer join": lambda: Letter.objects.filter(Q(author__name="first") | Q(author=None)).select_related(
        "author"
    ),
    "an order": lambda: Author.objects.filter(name="first").order_by("-poem__name"),
    "nothing": lambda: Author.objects.filter(pk__in=[]),
}


@pytest.mark.parametrize("name", QUERIES)
@before_18
def test_what_cannot_be_locked_is_updated_as_in_plain_django(name: str) -> None:
    """The statement locks the rows of one table; the filter is a condition of it."""
    make_relations()
    readable = Readable(*FAMILIES["relations"])
    readable.read()
    assert QUERIES[name]().update(name="new") == (0 if name == "nothing" else 1)
    assert readable.differences() == []


@before_18
@pytest.mark.postgres
def test_an_update_is_one_statement() -> None:
    """No other writer can change a row between its old values and its new ones."""
    make_relations()
    with transaction.atomic(), CaptureQueriesContext(connection) as captured:
        Author.objects.filter(name="first").update(name="new")
    assert [query["sql"].split()[0] for query in captured if "zoo_" in query["sql"]] == ["UPDATE"]


@before_18
@pytest.mark.postgres
def test_a_save_lets_others_refer_to_the_row() -> None:
    """It sets every column, but a row whose unique columns stay the same is locked no more than by Django."""
    author = make_relations()["first"]

    def refer() -> None:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '2s'")
                Poem.objects.create(name="new", author_id=author.pk)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as executor, transaction.atomic():
        author.rank = 5
        author.save()
        executor.submit(refer).result()
    assert Poem.objects.filter(name="new").exists()


# The rows that are handed over


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[TableChanges]:
    """The changes of authors and tenants that statements hand over."""
    seen: list[TableChanges] = []
    add = PendingDeletes.add_changes

    def record(self: PendingDeletes, changes: TableChanges) -> None:
        seen.append(changes)
        add(self, changes)

    monkeypatch.setattr(PendingDeletes, "add_changes", record)
    return seen


def names_of(changes: TableChanges) -> list[tuple[Any, Any]]:
    return sorted(
        (row.old["name"] if row.old else "", row.new["name"] if row.new else "") for row in changes.rows
    )


def check_changes(using: str, seen: list[TableChanges]) -> None:
    """Write tenants in each way, and compare what each statement hands over."""
    tenants = Tenant.objects.using(using)
    first, _ = tenants.bulk_create([Tenant(name="a"), Tenant(name="b")])
    assert [names_of(changes) for changes in seen] == [[("", "a"), ("", "b")]]
    seen.clear()
    tenants.update(name=Concat(F("name"), Value("x")))
    assert [names_of(changes) for changes in seen] == [[("a", "ax"), ("b", "bx")]]
    assert seen.pop().columns == {"name"}
    tenants.filter(pk=first.pk).update(rank=3)
    assert [(names_of(changes), changes.columns) for changes in seen] == [([("ax", "ax")], {"rank"})]
    seen.clear()
    tenants.bulk_create(
        [Tenant(name="bx", rank=9), Tenant(name="c")],
        update_conflicts=True,
        unique_fields=unique_fields("name"),
        update_fields=["name"],
    )
    assert [names_of(changes) for changes in seen] == [[("", "c"), ("bx", "bx")]]
    seen.clear()
    tenants.filter(name="c").delete()
    assert [names_of(changes) for changes in seen] == [[("c", "")]]
    seen.clear()
    tenants.filter(name="ax").update(id=first.pk + 100)
    moved = [[("ax", "ax")], [("", "ax"), ("ax", "")]]  # as one change, or as a deletion and an insertion
    assert [names_of(changes) in moved for changes in seen] == [True]


@pytest.mark.parametrize("using", ["default", "lite"])
@pytest.mark.postgres_or_sqlite
def test_a_statement_hands_over_rows_before_and_after_it(using: str, handed_over: list[TableChanges]) -> None:
    """Old and new values come from the database, beside the columns that may differ."""
    check_changes(using, handed_over)


@before_18
@pytest.mark.postgres_or_sqlite
def test_rows_are_handed_over_before_postgres_18(handed_over: list[TableChanges]) -> None:
    """The statement reads the old values by a join with the locked rows."""
    check_changes("default", handed_over)


def test_rows_that_are_read_first_are_handed_over(
    handed_over: list[TableChanges], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read again after the statement, by primary key."""
    author = Author.objects.create(name="a")
    handed_over.clear()
    monkeypatch.setattr(writes.Write, "_can_return", False)
    Author.objects.filter(pk=author.pk).update(name="b")
    Author.objects.filter(pk=author.pk).update(rank=2)
    Author.objects.filter(pk=author.pk).delete()
    authors = [names_of(changes) for changes in handed_over if changes.table.model is Author]
    assert authors == [[("a", "b")], [("b", "b")], [("b", "")]]


# SQLite


@pytest.fixture
def tenants_on_sqlite(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    """Send the tenants to SQLite, with one row."""
    settings.DATABASE_ROUTERS = ["tests.zoo.router.Tenants"]
    monkeypatch.setattr(Tenants, "current", "lite")
    Tenant.objects.create(name="first")


@pytest.mark.parametrize("is_atomic", [True, False])
@pytest.mark.usefixtures("tenants_on_sqlite")
def test_rows_on_sqlite_are_read_under_the_lock_of_writers(is_atomic: bool) -> None:
    """A transaction that reads first could not wait for another writer, and would fail."""
    refused: list[str] = []

    def write_beside(run: Callable[..., Any], sql: str, *rest: Any) -> Any:
        result = run(sql, *rest)
        if sql.startswith("SELECT") and "zoo_tenant" in sql:
            settings = connections["lite"].get_connection_params()
            other = sqlite3.connect(**{**settings, "timeout": 0})
            try:
                other.execute("UPDATE zoo_tenant SET rank = 9")
            except sqlite3.OperationalError as error:
                refused.append(str(error))
            finally:
                other.close()
        return result

    tenant = Tenant.objects.get()
    tenant.name = "new"
    with ExitStack() as stack:
        if is_atomic:
            stack.enter_context(transaction.atomic(using="lite"))
        stack.enter_context(connections["lite"].execute_wrapper(write_beside))
        tenant.save()
    assert len(refused) == 1
    assert "locked" in refused[0]


@pytest.mark.usefixtures("tenants_on_sqlite")
def test_an_update_of_many_rows_on_sqlite_is_one_statement() -> None:
    """In parts, a later part would read what an earlier one wrote."""
    Tenant.objects.bulk_create([Tenant(name=f"a{number}") for number in range(600)])
    olds = models.Subquery(
        Tenant.objects.filter(name__startswith="a").values("rank").annotate(n=Count("pk")).values("n")
    )
    assert Tenant.cached.get(name="a5").rank == 0
    rows = Tenant.objects.filter(name__startswith="a")
    assert rows.update(name=Concat(Value("x"), F("name")), rank=olds) == 600
    assert set(Tenant.objects.filter(name__startswith="x").values_list("rank", flat=True)) == {600}
    assert Tenant.cached.get(name="xa5").rank == 600
    with pytest.raises(Tenant.DoesNotExist):
        Tenant.cached.get(name="a5")


# Rows that move


@before_18
@pytest.mark.postgres_or_sqlite
def test_an_upsert_of_many_rows_by_two_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite refuses a condition of more than 1000 terms. A batch of Django may have more rows."""
    # Of the class: from Django 6.1 on it is a property
    monkeypatch.setattr(type(connections["lite"].features), "max_query_params", 10_000)
    seats = Seat.objects.using("lite")
    for name in "ab":
        seats.bulk_create(
            [Seat(hall=hall, name=f"{name}{hall}") for hall in range(1100)],
            update_conflicts=True,
            unique_fields=unique_fields("hall", "rank"),
            update_fields=["name"],
        )
    assert seats.filter(name__startswith="b").count() == seats.count() == 1100


def test_a_row_that_an_upsert_moves_is_seen_at_its_old_end() -> None:
    """The values that it replaces are invalidated with the new ones."""
    rows = make_many()
    credit, second = Credit.objects.get(), Post.objects.create(name="second")
    cache.get_or_set("page", "credits", 60, tags=[rows["post"]])
    Credit.objects.bulk_create(
        [Credit(pk=credit.pk, post=second, label=rows["label"])],
        update_conflicts=True,
        unique_fields=unique_fields("id"),
        update_fields=["post"],
    )
    assert cache.get("page") is None


def test_a_child_that_moves_to_another_parent_is_no_longer_absent() -> None:
    """Its lookups are columns of the parent."""
    rows = make_inheritance()
    readable = Readable(Bar, Place)
    readable.read()
    free = Place.objects.create(name="free")
    with pytest.raises(Bar.DoesNotExist):
        Bar.cached.get(name="free")
    Bar.objects.filter(pk=rows["Bar"].pk).update(place_ptr=free)
    assert read(Bar.cached, "name", "free") is not None
    assert readable.differences() == []


# Several models of one table


def unmanaged(table: str, **columns: Any) -> Any:
    """Return an unmanaged model of a table, in a registry of its own, with another primary key."""
    meta = type("Meta", (), {"apps": Apps(), "app_label": "other", "db_table": table, "managed": False})
    columns["rank"] = models.IntegerField(default=0)
    return type("Unmanaged", (models.Model,), {"__module__": __name__, "Meta": meta, **columns})


@pytest.mark.parametrize(
    "table",
    ["zoo_author", '"zoo_author"', pytest.param('"public"."zoo_author"', marks=pytest.mark.postgres)],
)
@pytest.mark.postgres_or_sqlite
def test_another_model_of_the_table_is_seen(table: str) -> None:
    """The rows are named by the primary key of the cached model, which this model lacks."""
    for name in ("first", "second"):
        Author.objects.create(name=name)
    readable = Readable(Author)
    readable.read()
    other = unmanaged(table, name=models.CharField(max_length=40, primary_key=True))
    other.objects.filter(name="first").update(rank=7)
    assert readable.differences() == []
    other.objects.filter(name="first").update(name="new")
    assert readable.differences() == []
    other.objects.create(name="fourth")
    assert readable.differences() == []
    other.objects.filter(name="fourth").delete()
    assert readable.differences() == []


@pytest.fixture(params=["18", "earlier", "lite", "without RETURNING"])
def using(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database of each kind: its alias."""
    if request.param == "earlier":
        monkeypatch.setattr(old_rows, "POSTGRES_18", 10**9)
    if request.param == "without RETURNING":
        monkeypatch.setattr(writes.Write, "_can_return", False)
    return "lite" if request.param == "lite" else "default"


def test_a_key_that_is_not_unique_names_no_rows(using: str) -> None:
    """An unmanaged model may declare one: the statement changes the rows that Django's own changes."""
    for rank, name in enumerate("abc"):
        Seat.objects.using(using).create(hall=1, rank=rank, name=name)
    readable = Readable(Seat)
    readable.read()
    by_hall = unmanaged(
        "zoo_seat", hall=models.IntegerField(primary_key=True), name=models.CharField(max_length=40)
    ).objects.using(using)
    assert by_hall.filter(name="c").update(name=Concat("name", Value("x"))) == 1
    assert by_hall.filter(name="b")._raw_delete(using) == 1
    assert sorted(Seat.objects.using(using).values_list("name", flat=True)) == ["a", "cx"]
    assert readable.differences() == []


def test_rows_whose_key_is_null_are_changed_and_seen(using: str) -> None:
    """An unmanaged model may declare such a column as its key."""
    for code, name in ((1, None), (2, "x")):
        Nickname.objects.using(using).create(name=name, code=code)
    readable = Readable(Nickname)
    readable.read()
    by_name = unmanaged(
        "zoo_nickname", name=models.CharField(max_length=40, primary_key=True), code=models.IntegerField()
    ).objects.using(using)
    assert by_name.filter(rank=0).update(code=F("code") + 10) == 2
    assert set(Nickname.objects.using(using).values_list("code", flat=True)) == {11, 12}
    assert readable.differences() == []


def test_a_table_of_sqlite_may_have_no_rowid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django makes none, so only an unmanaged model has such a table."""
    monkeypatch.setattr(watched, "_dependents", dict(watched._dependents))
    monkeypatch.setattr(tables, "_tables", None)
    with isolate_apps("tests.zoo"):

        class Rack(models.Model):
            name = models.CharField(max_length=40, unique=True)
            cached = CachedManager(lookups=["name"])

            class Meta:
                app_label = "zoo"
                managed = False

    with connections["lite"].cursor() as cursor:
        cursor.execute("CREATE TABLE zoo_rack (id integer PRIMARY KEY, name text) WITHOUT ROWID")
        cursor.execute("INSERT INTO zoo_rack VALUES (1, 'a')")
        try:
            assert Rack.objects.using("lite").filter(pk=1).update(name="b") == 1
        finally:
            cursor.execute("DROP TABLE zoo_rack")


def state_model(name: str, model: type[models.Model], *fields: tuple[str, Any]) -> Any:
    """Return a model of a migration for the table of a model."""
    state = ProjectState()
    state.add_model(ModelState("zoo", name, list(fields), {"db_table": model._meta.db_table}))
    return state.apps.get_model("zoo", name)


DATABASES = ["18", "earlier", "lite"]


@pytest.mark.parametrize("database", DATABASES)
def test_a_migration_s_model_with_another_key_writes_its_own_rows(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are named by the key of the statement's model. Here it is the number of the hall."""
    if database == "earlier":
        monkeypatch.setattr("cachebackend.invalidation.old_rows.POSTGRES_18", 10**9)
    using = "lite" if database == "lite" else "default"
    for pk, hall in ((1, 2), (2, 3), (3, 1)):
        Seat.objects.using(using).create(pk=pk, hall=hall, name=f"s{hall}")
    old = state_model(
        "OldSeat",
        Seat,
        ("hall", models.IntegerField(primary_key=True)),
        ("rank", models.IntegerField(default=0)),
        ("name", models.CharField(max_length=40, unique=True)),
    ).objects.using(using)
    for pk in (1, 2, 3):
        Seat.cached.get(pk=pk) if using == "default" else None
    assert old.filter(name="s2").update(name="new") == 1
    row = old.get(hall=3)
    row.name = "saved"
    row.save()
    names = dict(Seat.objects.using(using).values_list("pk", "name"))
    assert names == {1: "new", 2: "saved", 3: "s1"}
    old.filter(hall=1).delete()
    assert set(Seat.objects.using(using).values_list("pk", flat=True)) == {1, 2}
    if using == "default":
        assert Seat.cached.get(pk=1).name == "new"
        assert Seat.cached.get(pk=2).name == "saved"
        with pytest.raises(Seat.DoesNotExist):
            Seat.cached.get(pk=3)


@pytest.mark.parametrize("using", ["default", "lite"])
@pytest.mark.parametrize("code", [uuid.UUID(int=5).hex, None])
def test_a_migration_s_model_with_other_types_is_seen(using: str, code: str | None) -> None:
    """A value is read by the field of the statement's model, and keys are made of the type of the other."""
    if using == "default":
        with pytest.raises(Token.DoesNotExist):
            Token.cached.get(code=code or "5" * 32)
    old = state_model(
        "OldToken",
        Token,
        ("id", models.UUIDField(primary_key=True, default=uuid.uuid4)),
        ("code", models.CharField(max_length=36, null=True, unique=True)),
        ("rank", models.IntegerField(default=0)),
    ).objects.using(using)
    row = old.create(code=code)
    old.filter(pk=row.pk).update(code="5" * 32)
    if using == "default":
        assert Token.cached.get(code="5" * 32).pk == row.pk


def test_a_value_that_is_not_of_the_cached_type_invalidates_everything(read_author: Author) -> None:
    """The keys of such a row are not known."""
    old = state_model(
        "OldAuthor",
        Author,
        ("name", models.CharField(max_length=40, primary_key=True)),
        ("rank", models.IntegerField(default=0)),
    )
    old.objects.filter(name="first").update(rank=8)
    assert Author.cached.get(pk=read_author.pk).rank == 8
    assert cache.get("page") is None


@pytest.mark.postgres
@pytest.mark.parametrize("is_shared", [False, True])
def test_a_table_with_very_many_columns(is_shared: bool) -> None:
    """A statement cannot return the old and new values of all of them, also if two models name them."""
    names = [f"c{number}" for number in range(900)]
    with connection.cursor() as cursor:
        columns = {name: models.SmallIntegerField(default=0) for name in names}
        model = second_model(Poem, "zoo_wide", cached=CachedManager(), **columns)
        if is_shared:
            others = {name: models.SmallIntegerField(default=0) for name in reversed(names)}
            second_model(Poem, "zoo_wide", cached=CachedManager(), **others)
        listed = ", ".join(f"{name} smallint NOT NULL" for name in names)
        cursor.execute(f"CREATE TABLE zoo_wide (id bigserial PRIMARY KEY, {listed})")
        try:
            row = model.objects.create()
            row.c1 = 1
            row.save()
            assert model.objects.filter(c1=1).update(c899=F("c899") + 1) == 1
            upserted = {"unique_fields": ["pk"], "update_fields": ["c1"], "update_conflicts": True}
            model.objects.bulk_create([model(pk=row.pk, c1=2), model()], **upserted)
            assert list(model.objects.order_by("pk").values_list("c1", "c899")) == [(2, 1), (0, 0)]
            assert model.objects.filter(c2=0).delete()[0] == 2
        finally:
            cursor.execute("DROP TABLE zoo_wide")
