"""``select_related`` of cached querysets: the related rows come from their own entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import FieldError
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from cachebackend import RingCache
from cachebackend.queries.queryset import CachedQuerySet
from cachebackend.queries.whole_rows import WholeRows
from tests.zoo.models import Author, Desk, Draft, Genre, Novel, Poem, Shelf

pytestmark = [pytest.mark.django_db(transaction=True)]

NUMBER = 20


@pytest.fixture(autouse=True)
def cache(ring_cache: RingCache) -> RingCache:
    """The cache on empty nodes."""
    return ring_cache


@pytest.fixture(autouse=True)
def authors() -> list[Author]:
    """The authors of a list of novels, each of which has a genre; all but the first are sequels."""
    authors = [Author.objects.create(name=name, rank=n) for n, name in enumerate("ab")]
    genres = [Genre.objects.create(name=name) for name in "xy"]
    later = None
    for n in reversed(range(NUMBER)):
        author = authors[n % 2] if n != 5 else None
        later = Novel.objects.create(name=f"n{n:02}", author=author, genre=genres[n % 2], sequel=later)
    return authors


def statements(evaluate: Callable[[], Any]) -> list[str]:
    """Return the statements that the database gets."""
    with CaptureQueriesContext(connection) as captured:
        evaluate()
    return [each["sql"] for each in captured]


def novels() -> Any:
    return Novel.cached.select_related("author", "genre", "sequel__author").order_by("name")


def shown(queryset: Any) -> list[Any]:
    """Return what a page shows of novels; it reads nothing."""

    def of(novel: Any) -> Any:
        author = novel.author and (novel.author.name, novel.author.rank)
        return novel.name, author, novel.genre and novel.genre.name

    with CaptureQueriesContext(connection) as captured:
        found = list(queryset)
    read = len(captured)
    with CaptureQueriesContext(connection) as captured:
        pages = [(of(each), each.sequel and (each.sequel.name, each.sequel.author)) for each in found]
    assert len(captured) == 0, (read, captured.captured_queries)
    return pages


def plain(queryset: Any) -> list[Any]:
    """Return what the page shows of the rows in the database."""
    return shown(queryset.uncached())


@pytest.mark.postgres_or_sqlite
def test_a_changed_related_row_is_read_alone(authors: list[Author]) -> None:
    """A list of 20 rows costs one query for one row, and the result stays."""
    assert shown(novels()) == plain(novels())
    assert statements(lambda: list(novels())) == []
    Author.objects.filter(pk=authors[0].pk).update(rank=50)
    [statement] = statements(lambda: list(novels()))
    assert statement.endswith(f'"{Author._meta.db_table}"."id" = {authors[0].pk} LIMIT 2')
    assert shown(novels()) == plain(novels())


def test_it_says_so() -> None:
    """The result does not depend on columns of the related tables."""
    text = novels().filter(rank=0).explain_cache()
    assert "rows and author and genre and sequel and sequel__author are read from their own" in text
    assert Author._meta.db_table not in text
    assert Genre._meta.db_table not in text


@pytest.mark.parametrize(
    "write",
    [
        lambda a: Author.objects.filter(pk=a[0].pk).update(name="c"),
        lambda a: Author.objects.filter(pk=a[0].pk).delete(),
        lambda a: Genre.objects.filter(name="x").delete(),
        lambda a: Novel.objects.filter(name="n03").update(author=None, genre=None, sequel=None),
        lambda a: Novel.objects.filter(name="n05").update(author=a[0]),
        lambda a: Novel.objects.filter(name="n04").delete(),
        lambda a: Novel.objects.update(author=a[1]),
    ],
)
@pytest.mark.parametrize(
    "narrow",
    [
        lambda q: q,
        lambda q: q.filter(author__rank=0),
        lambda q: q.exclude(author__name="b"),
        lambda q: q.filter(genre__name="x", sequel__author__rank=1),
        lambda q: q.filter(author=None),
        lambda q: q.order_by("-author__name", "name")[3:9],
    ],
)
def test_a_list_is_right_after_writes(
    authors: list[Author], write: Callable[[Any], Any], narrow: Callable[[Any], Any]
) -> None:
    """It has the rows and the related rows that Django would join, again and again."""
    for _ in range(2):
        assert shown(narrow(novels())) == plain(narrow(novels()))
    write(authors)
    for _ in range(2):
        assert shown(narrow(novels())) == plain(narrow(novels()))


def test_each_row_has_related_instances_of_its_own() -> None:
    """As in Django: what is set on one is not set on the others. A one-to-one is set on both sides."""
    first, _, third, *_ = list(novels())
    assert first.author == third.author
    assert first.author is not third.author
    assert first.sequel.prequel is first


def test_a_related_row_that_contradicts_the_query(
    authors: list[Author], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write between the read of the result and that of the related rows: the result is read again."""
    queryset = novels().filter(author__name="a")
    assert len(shown(queryset.all())) == NUMBER // 2
    read = WholeRows._read
    writes = [lambda: Author.objects.filter(name="a").update(name="c")]

    def after_a_write(self: Any, wanted: Any, found: Any) -> None:
        if writes and Author in {each.model for each in wanted}:
            writes.pop()()
        read(self, wanted, found)

    monkeypatch.setattr(WholeRows, "_read", after_a_write)
    assert shown(queryset.all()) == []
    assert not writes


