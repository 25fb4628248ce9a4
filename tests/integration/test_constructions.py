"""A queryset that is made in the same way again is neither built nor compiled."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from datetime import datetime
from threading import get_ident
from typing import Any

import pytest
from django.core.exceptions import FieldError
from django.db import connection, transaction
from django.db.models import F, Q
from django.db.models.sql import Query
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation
from django.utils.functional import SimpleLazyObject

from cachebackend import RingCache, drivers, invalidate
from cachebackend.backend.open_transactions import any_changed
from cachebackend.effects import Ask, Send
from cachebackend.invalidation import catalogue
from cachebackend.queries import construction, plans, whole_rows
from tests.sessions import session
from tests.zones import Zone
from tests.zoo.models import Author, Kiosk, Novel, Poem, Shelf

pytestmark = [pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def cache(ring_cache: RingCache) -> RingCache:
    """The cache on empty nodes, in a process that has seen no queries."""
    construction._forget()
    return ring_cache


@pytest.fixture(autouse=True)
def authors() -> list[Author]:
    """Two authors with three poems each."""
    authors = [Author.objects.create(name=name) for name in "ab"]
    for author in authors:
        for n in range(3):
            Poem.objects.create(name=f"{author.name}{n}", author=author, rank=n)
    return authors


@contextmanager
def nothing_compiled() -> Iterator[None]:
    """Let Django build and compile no query."""

    def refuse(*_: Any, **__: Any) -> Any:
        message = "a query was built"
        raise AssertionError(message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Query, "get_compiler", refuse)
        patch.setattr(Query, "chain", refuse)
        yield


@contextmanager
def scatters() -> Iterator[list[int]]:
    """Collect the number of requests of each scatter of this thread."""
    counted: list[int] = []
    send, own = drivers._scatter, get_ident()

    def count(requests: Any, *args: Any) -> Any:
        if get_ident() == own:
            counted.append(len(requests))
        return send(requests, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drivers, "_scatter", count)
        yield counted


def first_author() -> Author:
    return Author.objects.get(name="a")


KINDS: dict[str, Callable[[], Any]] = {
    "rows": lambda: [(p.pk, p.name) for p in Poem.cached.filter(rank__gte=1).order_by("-name")[:3]],
    "by id": lambda: [p.name for p in Poem.cached.filter(author_id=1).exclude(rank=0).order_by("pk")],
    "count": lambda: Poem.cached.filter(rank=1).count(),
    "count of all": Poem.cached.count,
    "exists": lambda: Poem.cached.filter(rank=1).exists(),
    "does not exist": lambda: Poem.cached.filter(rank=100).exists(),
    "flat": lambda: list(Poem.cached.values_list("name", flat=True).order_by("name")),
    "tuples": lambda: list(Poem.cached.values_list("name", "rank").order_by("name")),
    "dicts": lambda: list(Poem.cached.filter(rank=1).values("rank", "name").order_by("name")),
    "Q": lambda: Poem.cached.filter(Q(rank=1) | ~Q(name="a2"), rank=F("rank")).count(),
    "in": lambda: sorted(p.name for p in Poem.cached.filter(rank__in=[0, 2])),
    "reverse": lambda: [p.name for p in Poem.cached.order_by("name").reverse()],
    "distinct": lambda: list(Poem.cached.values_list("rank").distinct().order_by("rank")),
    "all": lambda: len(Poem.cached.all().all()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_time_nothing_is_compiled(kind: str) -> None:
    """The result is the same, in the same types."""
    first = KINDS[kind]()
    with nothing_compiled():
        second = KINDS[kind]()
    assert repr(second) == repr(first)


@pytest.mark.postgres
def test_a_transaction_of_another_thread_costs_nothing() -> None:
    """It may have changed rows, which this thread does not see before its commit."""
    Poem.cached.count()
    with session("LOCK TABLE zoo_author"):
        assert any_changed()
        with nothing_compiled():
            assert Poem.cached.count() == 6
    assert not any_changed()


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_right_after_a_write(kind: str) -> None:
    """What is remembered is how to read, not what."""
    KINDS[kind]()
    Poem.objects.filter(name="a1").update(rank=2)
    Poem.objects.filter(name="b0").delete()
    after = KINDS[kind]()
    construction._forget()
    assert KINDS[kind]() == after


def test_an_instance_is_an_argument(authors: list[Author]) -> None:
    """By its model and its primary key."""
    for author in authors:
        assert Poem.cached.filter(author=author).count() == 3
        with nothing_compiled():
            assert (
                Poem.cached.filter(author=Author(pk=author.pk)).count() == 3
                if author._state.db is None
                else True
            )
            assert Poem.cached.filter(author=author).count() == 3


def test_a_lazy_object_is_the_instance_that_it_stands_for(authors: list[Author]) -> None:
    """As ``request.user``, which Django's middleware makes; the construction is that of the instance."""
    lazy = SimpleLazyObject(lambda: authors[0])
    read: list[Callable[[Any], Any]] = [
        lambda author: [poem.name for poem in Poem.cached.filter(author=author).order_by("name")],
        lambda author: Poem.cached.exclude(author=author).count(),
        lambda author: Poem.cached.filter(author=author).exists(),
        lambda author: Poem.cached.filter(author__in=[author]).count(),
        lambda author: Poem.cached.filter(Q(author=author)).count(),
        lambda author: Poem.cached.filter(author=author).order_by("name").first(),
        lambda author: Poem.cached.get(author=author, name="a1"),
    ]
    for each in read:
        assert each(lazy) == each(authors[0]) == each(lazy)
    with nothing_compiled():
        assert Poem.cached.filter(author=SimpleLazyObject(lambda: authors[0])).exists()


