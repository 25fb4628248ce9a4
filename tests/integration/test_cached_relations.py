"""Relations that are read through cached managers: managers of relations, prefetches, and arguments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.db.models import IntegerField, Prefetch, Q, prefetch_related_objects

from cachebackend import CachedManager
from cachebackend.invalidation import catalogue
from cachebackend.queries.whole_rows import WholeRows
from tests.integration.test_cached_queryset_users import cache, cached, names_of, poems, statements
from tests.shop.models import KeptManager, Note
from tests.zoo.models import Author, Kiosk, Label, Mark, Place, Poem, Post, Shelf, Visit

__all__ = ["cache", "poems"]
pytestmark = [pytest.mark.django_db(transaction=True)]


@pytest.fixture
def author() -> Author:
    return Author.objects.get(name="a")


def of(author: Author) -> Any:
    return author.poem_set(manager="cached")  # type: ignore[operator]  # django-stubs does not know it


def test_a_cached_manager_of_a_relation_reads_its_rows_alone(author: Author) -> None:
    """By key, by a query, and in bulk; a row of another author does not exist for it."""
    own, other = Poem.objects.get(name="a1"), Poem.objects.get(name="b1")
    for _ in range(2):
        assert of(author).get(pk=own.pk) == of(author).get(name="a1") == own
        assert of(author).in_bulk([own.pk, other.pk]) == {own.pk: own}
        assert sorted(names_of(of(author).all())) == ["a0", "a1", "a2"]
        assert (of(author).count(), of(author).filter(rank=1).count()) == (3, 1)
        for lookup in ({"pk": other.pk}, {"name": "b1"}):
            with pytest.raises(Poem.DoesNotExist):
                of(author).get(**lookup)
    assert statements(lambda: [of(author).count(), list(of(author).all())]) == 0


def test_a_row_of_a_relation_knows_its_other_end(author: Author) -> None:
    """As with a plain manager: no query is needed for it."""
    for _ in range(2):
        assert all(poem.author is author for poem in of(author).all())
        assert of(author).all()[0].author is author
        assert of(author).filter(rank=1).get().author is author
    assert Poem.cached.all().query  # the querysets of the model have no hints of an author
    assert Poem.cached.all()._hints == {}


@pytest.mark.parametrize(
    ("query", "changed", "read"),
    [
        (lambda: Poem.cached.filter(name="a1").select_related("author"), Author, lambda row: row.author.rank),
        (
            lambda: Poem.cached.filter(name="a1").select_related("author").order_by("pk")[:1],
            Author,
            lambda row: row.author.rank,
        ),
        (lambda: Kiosk.cached.filter(code="k"), Place, lambda row: row.rank),
        (Kiosk.cached.all, Place, lambda row: row.rank),
    ],
    ids=["related rows", "related rows of a slice", "rows of a child model", "all rows of a child model"],
)
@pytest.mark.parametrize("why", ["is_changed_by_cascade", "has_row_security", "is_partition_or_inherits"])
def test_rows_of_a_table_that_is_not_cached_are_read_from_the_database(
    query: Any, changed: Any, read: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the query that finds their primary keys does not name the table."""
    Kiosk.objects.create(name="k", code="k")
    table = changed._meta.db_table
    known = replace(catalogue.catalogue_of(table, "default"), **{why: True})
    monkeypatch.setitem(catalogue._catalogues, catalogue._place(table, "default"), known)
    assert [read(row) for row in query()] == [read(row) for row in query()]
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET rank = 7")
    assert [read(row) for row in query()] == [7]
    assert "not cached" in query().explain_cache()


