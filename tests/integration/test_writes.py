"""Every way in which Django writes a row invalidates what is cached of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.cache import cache
from django.db import connection, models, transaction
from django.db.migrations.state import ProjectState
from django.db.models import Case, F, Value, When
from django.db.models.functions import Random
from django.test.utils import CaptureQueriesContext

from cachebackend.invalidation import old_rows, statement, writes
from tests.shop.models import Product, Tag
from tests.upserts import unique_fields
from tests.zoo.models import (
    FAMILIES,
    Account,
    Author,
    Bar,
    Boat,
    Branch,
    Credit,
    Desk,
    Essay,
    Hull,
    Inn,
    Kiosk,
    Label,
    LateBar,
    Letter,
    Memo,
    Motor,
    Nickname,
    Note,
    Place,
    Poem,
    Post,
    Pub,
    Seat,
    Stock,
    Sum,
    Token,
)

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]

#: Values that no row has before a write, and some row may have after it.
NEW = {"name": "new", "title": "new", "rank": 99, "twice": 198, "code": None, "author": 2}


def is_own(model: type[models.Model]) -> bool:
    """Return whether a model's ``cached`` is its own, and not its parent's."""
    return "cached" in vars(model) and not isinstance(model._meta.pk, models.CompositePrimaryKey)


class Readable:
    """What can be read of some models through the ring, and what the database holds."""

    def __init__(self, *zoo: Any) -> None:
        self._zoo = [model for model in zoo if is_own(model)]
        self._asked: dict[Any, set[tuple[str, Any]]] = {model: set() for model in self._zoo}

    def differences(self) -> list[str]:
        """Return what differs between the ring and the database.

        Rows are compared by primary key first, because a read by a lookup deletes a wrong row.
        """
        self._ask()
        return [
            f"{model.__name__}({name}={value!r}): {cached} is not {stored}"
            for model, asked in self._asked.items()
            for name, value in sorted(asked, key=lambda question: question[0] != "pk")
            if (cached := read(model.cached, name, value))
            != (stored := read(model._base_manager, name, value))
        ]

    def read(self) -> None:
        """Read everything through the ring."""
        self._ask()
        for model, asked in self._asked.items():
            for name, value in asked:
                read(model.cached, name, value)

    def _ask(self) -> None:
        """Add the rows that there are to what is asked for."""
        for model, asked in self._asked.items():
            names = [name for name in model.cached.lookups if isinstance(name, str)]
            names = [name for name in names if not model._meta.get_field(name).is_relation]
            asked.update(("pk", row.pk) for row in model._base_manager.all())
            for other in self._zoo:  # a value of another model's row is absent here
                for row in other._base_manager.all():
                    values = {name: getattr(row, name, None) for name in names}
                    asked.update((name, value) for name, value in values.items() if value is not None)
            asked.update((name, NEW[name]) for name in names if NEW.get(name) is not None)


def read(manager: Any, name: str, value: Any) -> Any:
    """Return the columns of a row; None if it does not exist."""
    try:
        row = manager.get(**{name: value})
    except manager.model.DoesNotExist:
        return None
    return type(row).__name__, {
        field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields
    }


def historical(model: type[models.Model]) -> Any:
    """Return a model as a migration has it."""
    from django.apps import apps

    return ProjectState.from_apps(apps).apps.get_model(model._meta.label)


def make_relations() -> dict[str, Any]:
    """Return rows that refer to three authors: others refer to the first two by default."""
    authors = [
        Author.objects.create(pk=pk, name=name) for pk, name in ((1, "first"), (2, "second"), (3, "third"))
    ]
    rows: dict[str, Any] = {author.name: author for author in authors}
    for model in (Poem, Letter, Note, Memo, Desk):
        rows[model.__name__] = model.objects.create(name=f"{model.__name__} a", author=rows["first"])
        model.objects.create(name=f"{model.__name__} b", author=rows["third"])
    root = Branch.objects.create(name="root")
    return rows | {"root": root, "leaf": Branch.objects.create(name="leaf", parent=root)}


def make_many() -> dict[str, Any]:
    """Return rows at the two ends of many-to-many tables."""
    post, label = Post.objects.create(name="post"), Label.objects.create(name="label")
    post.labels.add(label)
    Credit.objects.create(post=post, label=label)
    return {"post": post, "label": label}


def make_inheritance() -> dict[str, Any]:
    """Return rows of children of one parent, of two, and of one with its own key."""
    rows: dict[str, Any] = {
        model.__name__: model.objects.create(name=model.__name__) for model in (Inn, Bar, Pub)
    }
    rows["kiosk"] = Kiosk.objects.create(name="kiosk", code="k")
    rows["boat"] = Boat.objects.create(name="boat", title="boat")
    rows["essay"] = Essay.objects.create(name="essay")
    return rows


def make_columns() -> dict[str, Any]:
    """Return rows with keys and lookups of several kinds."""
    return {
        "token": Token.objects.create(code=uuid.uuid4()),
        "sum": Sum.objects.create(rank=1),
        "nickname": Nickname.objects.create(name="nick"),
        "seat": Seat.objects.create(hall=1, rank=1, name="seat"),
    }


def make_modes() -> dict[str, Any]:
    """Return a strict row."""
    return {"account": Account.objects.create(name="account")}


MAKE = {
    "relations": make_relations,
    "many": make_many,
    "inheritance": make_inheritance,
    "columns": make_columns,
    "modes": make_modes,
}


def save(row: Any, **values: Any) -> None:
    for name, value in values.items():
        setattr(row, name, value)
    row.save()


def undone(rows: Any) -> None:
    with transaction.atomic():
        save(rows["first"], rank=5)
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            save(rows["second"], name="new")
            raise ZeroDivisionError


def raw_child(rows: Any) -> None:
    """Make a child of a row that exists, as fixtures do."""
    Bar(place_ptr_id=rows["Inn"].place_ptr_id, taps=3).save_base(raw=True)


#: Each way to write, by name.
WAYS: dict[str, Callable[[Any], Any]] = {
    "save": lambda rows: save(rows["first"], name="new"),
    "save of an expression in a lookup": lambda rows: save(rows["sum"], rank=F("rank") + 98),
    "save under another key": lambda rows: save(rows["first"], pk=4, name="new"),
    "create": lambda rows: Label.objects.create(name="new"),
    "create with a default of the database": lambda rows: Nickname.objects.create(name="new", code=8),
    "update_or_create": lambda rows: Author.objects.update_or_create(name="first", defaults={"rank": 9}),
    "asave": lambda rows: async_to_sync(Label(name="new").asave)(),
    "update": lambda rows: Author.objects.filter(name="first").update(name="new"),
    "update of all": lambda rows: Author.objects.update(rank=F("rank") + 1),
    "update over a join": lambda rows: Letter.objects.filter(author__name="first").update(name="new"),
    "update of a slice": lambda rows: Author.objects.filter(
        pk__in=Author.objects.order_by("-pk").values("pk")[:1]
    ).update(rank=4),
    "update at random": lambda rows: Author.objects.filter(
        pk__in=Author.objects.order_by(Random()).values("pk")[:1]
    ).update(name="new"),
    "update by Case": lambda rows: Author.objects.update(
        rank=Case(When(name="first", then=Value(7)), default=F("rank"))
    ),
    "update of the key": lambda rows: Essay.objects.update(id=77),
    "update to an instance": lambda rows: Desk.objects.filter(name="Desk a").update(author=rows["second"]),
    "bulk_create": lambda rows: Label.objects.bulk_create([Label(name="new"), Label(name="new 2")]),
    "bulk_create, conflicts ignored": lambda rows: Label.objects.bulk_create(
        [Label(name="label"), Label(name="new")], ignore_conflicts=True
    ),
    "bulk_create of one, conflict ignored": lambda rows: Label.objects.bulk_create(
        [Label(name="label")], ignore_conflicts=True
    ),
    "upsert under a key made by the client": lambda rows: Token.objects.bulk_create(
        [Token(code=rows["token"].code, rank=9)],
        update_conflicts=True,
        unique_fields=unique_fields("code"),
        update_fields=["rank"],
    ),
    "upsert of another row": lambda rows: Seat.objects.bulk_create(
        [Seat(hall=1, rank=1, name="new")],
        update_conflicts=True,
        unique_fields=unique_fields("hall", "rank"),
        update_fields=["name"],
    ),
    "upsert of another row, by two lookups": lambda rows: Nickname.objects.bulk_create(
        [Nickname(name="nick", code=8), Nickname(name="new", code=9), Nickname(name=None, code=10)],
        update_conflicts=True,
        unique_fields=unique_fields("name"),
        update_fields=["code"],
    ),
    "upsert under a default of the database": lambda rows: Nickname.objects.bulk_create(
        [Nickname(name="new")],
        update_conflicts=True,
        unique_fields=unique_fields("code"),
        update_fields=["name"],
    ),
    "bulk_update": lambda rows: Author.objects.bulk_update([Author(pk=1, name="new")], ["name"]),
    "delete": lambda rows: rows["Poem"].delete(),
    "delete with cascades of all kinds": lambda rows: rows["third"].delete(),
    "delete of a query set": lambda rows: Author.objects.filter(pk=3).delete(),
    "delete over a join": lambda rows: Letter.objects.filter(author__name="first").delete(),
    "_raw_delete": lambda rows: Poem.objects.all()._raw_delete("default"),
    "the base manager": lambda rows: Author._base_manager.filter(pk=1).update(name="new"),
    "a model of a migration": lambda rows: historical(Author).objects.filter(pk=1).update(name="new"),
    "a child of a migration": lambda rows: historical(Bar).objects.filter(name="Pub").update(name="new"),
    "related set": lambda rows: rows["second"].letter_set.set(Letter.objects.all(), bulk=True),
    "related add": lambda rows: rows["second"].letter_set.add(rows["Letter"]),
    "related remove": lambda rows: rows["first"].letter_set.remove(rows["Letter"]),
    "related clear": lambda rows: rows["first"].letter_set.clear(),
    "related create": lambda rows: rows["first"].letter_set.create(name="new"),
    "many-to-many clear": lambda rows: rows["post"].labels.clear(),
    "children through their parent": lambda rows: Place.objects.filter(name="Pub").update(name="new"),
    "parents through their child": lambda rows: Pub.objects.update(name="new", darts=4),
    "a child of another branch": lambda rows: save(Inn.objects.get(), name="new"),
    "a proxy": lambda rows: LateBar.objects.filter(name="Bar").update(name="new"),
    "a child with its own key": lambda rows: save(rows["kiosk"], name="new"),
    "the parent of a child with its own key": lambda rows: save(Place.objects.get(name="kiosk"), name="new"),
    "delete of a child with its own key": lambda rows: rows["kiosk"].delete(),
    "a child of two parents": lambda rows: save(rows["boat"], name="new", title="new"),
    "the first parent": lambda rows: Motor.objects.update(name="new"),
    "the second parent": lambda rows: Hull.objects.update(title="new"),
    "a child of a parent that exists": raw_child,
    "a generated lookup": lambda rows: Sum.objects.update(rank=99),
    "an inherited manager": lambda rows: Essay.objects.update(name="new"),
    "a strict row": lambda rows: Account.objects.update(name="new"),
    "a savepoint that is rolled back": undone,
}


#: The family of each way that does not write relations.
FAMILY = {
    "save of an expression in a lookup": "columns",
    "create with a default of the database": "columns",
    "upsert under a key made by the client": "columns",
    "upsert of another row": "columns",
    "upsert of another row, by two lookups": "columns",
    "upsert under a default of the database": "columns",
    "a generated lookup": "columns",
    "create": "many",
    "asave": "many",
    "bulk_create": "many",
    "bulk_create, conflicts ignored": "many",
    "bulk_create of one, conflict ignored": "many",
    "many-to-many clear": "many",
    "update of the key": "inheritance",
    "a child of a migration": "inheritance",
    "children through their parent": "inheritance",
    "parents through their child": "inheritance",
    "a child of another branch": "inheritance",
    "a proxy": "inheritance",
    "a child with its own key": "inheritance",
    "the parent of a child with its own key": "inheritance",
    "delete of a child with its own key": "inheritance",
    "a child of two parents": "inheritance",
    "the first parent": "inheritance",
    "the second parent": "inheritance",
    "a child of a parent that exists": "inheritance",
    "an inherited manager": "inheritance",
    "a strict row": "modes",
}


#: Those that MySQL and MariaDB refuse.
SLICED = {"update of a slice", "update at random"}


def skip_if_refused(way: str) -> None:
    if way in SLICED and not connection.features.allow_sliced_subqueries_with_in:
        pytest.skip("needs LIMIT in a subquery of IN")


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_write_a_row_invalidates_it(way: str) -> None:
    """Afterwards the ring returns what the database holds: rows, lookups and absences."""
    skip_if_refused(way)
    family = FAMILY.get(way, "relations")
    rows = MAKE[family]()
    readable = Readable(*FAMILIES[family])
    readable.read()
    WAYS[way](rows)
    assert readable.differences() == []


@pytest.fixture
def before_postgres_18(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have RETURNING give new values only, as in earlier versions."""
    monkeypatch.setattr(old_rows, "POSTGRES_18", 10**9)