def test_a_lazy_object_can_be_a_tag(cache: RingCache, authors: list[Author]) -> None:
    """And what is cached of its row is invalidated, the row's lookups included."""
    lazy = SimpleLazyObject(lambda: authors[0])
    cache.get_or_set("page", 1, 60, tags=[lazy])
    assert Author.cached.get(name="a").rank == 0
    cache.set(Author.cached.key_of(name="a"), 2)
    invalidate(lazy)
    assert cache.get("page") is None
    assert cache.get(Author.cached.key_of(name="a")) is None


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, "1"), (0, False), (1, 1.0)], ids=str)
def test_arguments_of_other_types_are_other_constructions(one: Any, other: Any) -> None:
    """Python holds them equal, and the database may not."""
    step, _ = construction.followed(1, Poem, "filter", (), {"rank": one}) or (None, None)
    assert step != (construction.followed(1, Poem, "filter", (), {"rank": other}) or ("none", None))[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (datetime(2024, 1, 1, tzinfo=Zone(1)), datetime(2024, 1, 1, tzinfo=Zone(2))),
        (datetime(2024, 1, 1), datetime(2024, 1, 1, fold=1)),
        ({True: "a"}, {1: "a"}),
        ([{"a": {1: 2}}], [{"a": {True: 2}}]),
    ],
    ids=repr,
)
def test_values_that_look_the_same_are_other_constructions(one: Any, other: Any) -> None:
    """Two time zones may have one name, and JSON has the names of a dict as text."""
    steps = [
        construction.followed(1, Poem, "filter", (), {"rank": value}) for value in (one, other, deepcopy(one))
    ]
    assert None not in steps
    assert steps[0] != steps[1]
    assert steps[0] == steps[2]