def test_rows_that_the_base_manager_hides_are_in_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a row has no entry of its own, so the result holds the rows."""
    hiding = KeptManager()
    hiding.model = Note
    monkeypatch.setattr(Note._meta, "base_manager", hiding)
    Note.everything.bulk_create([Note(text="kept"), Note(text="hidden", removed=True)])

    def read() -> list[Note]:
        return list(Note.cached_everything.order_by("pk"))

    assert [note.text for note in read()] == ["kept", "hidden"]
    assert statements(read) == 0
    assert "own entries" not in Note.cached_everything.order_by("pk").explain_cache()
    Note.everything.update(text="changed")
    assert [note.text for note in read()] == ["changed", "changed"]


def test_a_relation_is_written_through_its_cached_manager(author: Author) -> None:
    """And the next read sees it."""
    assert of(author).count() == 3
    of(author).create(name="a7", rank=1)
    assert of(author).count() == 4
    post, label = Post.objects.create(name="p"), Label.objects.create(name="l")

    def labels() -> Any:
        return post.labels(manager="cached")  # type: ignore[operator]  # the same

    assert names_of(labels().all()) == []
    labels().add(label)
    assert names_of(labels().all()) == names_of(labels().filter(name="l")) == ["l"]
    labels().remove(label)
    assert labels().count() == 0
    with pytest.raises(Label.DoesNotExist):
        labels().get(pk=label.pk)


def test_a_manager_of_a_relation_has_the_options_of_its_own_manager() -> None:
    """A model may have several."""
    managers = [vars(Note)["cached"], vars(Note)["cached_everything"]]
    for manager in managers:
        related = type(manager)()
        related.model = Note
        assert isinstance(related, CachedManager)
        assert related.get_queryset().cache_options == manager.get_queryset().cache_options
        assert related._keys.asked({"pk": 1}) is None
        assert manager._keys.asked({"pk": 1}) is not None
    Note.objects.create(text="a", removed=True)
    assert [manager.all().count() for manager in managers] == [0, 1]


def test_a_generic_relation_is_read_through_a_cached_manager(author: Author) -> None:
    """The type of the content binds rows, too."""
    kind = ContentType.objects.get_for_model(Author)
    for _ in range(2):
        assert Mark.cached.filter(content_type=kind, object_id=author.pk).count() == 0
    Mark.objects.create(name="m", target=author)
    assert Mark.cached.filter(content_type=kind, object_id=author.pk).get().target == author


def test_a_prefetch_may_read_a_cached_queryset(author: Author) -> None:
    """In a plain queryset and in a cached one, and for instances that exist."""

    def prefetch() -> Any:
        return Prefetch("poem_set", cached().filter(rank__gt=0).order_by("name"), to_attr="great")

    for outer in (Author.objects.all(), cached(Author), cached(Author)):
        found = outer.prefetch_related(prefetch()).order_by("name")
        assert [names_of(each.great) for each in found] == [["a1", "a2"], ["b1", "b2"]]
        assert all(poem.author is each for each in found for poem in each.great)
    assert statements(lambda: list(found.all())) == 0
    Poem.objects.filter(name="a1").update(rank=0)
    assert [names_of(each.great) for each in found.all()] == [["a2"], ["b1", "b2"]]
    prefetch_related_objects([author], Prefetch("poem_set", Poem.cached.order_by("name")))
    assert names_of(author.poem_set.all()) == ["a0", "a1", "a2"]


# Arguments that change after they are given


def test_a_query_has_its_arguments_as_they_were(author: Author) -> None:
    """An instance, a list, and both in conditions: the caller may use them for something else."""
    other = Author.objects.get(name="b")
    for _ in range(2):
        row, ranks = Author.objects.get(name="a"), [0]
        made = {
            "instance": cached().filter(author=row),
            "condition": cached().filter(Q(author=row) & ~Q(rank__in=ranks)),
            "list": cached().filter(rank__in=ranks),
            "tuple": cached().filter(Q(("author", row)) | Q(name="none")),
        }
        row.pk = other.pk
        ranks.append(1)
        assert sorted(names_of(made["instance"])) == ["a0", "a1", "a2"]
        assert sorted(names_of(made["condition"])) == ["a1", "a2"]
        assert sorted(names_of(made["list"])) == ["a0", "b0"]
        assert sorted(names_of(made["tuple"])) == ["a0", "a1", "a2"]


def test_an_argument_that_changes_misleads_no_other_query(author: Author) -> None:
    """What is remembered of a construction is that of its arguments when it was made."""
    cached().filter(author=Author.objects.get(name="a")).reverse()  # the construction is known now
    row = Author.objects.get(name="a")
    queryset = cached().filter(author=row)
    row.pk = Author.objects.get(name="b").pk
    assert queryset.count() == 3
    list(queryset)
    Poem.objects.create(name="a9", author=author)
    assert cached().filter(author=author).count() == 4
    assert sorted(names_of(cached().filter(author=author))) == ["a0", "a1", "a2", "a9"]


@pytest.fixture
def _no_bound_integers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Foreign keys whose values do not decide about rows, as those to long texts."""
    monkeypatch.delitem(catalogue._KINDS, IntegerField)
    catalogue.forget_catalogues()
    yield
    catalogue.forget_catalogues()