@pytest.fixture
def without_returning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have UPDATE and DELETE return no rows, as on MySQL."""
    monkeypatch.setattr(writes.Write, "_can_return", False)


@pytest.fixture
def without_returning_inserts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an INSERT of several rows return none of them, as on MySQL."""
    monkeypatch.setattr(type(connection.features), "can_return_rows_from_bulk_insert", False)


#: The ways that update columns which keys are made of, or delete rows.
READ_FIRST = [
    name
    for name in WAYS
    if name.startswith(("save", "update", "related", "delete", "bulk_update", "a ", "the ", "many", "upsert"))
    and name != "update of the key"
]


@pytest.mark.parametrize("way", READ_FIRST)
@pytest.mark.usefixtures("before_postgres_18")
def test_earlier_versions_of_postgres_invalidate_too(way: str) -> None:
    """An UPDATE of a column that keys are made of locks the rows and reads them first."""
    test_every_way_to_write_a_row_invalidates_it(way)


@pytest.mark.parametrize("way", READ_FIRST)
@pytest.mark.usefixtures("without_returning")
def test_databases_that_return_no_rows_invalidate_too(way: str) -> None:
    """Every UPDATE and DELETE locks the rows and reads them first."""
    test_every_way_to_write_a_row_invalidates_it(way)