def test_a_row_whose_related_row_is_gone_is_read_again(
    authors: list[Author], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A foreign key is set to NULL with the delete of its row, between the reads of the two."""
    shown(novels())
    read = WholeRows._read
    writes = [lambda: Author.objects.filter(name="a").delete()]

    def after_a_write(self: Any, wanted: Any, found: Any) -> None:
        if writes and Author in {each.model for each in wanted}:
            writes.pop()()
        read(self, wanted, found)

    monkeypatch.setattr(WholeRows, "_read", after_a_write)
    assert shown(novels()) == plain(novels())
    assert not writes


def test_a_transaction_sees_its_own_changes(authors: list[Author]) -> None:
    """Of related rows, too; the list stays cached, and a rollback leaves nothing."""
    before = shown(novels())
    with transaction.atomic():
        Author.objects.filter(pk=authors[0].pk).update(name="c")
        assert shown(novels()) == plain(novels()) != before
        transaction.set_rollback(True)
    assert shown(novels()) == before
    assert statements(lambda: list(novels())) == []


@pytest.mark.parametrize(
    "queryset",
    [
        lambda: Novel.cached.select_related("shelf"),
        pytest.param(  # Django 6.1 warns
            Novel.cached.select_related,
            marks=pytest.mark.filterwarnings(
                "ignore:Calling select_related.. with no arguments is deprecated"
            ),
        ),
        lambda: Novel.cached.select_related("prequel"),
        lambda: Author.cached.select_related("desk"),
        lambda: Draft.cached.select_related("author"),
    ],
)
def test_what_must_be_joined_is_joined(queryset: Callable[[], Any]) -> None:
    """Keys to other columns, the other side of a relation, and keys without a constraint."""
    Shelf.objects.create(hall=1, side=1, sign="s")
    Desk.objects.create(name="d", author=Author.objects.first())
    Draft.objects.create(name="d", author_id=10**6)
    text = queryset().explain_cache()
    assert "own entries" not in text
    assert list(queryset()) == list(queryset().uncached())


def test_a_related_model_without_a_manager_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows have no entries of their own."""
    monkeypatch.setattr(Author.cached, "is_strict", True)
    assert "own entries" not in Poem.cached.select_related("author").explain_cache()


def test_an_unknown_name_raises_as_in_django() -> None:
    """When the queryset is evaluated; also if it is made again."""
    for _ in range(2):
        with pytest.raises(FieldError):
            list(Novel.cached.select_related("author_id"))


def test_other_querysets_of_the_model_are_unchanged() -> None:
    """A queryset that follows nothing has the same result, and sets no related row."""
    list(novels())
    queryset: CachedQuerySet[Novel] = Novel.cached.order_by("name")
    assert statements(lambda: list(queryset)) == []
    assert not Novel._meta.get_field("author").is_cached(queryset[0])