@pytest.mark.usefixtures("_no_bound_integers")
def test_rows_that_are_prefetched_by_a_key_that_is_not_bound_are_in_the_result(author: Author) -> None:
    """Rows from their own entries would not be compared with it, and Django raises if one has moved."""
    own = Prefetch("poem_set", Poem.cached.order_by("name"), to_attr="poems")

    def prefetched() -> list[int]:
        found: Any = Author.objects.get(pk=author.pk)
        prefetch_related_objects([found], own)
        return [poem.rank for poem in found.poems]

    assert "own entries" in Poem.cached.filter(author=author).explain_cache()
    assert "own entries" not in Poem.cached.filter(author__in=[author]).explain_cache()
    _, *others = prefetched()
    Poem.objects.filter(name="a0").update(rank=7)
    assert prefetched() == prefetched() == [7, *others]


@pytest.mark.parametrize("count", [2, 50])
def test_a_row_that_moves_while_it_is_prefetched(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It belongs to none of the instances any more, however many there are, and Django looks for its one.

    1. reader    reads the result of the prefetch: the primary keys of the poems of some authors
    2. writer    moves a poem to another author, and commits
    3. reader    reads the poems from their own entries: one has that author
    """
    authors = [Author.objects.create(name=f"author {n}") for n in range(count)]
    moved, *_ = [Poem.objects.create(name=f"of {author.name}", author=author) for author in authors]
    another = Author.objects.create(name="another")
    prefetched = Prefetch("poem_set", Poem.cached.all(), to_attr="poems")

    def read() -> list[int]:
        found = Author.cached.filter(name__startswith="author ").order_by("pk")
        return [len(each.poems) for each in found.prefetch_related(prefetched)]

    assert read() == read() == [1] * count
    instances = WholeRows.instances

    def after_a_move(whole: WholeRows, *args: Any) -> Any:
        if whole.manager.model is Poem:
            Poem.objects.filter(pk=moved.pk).exclude(author=another).update(author=another)
        return instances(whole, *args)

    monkeypatch.setattr(WholeRows, "instances", after_a_move)
    assert read() == [0, *[1] * (count - 1)]


def test_a_row_that_moves_while_it_is_prefetched_by_two_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, with a relation of two columns."""
    shelf = Shelf.objects.create(hall=1, side=1, sign="a")
    Visit.objects.create(name="visit", hall=1, side=1)
    prefetched = Prefetch("visit_set", Visit.cached.all(), to_attr="visits")

    def read() -> list[str]:
        found: Any = Shelf.objects.get(pk=shelf.pk)
        prefetch_related_objects([found], prefetched)
        return [visit.name for visit in found.visits]

    assert read() == read() == ["visit"]
    instances = WholeRows.instances

    def after_a_move(whole: WholeRows, *args: Any) -> Any:
        Visit.objects.update(side=2)
        return instances(whole, *args)

    monkeypatch.setattr(WholeRows, "instances", after_a_move)
    assert read() == ["visit"]
    monkeypatch.undo()
    Visit.objects.update(side=2)
    assert read() == []