UPSERTS = [name for name in WAYS if name.startswith("upsert")]


@pytest.mark.parametrize("way", UPSERTS)
@pytest.mark.usefixtures("without_returning_inserts", "before_postgres_18")
@pytest.mark.postgres_or_sqlite
def test_databases_that_return_no_upserted_rows_invalidate_too(way: str) -> None:
    """The rows with which the new ones conflict are locked and read first."""
    test_every_way_to_write_a_row_invalidates_it(way)


@pytest.mark.usefixtures("without_returning_inserts", "without_returning")
def test_values_that_the_database_makes_are_not_known() -> None:
    """Results are wrong under whichever value an inserted row has in a generated column."""

    def count() -> int:
        return Sum.cached.filter(twice=10).count()

    assert count() == 0
    Sum.objects.create(rank=5)
    assert count() == 1
    Sum.objects.all().delete()
    assert count() == 0
    Sum.objects.bulk_create([Sum(rank=4), Sum(rank=5)])
    assert count() == 1


@pytest.mark.parametrize("update_fields", [["code", "rank"], ["rank"]])
@pytest.mark.usefixtures("without_returning_inserts", "before_postgres_18")
@pytest.mark.postgres
def test_an_upsert_locks_rows_no_more_than_plain_django_does(update_fields: list[str]) -> None:
    """The statement itself takes the lock of a changed key, if the value differs."""
    make_columns()
    with CaptureQueriesContext(connection) as captured:
        Nickname.objects.bulk_create(
            [Nickname(name="nick", code=8)],
            update_conflicts=True,
            unique_fields=unique_fields("name"),
            update_fields=update_fields,
        )
    [locking] = [
        query["sql"] for query in captured if query["sql"].startswith("SELECT") and "FOR " in query["sql"]
    ]
    assert locking.endswith("FOR NO KEY UPDATE")


