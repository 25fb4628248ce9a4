"""Every way to change a row, for models that are parents, children, proxies and ends of relations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, connection, models, transaction
from django.db.models import F, Value
from django.test.utils import isolate_apps

from cachebackend import CachedManager, RingCache, writebehind
from cachebackend.errors import WriteBehindRefusedError
from cachebackend.invalidation import watched
from cachebackend.queries.queryset import CachedQuerySet
from tests.shop.models import (
    Author,
    Book,
    Bookcase,
    Meter,
    Named,
    Note,
    Product,
    Review,
    SaleProduct,
    Shelf,
    Tag,
    Ticket,
    TopShelf,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]


@pytest.fixture
def book() -> Book:
    """A book, cached as a book and as a product."""
    book = Book.objects.create(name="Old", pages=1)
    assert (Book.cached.get(pk=book.pk).name, Product.cached.get(pk=book.pk).name) == ("Old", "Old")
    return book


def _save(model: type[Any]) -> Callable[[Book], None]:
    def save(book: Book) -> None:
        row = model.objects.get(pk=book.pk)
        row.name = "New"
        row.save()

    return save


CHANGES: dict[str, Callable[[Book], object]] = {
    "save of the child": _save(Book),
    "save of the parent": _save(Product),
    "save of a proxy": _save(SaleProduct),
    "update of the child": lambda book: Book.objects.filter(pk=book.pk).update(name="New"),
    "update of the parent": lambda book: Product.objects.filter(pk=book.pk).update(name="New"),
    "update of a proxy": lambda book: SaleProduct.objects.filter(pk=book.pk).update(name="New"),
    "bulk_update": lambda book: Product.objects.bulk_update([Product(pk=book.pk, name="New")], ["name"]),
    "update_or_create": lambda book: Product.objects.update_or_create(pk=book.pk, defaults={"name": "New"}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_parent_child_and_proxy_are_one_row(book: Book, change: Callable[[Book], object]) -> None:
    """A write to one of them invalidates all of them."""
    change(book)
    assert Product.cached.get(pk=book.pk).name == "New"
    assert Book.cached.get(pk=book.pk).name == "New"


@pytest.mark.parametrize("model", [Book, Product])
def test_a_deleted_row_does_not_exist_as_parent_nor_as_child(book: Book, model: type[Any]) -> None:
    """Whether the parent or the child is deleted."""
    model.objects.get(pk=book.pk).delete()
    with pytest.raises(Product.DoesNotExist):
        Product.cached.get(pk=book.pk)
    with pytest.raises(Book.DoesNotExist):
        Book.cached.get(pk=book.pk)


def test_a_cascade_invalidates_the_rows_that_it_deletes(book: Book) -> None:
    """Django deletes rows that the caller did not name."""
    review = Review.objects.create(product=book, text="x")
    Review.cached.get(pk=review.pk)
    Product.objects.filter(pk=book.pk).delete()
    with pytest.raises(Review.DoesNotExist):
        Review.cached.get(pk=review.pk)


RELATIONS: dict[str, Callable[[Product, Tag], object]] = {
    "add": lambda product, tag: product.tags.add(tag),
    "remove": lambda product, tag: product.tags.remove(tag),
    "clear": lambda product, tag: product.tags.clear(),
    "set": lambda product, tag: product.tags.set([tag]),
    "reverse add": lambda product, tag: tag.products.add(product),
    "reverse clear": lambda product, tag: tag.products.clear(),
}


@pytest.mark.parametrize("name", RELATIONS)
def test_a_changed_relation_invalidates_the_row_on_which_it_changed(book: Book, name: str) -> None:
    """And the rows at the other end, if Django's signal names them."""
    tag, product = Tag.objects.create(name="t"), Product.objects.get(pk=book.pk)
    if name in {"remove", "clear", "reverse clear"}:
        product.tags.add(tag)
    Product.cached.get(pk=book.pk)
    Tag.cached.get(name="t")
    before = Product.cached.cache.client.counters.total().invalidations
    RELATIONS[name](product, tag)
    assert Product.cached.cache.client.counters.total().invalidations > before


def test_an_earlier_callback_that_raises_does_not_prevent_the_invalidation(book: Book) -> None:
    """The invalidation is the first callback."""

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        transaction.on_commit(fail)
        _save(Product)(book)
    assert Product.cached.get(pk=book.pk).name == "New"