def test_processes_that_know_another_schema_share_no_results() -> None:
    """One that was started before a migration does not know the trigger that the migration has added."""

    def loads() -> int:
        plans._forget()  # as another process, which has read nothing yet
        construction._forget()
        with CaptureQueriesContext(connection) as queries:
            Poem.cached.filter(rank=1).count()
        return len(queries)

    table = Poem._meta.db_table
    known = replace(catalogue.catalogue_of(table, "default"), has_before_row_triggers=True)
    assert [loads(), loads()] == [1, 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(catalogue._catalogues, catalogue._place(table, "default"), known)
        assert [loads(), loads()] == [1, 0]
    assert loads() == 0


def test_what_the_sql_takes_from_its_surroundings_is_asked_for() -> None:
    """The time zone, for example."""
    before = construction.surroundings("default")
    with timezone.override("Asia/Tokyo"):
        assert construction.surroundings("default") != before
    with translation.override("de"):
        assert construction.surroundings("default") != before
    assert construction.surroundings("default") == before


def test_an_error_comes_where_django_raises_it() -> None:
    """Also the second time."""
    for _ in range(2):
        with pytest.raises(FieldError):
            Poem.cached.filter(rank=1).filter(colour=2)


def test_a_list_that_is_changed_later_changes_nothing() -> None:
    """The argument is what it was when the method was called."""
    for _ in range(2):
        ranks = [0]
        queryset = Poem.cached.filter(rank__in=ranks)
        ranks.append(1)
        assert len(queryset) == 2
    assert str(queryset.query) == str(Poem.objects.filter(rank__in=[0]).query)


def grow_list(_: Any) -> tuple[Any, Callable[[], object]]:
    ranks = [1]
    return Q(rank__in=ranks), lambda: ranks.append(2)


def grow_condition(_: Any) -> tuple[Any, Callable[[], object]]:
    condition = Q(rank=1)
    return condition, lambda: condition.add(Q(rank=2), Q.OR)


def delete_instance(author: Author) -> tuple[Any, Callable[[], object]]:
    return Q(author=author), author.delete


@pytest.mark.parametrize("argument", [grow_list, grow_condition, delete_instance])
def test_an_argument_that_is_changed_later_changes_nothing(
    argument: Callable[[Any], tuple[Any, Callable[[], object]]], authors: list[Author]
) -> None:
    """Neither this queryset nor later ones, which are made with such arguments as they were then."""

    def expected(condition: Q) -> list[str]:
        return sorted(Poem.objects.filter(condition).values_list("name", flat=True))

    def make(condition: Q) -> Any:
        return Poem.cached.filter(condition).values_list("name", flat=True)

    first, change_first = argument(authors[0])
    plain = Poem.objects.filter(first)
    make(first)  # Django accepts the steps
    queryset = make(first)
    change_first()
    assert sorted(queryset) == sorted(each.name for each in plain)
    second, _ = argument(authors[1])
    assert sorted(make(second)) == expected(second)


def test_an_instance_is_compared_by_the_keys_of_its_parents() -> None:
    """A child may have a primary key of its own, and the key of a parent is another one."""
    kiosks = [Kiosk.objects.create(name=name, code=name) for name in "xy"]
    found = []
    for place in (kiosks[0].place_id, kiosks[1].place_id):
        for _ in range(2):
            child = Kiosk(code="x", id=place, place_id=place)
            found.append([each.name for each in Kiosk.cached.filter(place=child)])
    assert found == [["x"], ["x"], ["y"], ["y"]]


def test_a_query_that_other_code_has_changed_is_used() -> None:
    """Code that knows nothing of constructions may change the query in place."""
    for _ in range(2):
        queryset = Poem.cached.filter(rank=1).order_by("name")
        queryset.query.set_limits(high=1)
        assert len(queryset) == 1
        assert len(queryset.all()) == 1
        assert len(Poem.cached.filter(rank=1).order_by("name")) == 2


def test_other_methods_build_the_query() -> None:
    """And what follows is built as well."""
    for _ in range(2):
        queryset = Poem.cached.filter(rank=1).order_by("name")
        assert queryset.annotate(twice=F("rank") * 2)[0].twice == 2
        assert queryset.first() == Poem.objects.get(name="a1")
        assert (queryset | Poem.cached.filter(rank=2)).count() == 4
        assert Poem.cached.filter(pk__in=Poem.cached.filter(rank=1)).count() == 2
        assert queryset.select_related("author")[0].author.name == "a"


def test_a_transaction_reads_what_it_has_written() -> None:
    """It does not use what is remembered, and leaves it as it is."""
    queryset = Poem.cached.filter(rank=1)
    assert queryset.all().count() == 2
    with transaction.atomic():
        Poem.objects.update(rank=1)
        assert queryset.all().count() == 6
        assert len(queryset.all()) == 6
        transaction.set_rollback(True)
    with nothing_compiled():
        assert queryset.all().count() == 2


def test_a_row_that_is_found_twice_is_two_instances() -> None:
    """As Django returns them."""
    for _ in range(2):
        found = list(Author.cached.filter(poem__rank__lt=2).order_by("name"))
        assert [author.name for author in found] == ["a", "a", "b", "b"]
        assert found[0] is not found[1]


@pytest.mark.parametrize("most", [0, 50], ids=["after the list", "beside the list"])
def test_a_row_that_contradicts_the_query_is_not_returned(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row may have left the list between the read of the list and that of the row."""
    monkeypatch.setattr(whole_rows, "MAX_BESIDE", most)
    author = first_author()

    def read() -> list[str]:
        return [poem.name for poem in Poem.cached.filter(author=author).order_by("name")]

    assert read() == read() == ["a0", "a1", "a2"]
    reading = Poem.cached.reading

    def move_and_read(keys: Any) -> Any:
        yield Send([])  # with which the list is read
        Poem.objects.filter(name="a1").update(author=None)
        return (yield from reading(keys))

    with monkeypatch.context() as patch:
        patch.setattr(Poem.cached, "reading", move_and_read)
        assert read() == ["a0", "a2"]


def test_the_rows_of_a_list_are_read_in_its_scatter() -> None:
    """A process mostly reads the list that it has read before; another list costs a second scatter."""
    author = first_author()

    def read() -> int:
        with scatters() as counted:
            list(Poem.cached.filter(author=author).order_by("name"))
        return len(counted)

    read()
    assert read() == 2
    assert read() == 1
    Poem.objects.filter(name="a1").update(rank=9)
    read()
    assert read() == 1
    Poem.objects.create(name="a3", author=author)
    read()
    assert read() == 2
    assert read() == 1


def test_related_rows_are_read_in_the_same_scatter() -> None:
    """The first read of a process needs one for each level, and one more if a row refers to another one."""

    def read() -> int:
        with scatters() as counted:
            names = [poem.author and poem.author.name for poem in Poem.cached.select_related("author")]
        assert sorted(name or "" for name in names) == sorted(
            name or "" for name in Poem.objects.values_list("author__name", flat=True)
        )
        return len(counted)

    read()
    assert read() == 3
    assert read() == 1
    Poem.objects.filter(name="a1").update(author=Author.objects.create(name="c"))
    read()
    assert read() == 1
    Author.objects.filter(name="c").update(rank=5)
    read()
    assert read() == 1


def copies(operation: Any) -> Any:
    """Read rows as if all of them were copies in this process: nothing is sent."""
    found = drivers.drive(operation, Poem.cached.cache.client.nodes)
    return found
    yield


def questions(operation: Any) -> Any:
    """Read rows as if something had to be asked first."""
    yield Ask(list, list)
    return (yield from operation)


@pytest.mark.parametrize("kind", [copies, questions])
def test_rows_that_begin_otherwise_are_read_too(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is sent can go out with the list."""
    author = first_author()

    def read() -> list[str]:
        return [poem.name for poem in Poem.cached.filter(author=author).order_by("name")]

    read()
    read()
    reading = Poem.cached.reading
    monkeypatch.setattr(Poem.cached, "reading", lambda keys: kind(reading(keys)))
    assert read() == ["a0", "a1", "a2"]
    Poem.objects.create(name="a3", author=author)
    assert read() == read() == ["a0", "a1", "a2", "a3"]


def test_a_queryset_that_is_not_built_can_be_pickled() -> None:
    """It takes its rows with it, and neither the manager's queryset nor its steps."""
    for _ in range(2):
        queryset = Poem.cached.filter(rank=1).order_by("name")
        again = pickle.loads(pickle.dumps(queryset))
        assert [poem.name for poem in again] == ["a1", "b1"]
        assert again.filter(name="a1").count() == 1
        assert len(pickle.dumps(queryset)) < 5000


def test_options_are_a_step() -> None:
    """Another timeout is another construction."""
    for _ in range(2):
        queryset = Poem.cached.filter(rank=1).cached(timeout=7)
        assert queryset.cache_options.timeout == 7
        assert queryset.all().cache_options.timeout == 7
        assert queryset.count() == 2
    with nothing_compiled():
        assert Poem.cached.filter(rank=1).cached(timeout=7).count() == 2


def test_no_queryset_of_the_manager_is_changed_by_another(authors: list[Author]) -> None:
    """Django changes the known related objects of a queryset in place when two are combined."""
    combined = Poem.cached.filter(rank=1) | authors[0].poem_set.filter(rank=2)
    assert combined.count() == 3
    Author.objects.filter(pk=authors[0].pk).update(name="renamed")
    for _ in range(2):
        names = {poem.author.name for poem in Poem.cached.filter(author=authors[0])}
        assert names == {"renamed"}
    assert Poem.cached.all()._known_related_objects == {}


def test_threads_share_a_queryset(authors: list[Author]) -> None:
    """As views share that of their class: each gets the rows of the query, whichever builds it."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for turn in range(60):
            shared = Poem.cached.filter(rank=1).exclude(name=f"none {turn}")
            with ThreadPoolExecutor(4) as pool:
                # Django does not let two threads compile one query
                sql = set(pool.map(lambda _: str(shared.query.chain()), range(4)))  # noqa: B023  # used up here
            assert len(sql) == 1
            assert "WHERE" in sql.pop()
    finally:
        sys.setswitchinterval(interval)


def test_values_that_were_read_without_rows_have_no_form() -> None:
    """Which column is which is known from a row."""

    def read() -> list[Any]:
        return list(Poem.cached.filter(rank=77).values(x=F("rank")).values("x", "name"))

    assert read() == read() == []
    Poem.objects.create(name="new", rank=77)
    assert read() == read() == [{"x": 77, "name": "new"}]
    assert list(Poem.cached.values("name", "name").filter(rank=77)) == [{"name": "new"}]
    assert list(Poem.cached.values("name", "name").filter(rank=77)) == [{"name": "new"}]


def test_an_instance_beside_another_column_is_no_key(authors: list[Author]) -> None:
    """A column of text is compared with the text of the instance, which may change while its key does not."""
    for name in ("a1", "b1"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Author, "__str__", lambda _: name)  # noqa: B023  # it is called in this turn
            assert [poem.name for poem in Poem.cached.filter(name=authors[0])] == [name]


def test_an_instance_without_a_key_is_refused_as_django_does() -> None:
    """Also if its foreign key refers to another column, which it has."""
    assert list(Novel.cached.exclude(shelf=Shelf(pk=1, sign="x"))) == []
    with pytest.raises(ValueError, match="must be saved"):
        list(Novel.cached.exclude(shelf=Shelf(sign="x")))


def test_large_arguments_are_not_remembered() -> None:
    """A search box may send any text."""
    known = len(construction._known)
    assert Poem.cached.filter(name__contains="x" * 10_000).count() == 0
    assert len(construction._known) == known