def test_an_upsert_returns_the_rows_of_plain_django() -> None:
    """The columns that the database makes are set on the instances, in rows that it inserts or updates."""
    nick = make_columns()["nickname"]
    rows = Nickname.objects.bulk_create(
        [Nickname(name="new", code=9), Nickname(name="nick", code=8)],
        update_conflicts=True,
        unique_fields=unique_fields("name"),
        update_fields=["code"],
    )
    stored = dict(Nickname.objects.values_list("name", "pk"))
    assert [row.pk for row in rows] == [stored["new"], stored["nick"]]
    assert rows[1].pk == nick.pk


@pytest.mark.usefixtures("without_returning")
def test_rows_that_are_read_first_are_named_by_key() -> None:
    """The filter of the statement is not evaluated a second time: it may match other rows."""
    skip_if_refused("update at random")
    authors = make_relations()
    with CaptureQueriesContext(connection) as captured:
        WAYS["update at random"](authors)
    [update] = [query["sql"] for query in captured if query["sql"].startswith("UPDATE")]
    assert "RANDOM" not in update


def test_a_composite_key_is_invalidated() -> None:
    """Its parts are columns of the row."""
    stock = Stock.objects.create(shop=1, sku="a")
    assert Stock.cached.get(pk=stock.pk).rank == 0
    Stock.objects.update(rank=5)
    assert Stock.cached.get(pk=stock.pk).rank == 5