def test_manual_transactions_invalidate_after_their_commit(book: Book) -> None:
    """With autocommit off, when Django runs no callbacks."""
    transaction.set_autocommit(False)
    try:
        _save(Product)(book)
        assert Product.cached.cache.get(Product.cached.key_of(pk=book.pk)) is not None
        assert Product.cached.get(pk=book.pk).name == "New"
        transaction.commit()
        assert Product.cached.cache.get(Product.cached.key_of(pk=book.pk)) is None
        Product.cached.get(pk=book.pk)
        _save(SaleProduct)(book)
        transaction.rollback()
    finally:
        transaction.set_autocommit(True)
    assert Product.cached.get(pk=book.pk).name == "New"


def test_after_a_failed_save_the_cached_row_is_right() -> None:
    """In autocommit its intent remains for the relay, which does no harm."""
    Tag.objects.create(name="taken")
    other = Tag.objects.create(name="other")
    Tag.cached.get(pk=other.pk)
    other.name = "taken"
    with pytest.raises(IntegrityError):
        other.save()
    assert Tag.cached.get(pk=other.pk).name == "other"


class ReadsElsewhere:
    """A router whose alias for reads differs from its alias for writes."""

    def db_for_read(self, *_: object, **__: object) -> str:
        return "lite"

    def db_for_write(self, *_: object, **__: object) -> str:
        return "default"


def test_bulk_writes_use_the_database_for_writes(book: Book, settings: Any) -> None:
    """Rows are selected, locked and invalidated there, although the router reads elsewhere."""
    settings.DATABASE_ROUTERS = [ReadsElsewhere()]
    Product.objects.filter(pk=book.pk).update(name="New")
    Product.objects.bulk_create([Product(name="x")])
    assert Product.cached.get(pk=book.pk).name == "New"


def test_a_check_refuses_an_engine_whose_writes_are_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its compilers do not inherit the methods that see the writes; Django's engines do."""
    from cachebackend.checks import check_engines

    assert check_engines() == []
    monkeypatch.setattr(connection.ops, "compiler", lambda _: _ForeignCompiler)
    [error] = check_engines()
    assert error.id == "ringcache.E006"
    assert "database 'default'" in error.msg


class _ForeignCompiler:
    def execute_sql(self) -> None:
        """Execute a statement that nothing sees."""


@pytest.mark.parametrize("model", [Shelf, Bookcase, TopShelf])
def test_each_model_reads_its_own_rows_by_an_inherited_manager(model: type[Named]) -> None:
    """Children of an abstract model, of a concrete one, and proxies have managers of their own."""
    row = model.objects.create(name="Top")
    assert type(model.cached.get(pk=row.pk)) is model
    assert type(model.cached.get(name="Top")) is model
    assert type(model.cached.in_bulk([row.pk])[row.pk]) is model
    with pytest.raises(model.DoesNotExist):
        model.cached.get(name="Bottom")


def test_a_row_of_the_parent_is_none_of_the_child() -> None:
    """Although the child inherits the parent's manager, and both have the same primary key."""
    shelf, bookcase = Shelf.objects.create(name="Top"), Bookcase.objects.create(name="Oak", height=2)
    assert Shelf.cached.get(pk=shelf.pk).name == "Top"
    with pytest.raises(Bookcase.DoesNotExist):
        Bookcase.cached.get(pk=shelf.pk)
    assert Bookcase.cached.get(pk=bookcase.pk).height == 2


@pytest.mark.parametrize("writer", [Shelf, Bookcase, TopShelf])
def test_a_write_is_seen_by_every_inherited_manager(writer: type[Named]) -> None:
    """The write to any of the models, which share the row."""
    pk = Bookcase.objects.create(name="Oak").pk
    readers: list[type[Named]] = [Shelf, Bookcase, TopShelf]
    assert [reader.cached.get(pk=pk).name for reader in readers] == ["Oak"] * 3
    writer.objects.filter(pk=pk).update(name="Ash")
    assert [reader.cached.get(pk=pk).name for reader in readers] == ["Ash"] * 3


def test_an_inherited_invalidating_manager_makes_its_model_a_tag(ring_cache: RingCache) -> None:
    """Django copies inherited managers, and calls no method of them."""
    ring_cache.get_or_set("page", lambda: "old", tags=[Shelf])
    Shelf.objects.create(name="Top")
    assert ring_cache.get("page") is None