def words_of_a_save() -> list[str]:
    """Return the first words of the statements of a save in autocommit."""
    author = Author.objects.create(name="first")
    with CaptureQueriesContext(connection) as captured:
        save(author, name="new")
    return [query["sql"].split()[0] for query in captured if "ringcache.wrote" not in query["sql"]]


@pytest.mark.postgres
def test_a_write_in_autocommit_is_one_statement() -> None:
    """It writes its outbox row, which another statement deletes, at once or with others."""
    assert words_of_a_save() == ["WITH", "DELETE"]


@pytest.mark.postgres
def test_a_write_of_a_watched_table_is_one_statement_and_its_outbox_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it cannot write its outbox row, both are one transaction. Nothing is read before it."""
    monkeypatch.setattr(statement, "can_write_outbox_row", lambda *_: False)
    assert words_of_a_save() == ["BEGIN", "UPDATE", "INSERT", "COMMIT", "DELETE"]


def test_an_unwatched_table_costs_nothing() -> None:
    """Its statements are not changed, and no transaction begins."""
    from tests.shop.models import Target

    with CaptureQueriesContext(connection) as captured:
        Target.objects.filter(pk="x").update(code="y")
    [query] = captured
    assert "RETURNING" not in query["sql"]


def test_an_update_counts_the_rows_of_plain_django() -> None:
    """The result of each write is that of Django."""
    Author.objects.bulk_create([Author(name=f"a{number}") for number in range(5)])
    assert Author.objects.filter(name__gt="a1").update(rank=1) == 3
    assert Author.objects.filter(name="none").update(rank=1) == 0
    assert Author.objects.filter(rank=1).delete()[0] == 3
    assert Author.objects.filter(pk__in=[]).update(rank=1) == 0


RELATION_WRITES: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda product, tag: product.tags.add(Tag.objects.create(name="second"), tag),
    "remove": lambda product, tag: product.tags.remove(tag),
    "set": lambda product, tag: product.tags.set([]),
    "clear": lambda product, tag: product.tags.clear(),
    "clear from the other end": lambda product, tag: tag.products.clear(),
    "the table between them": lambda product, tag: Product.tags.through.objects.all().delete(),
    "delete of one end": lambda product, tag: product.delete(),
    "upsert of the row between them": lambda product, tag: upsert_between(product),
}


def upsert_between(product: Product) -> None:
    """Give the row between a product and a tag another tag."""
    through = Product.tags.through
    [row] = through.objects.all()
    row.tag = Tag.objects.create(name="second")
    through.objects.bulk_create(
        [row], update_conflicts=True, unique_fields=unique_fields("id"), update_fields=["tag"]
    )


@pytest.mark.usefixtures("before_postgres_18")
def test_the_old_end_of_an_upserted_row_is_invalidated_on_earlier_versions() -> None:
    """The row between two ends is read before the upsert."""
    test_the_tags_of_both_ends_are_invalidated("upsert of the row between them")


@pytest.mark.parametrize("way", RELATION_WRITES)
def test_the_tags_of_both_ends_are_invalidated(way: str) -> None:
    """A value with the tag of a row at either end of a many-to-many relation is loaded again."""
    product, tag = Product.objects.create(name="product"), Tag.objects.create(name="tag")
    product.tags.add(tag)
    read = {
        "product": lambda: cache.get_or_set(
            "tags-of-a-product", lambda: tag_names(product), tags=[Product(pk=product.pk)]
        ),
        "tag": lambda: cache.get_or_set(
            "products-of-a-tag", lambda: product_names(tag), tags=[Tag(pk=tag.pk)]
        ),
    }
    tag_pk, product_pk = tag.pk, product.pk
    assert {end: reading() for end, reading in read.items()} == {"product": ["tag"], "tag": ["product"]}
    RELATION_WRITES[way](product, tag)
    product.pk, tag.pk = product_pk, tag_pk
    expected = {"product": tag_names(product), "tag": product_names(tag)}
    assert {end: reading() for end, reading in read.items()} == expected


def tag_names(product: Product) -> list[str]:
    return sorted(Tag.objects.filter(products=product.pk).values_list("name", flat=True))


def product_names(tag: Tag) -> list[str]:
    return sorted(Product.objects.filter(tags=tag.pk).values_list("name", flat=True))


@pytest.mark.postgres
def test_a_migration_may_write_before_a_column_of_the_model_exists() -> None:
    """A child with its own key is looked up by columns that a later migration may add."""
    from django.db import ProgrammingError

    kiosk = make_inheritance()["kiosk"]
    place = historical(Place)
    with connection.schema_editor() as editor:
        editor.execute("ALTER TABLE zoo_kiosk RENAME COLUMN code TO earlier")
    try:
        with transaction.atomic():
            place.objects.filter(name="kiosk").update(name="new")
            assert place.objects.filter(name="new").exists()
        with pytest.raises(ProgrammingError):
            Kiosk.objects.get(name="new")
    finally:
        with connection.schema_editor() as editor:
            editor.execute("ALTER TABLE zoo_kiosk RENAME COLUMN earlier TO code")
    assert Kiosk.objects.get(pk=kiosk.pk).name == "new"