def test_instances_and_abstract_models_have_no_manager() -> None:
    """As with the managers of Django."""
    with pytest.raises(
        AttributeError, match="'cached' is a manager of the class Shelf, not of its instances"
    ):
        Shelf().cached  # noqa: B018  # the access raises
    with pytest.raises(AttributeError, match="Named is abstract"):
        Named.cached  # noqa: B018


def test_a_manager_may_be_added_to_a_model_that_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its proxies and children, which exist too, get copies."""
    monkeypatch.setattr(watched, "_dependents", dict(watched._dependents))
    with isolate_apps("tests.shop"):

        class Wall(models.Model):
            class Meta:
                app_label = "shop"

        class InnerWall(Wall):
            class Meta:
                app_label = "shop"
                proxy = True

    CachedManager[Wall]().contribute_to_class(Wall, "cached")
    assert InnerWall.cached.model is InnerWall  # type: ignore[attr-defined]  # it is added at run time


def test_a_chosen_manager_must_exist() -> None:
    """The error names the managers of the model."""
    manager: CachedManager[Note] = CachedManager(base_manager="live")
    manager.model = Note
    with pytest.raises(ImproperlyConfigured, match="a manager of Note, which has objects, everything"):
        manager.get(pk=1)


class LiveManager(CachedManager[Author]):
    """A manager that leaves out rows by its queryset, as managers of Django may."""

    def get_queryset(self) -> CachedQuerySet[Author]:
        return super().get_queryset().exclude(name="Hidden").annotate(one=Value(1))


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Such a manager, of a proxy."""
    found = {model: [*managers] for model, managers in watched._dependents.items()}
    monkeypatch.setattr(watched, "_dependents", found)
    with isolate_apps("tests.shop"):

        class Live(Author):
            cached = LiveManager(lookups=["name"])

            class Meta:
                app_label = "shop"
                proxy = True

        yield Live.cached


@pytest.mark.parametrize("call", [lambda x: x, async_to_sync], ids=["sync", "async"])
def test_the_queryset_of_a_subclass_says_which_rows_exist(live: Any, call: Any) -> None:
    """By key too, and instances have what it adds."""
    prefix = "" if call is not async_to_sync else "a"
    get, in_bulk = call(getattr(live, f"{prefix}get")), call(getattr(live, f"{prefix}in_bulk"))
    shown, hidden = Author.objects.create(name="Shown"), Author.objects.create(name="Hidden")
    for _ in range(2):
        assert get(pk=shown.pk).one == get(name="Shown").one == 1
        assert in_bulk([shown.pk, hidden.pk]) == {shown.pk: live.get(pk=shown.pk)}
        for lookup in ({"pk": hidden.pk}, {"name": "Hidden"}):
            with pytest.raises(Author.DoesNotExist):
                get(**lookup)
    Author.objects.filter(pk=hidden.pk).update(name="New")
    Author.objects.filter(pk=shown.pk).update(name="Hidden")
    assert get(name="New").pk == hidden.pk
    assert list(in_bulk([shown.pk, hidden.pk])) == [hidden.pk]


def test_rows_are_read_through_the_chosen_manager() -> None:
    """A row that its queryset leaves out does not exist, until a write to the row changes that."""
    note = Note.objects.create(text="Call Sappho")
    assert Note.cached.get(pk=note.pk).text == "Call Sappho"
    note.removed = True
    note.save()
    with pytest.raises(Note.DoesNotExist):
        Note.cached.get(pk=note.pk)
    assert Note.cached.in_bulk([note.pk]) == {}
    assert Note.cached_everything.get(pk=note.pk).removed
    note.removed = False
    note.save()
    assert Note.cached.get(pk=note.pk).text == "Call Sappho"


def test_keys_that_the_database_makes_end_a_cached_absence() -> None:
    """The instance that is saved holds no value of them."""
    for lookup in ({"pk": 1}, {"number": 7}):
        with pytest.raises(Ticket.DoesNotExist):
            Ticket.cached.get(**lookup)
    Ticket.objects.create()
    assert Ticket.cached.get(pk=1).number == 7
    assert Ticket.cached.get(number=7).pk == 1


@pytest.mark.parametrize("way", ["save", "update", "bulk_update"])
def test_an_expression_in_a_lookup_changes_it(way: str) -> None:
    """The old value finds nothing any more, and the new value finds the row."""
    ticket = Ticket.objects.create()
    assert Ticket.cached.get(number=7).pk == 1
    with pytest.raises(Ticket.DoesNotExist):
        Ticket.cached.get(number=8)
    ticket.number = F("number") + 1
    if way == "save":
        ticket.save()
    elif way == "update":
        Ticket.objects.update(number=F("number") + 1)
    else:
        Ticket.objects.bulk_update([ticket], ["number"])
    assert Ticket.cached.get(number=8).pk == 1
    assert Ticket.cached.get(pk=1).number == 8
    with pytest.raises(Ticket.DoesNotExist):
        Ticket.cached.get(number=7)


# Write-behind


def drain_all() -> None:
    for partition, _ in writebehind.dirty_partitions():
        writebehind.drain(partition)


@pytest.mark.postgres
def test_unusual_keys_and_columns_are_drained_exactly() -> None:
    """A UUID as primary key, a column with a space in its name, wide decimals, null, JSON, a foreign key."""
    meter, tag = Meter.objects.create(level=None), Tag.objects.create(name="t")
    wide = Decimal("12345678901234567890123456789012.34")
    Meter.behind.update(meter.pk, count=F("count") - 5, total=wide, level=F("level") + 1, label='=0 "x"\t\\N')
    Meter.behind.update(str(meter.pk), count=F("count") - 1, data={"a": [1, None]}, tag=tag)
    Meter.behind.update(meter.pk, seen=datetime(1901, 2, 3, 4, 5, 6, 789, tzinfo=UTC))
    drain_all()
    meter.refresh_from_db()
    assert (meter.count, meter.total, meter.level) == (-6, wide, None)
    assert (meter.label, meter.data, meter.tag) == ('=0 "x"\t\\N', {"a": [1, None]}, tag)
    assert meter.seen == datetime(1901, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
    Meter.behind.update(meter.pk, data=None, tag_id=None, total=F("total") + Decimal("-0.01"))
    drain_all()
    meter.refresh_from_db()
    assert (meter.data, meter.tag, meter.total) == (
        None,
        None,
        Decimal("12345678901234567890123456789012.33"),
    )


@pytest.mark.postgres
def test_a_sum_beyond_64_bits_queues_none_of_its_call() -> None:
    """Neither the column that overflows nor the other columns of the call."""
    meter = Meter.objects.create()
    most = 2**63 - 1
    Meter.behind.update(meter.pk, count=F("count") + most)
    with pytest.raises(WriteBehindRefusedError, match="for the row is beyond 64 bits"):
        Meter.behind.update(meter.pk, level=F("level") + 1, total=F("total") + 7, count=F("count") + 1)
    drain_all()
    meter.refresh_from_db()
    assert (meter.count, meter.total) == (most, 0)


@pytest.mark.postgres
def test_a_drain_refuses_to_run_inside_a_transaction() -> None:
    """It deletes the batch after its commit, so nothing may roll the commit back."""
    meter = Meter.objects.create()
    Meter.behind.update(meter.pk, count=F("count") + 1)
    [(partition, _)] = writebehind.dirty_partitions()
    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        writebehind.drain(partition)
    drain_all()
    meter.refresh_from_db()
    assert meter.count == 1


@pytest.mark.postgres
def test_a_worker_that_closes_a_batch_late_does_not_hide_queued_writes() -> None:
    """The partition stays dirty while it holds a write."""
    from cachebackend import protocol
    from cachebackend.writebehind.queue import project_queue

    client, meter = project_queue(), Meter.objects.create()
    for _ in range(2):
        Meter.behind.update(meter.pk, count=F("count") + 1)
        [(partition, _)] = writebehind.dirty_partitions()
        writebehind.drain(partition)
    Meter.behind.update(meter.pk, count=F("count") + 1)
    [state] = client.run(protocol.queue.queue_states(client.context, [partition]))[partition].values()
    assert isinstance(state, protocol.queue.QueueState)
    client.run(protocol.queue.close(client.context, state, partition, range(1, 2), "late"))
    assert [dirty for dirty, _ in writebehind.dirty_partitions()] == [partition]
    drain_all()
    meter.refresh_from_db()
    assert meter.count == 3
    assert connection.in_atomic_block is False
