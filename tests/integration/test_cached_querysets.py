"""Cached querysets: what is read from the ring, and when the database is asked again."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.contrib.postgres.search import SearchQuery, SearchVector
from django.db import connection, transaction
from django.db.models import Avg, CharField, Count, F, IntegerField, Prefetch, QuerySet, Sum
from django.db.models.expressions import RawSQL
from django.db.models.functions import Cast, Now
from django.db.models.signals import post_init
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from cachebackend import RingCache, invalidate
from cachebackend.invalidation import columns
from cachebackend.invalidation.catalogue import forget_catalogues
from cachebackend.queries.options import QueryOptions
from cachebackend.queries.queryset import CachedQuerySet, cached_queryset
from cachebackend.writebehind.transactions import limited_transaction
from tests.zoo.models import Author, Label, Mark, Novel, Poem, Post

pytestmark = [pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def cache(ring_cache: RingCache) -> RingCache:
    """The cache on empty nodes."""
    return ring_cache


@pytest.fixture
def authors() -> list[Author]:
    return [Author.objects.create(name=name, rank=n) for n, name in enumerate("ab")]


@pytest.fixture(autouse=True)
def poems(authors: list[Author]) -> list[Poem]:
    return [
        Poem.objects.create(name=f"{author.name}{n}", author=author, rank=n)
        for author in authors
        for n in range(3)
    ]


def cached(model: Any = Poem) -> Any:
    return model.cached.all()


def statements(evaluate: Any) -> int:
    """Return how many statements the database gets."""
    with CaptureQueriesContext(connection) as captured:
        evaluate()
    return len(captured)


KINDS = {
    "rows": lambda: list(cached().filter(rank=1).order_by("name")),
    "rows of an author": lambda: [p.name for p in cached().filter(author__name="a").order_by("-rank")[:2]],
    "count": lambda: cached().filter(rank=1).count(),
    "count of all": lambda: cached().count(),
    "exists": lambda: cached().filter(rank=1).exists(),
    "not exists": lambda: cached().filter(rank=100).exists(),
    "aggregate": lambda: cached().aggregate(a=Avg("rank"), n=Count("author", distinct=True)),
    "values": lambda: list(cached().values("name", "rank").order_by("name")),
    "values_list": lambda: list(cached().values_list("name", flat=True).order_by("name")),
    "named": lambda: [r.name for r in cached().values_list("name", named=True).order_by("name")],
    "annotate": lambda: [a.n for a in cached(Author).annotate(n=Count("poem")).order_by("pk")],
    "group": lambda: list(cached().values("author").annotate(n=Count("pk")).order_by("author")),
    "get": lambda: cached().get(name="a1"),
    "first": lambda: cached().order_by("rank", "name").first(),
    "last": lambda: cached().order_by("rank", "name").last(),
    "none": lambda: cached().filter(rank=77).first(),
    "contains": lambda: cached().filter(rank__lt=9).contains(Poem(pk=10**6)),
    "in_bulk": lambda: sorted(cached().in_bulk(["a0", "a1"], field_name="name")),
    "distinct": lambda: list(cached().values_list("rank").distinct().order_by("rank")),
    "union": lambda: list(
        cached()
        .filter(rank=0)
        .values_list("name")
        .union(cached().filter(rank=2).values_list("name"))
        .order_by("name")
    ),
    "select_related": lambda: [p.author.name for p in cached().select_related("author").order_by("name")],
    "prefetch": lambda: [
        [p.name for p in a.poem_set.all()]
        for a in cached(Author).prefetch_related("poem_set").order_by("name")
    ],
    "Prefetch": lambda: [
        [p.name for p in a.top]
        for a in cached(Author)
        .prefetch_related(Prefetch("poem_set", Poem.objects.filter(rank=2), to_attr="top"))
        .order_by("name")
    ],
    "only": lambda: [p.name for p in cached().only("name").order_by("name")],
    "latest": lambda: cached().latest("rank", "name"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_asks_the_database_once(kind: str) -> None:
    """The second time it has the same result, from the ring."""
    before = KINDS[kind]()
    again: list[Any] = []
    assert statements(lambda: again.append(KINDS[kind]())) == 0
    assert again == [before]


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_is_right_after_writes(kind: str, authors: list[Author], poems: list[Poem]) -> None:
    """After each write, it has the result of the same query in a plain queryset."""

    def plain() -> Any:
        with pytest.MonkeyPatch.context() as patch:
            from cachebackend.queries import evaluation

            patch.setattr(evaluation.Evaluation, "read", lambda *_: None)
            patch.setattr(CachedQuerySet, "_whole_rows", lambda _: None)
            return KINDS[kind]()

    def check() -> None:
        assert KINDS[kind]() == plain()

    check()
    for write in (
        lambda: Poem.objects.filter(name="a1").update(rank=2),
        lambda: Poem.objects.filter(name="a0").update(author=authors[1]),
        lambda: Poem.objects.create(name="a9", rank=1, author=authors[0]),
        lambda: Author.objects.filter(name="a").update(name="c"),
        lambda: Author.objects.filter(name="c").update(name="a"),
        lambda: Poem.objects.update(rank=F("rank") + 1),
        lambda: Poem.objects.filter(rank=2).delete(),
        authors[1].delete,
    ):
        write()
        check()


def test_a_change_of_another_column_leaves_the_list(poems: list[Poem]) -> None:
    """The changed row alone is loaded again."""
    queryset = cached().filter(author=poems[0].author_id).order_by("name")
    list(queryset)
    Poem.objects.filter(pk=poems[0].pk).update(rank=50)
    assert statements(lambda: [p.rank for p in queryset.all()]) == 1
    assert [p.rank for p in queryset.all()] == [50, 1, 2]


@pytest.mark.postgres
@pytest.mark.parametrize("is_read_before", [False, True])
@pytest.mark.parametrize(
    "sql",
    [
        "SET LOCAL TIME ZONE 'Asia/Tokyo'",
        "SELECT set_config('timezone', 'Asia/Tokyo', true)",
        "DO $$ BEGIN SET LOCAL TIME ZONE 'Asia/Tokyo'; END $$",
    ],
)
def test_a_time_zone_of_a_transaction_is_its_own(sql: str, is_read_before: bool) -> None:
    """Its texts of moments are not those of other transactions, in either direction."""
    Novel.objects.create(name="a", since=datetime(2026, 1, 1, 20, tzinfo=UTC))

    def days() -> list[str]:
        texts = Novel.cached.values_list(Cast("since", CharField(max_length=40)), flat=True)
        return [text[:10] for text in texts]

    if is_read_before:
        assert days() == days() == ["2026-01-01"]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql)
        assert days() == days() == ["2026-01-02"]
        assert "time zone" in Novel.cached.all().explain_cache()
    assert days() == days() == ["2026-01-01"]
    assert statements(days) == 0


@pytest.mark.postgres
@pytest.mark.parametrize("sql", ["RESET search_path", "DO $$ BEGIN SET LOCAL search_path = public; END $$"])
def test_a_transaction_that_ends_a_setting_of_its_connection_has_rows_of_its_own(sql: str) -> None:
    """Other connections have the setting still: a site makes it for each."""
    here = Author.objects.create(name="here")
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA other; CREATE TABLE other.zoo_author (LIKE zoo_author)")
        cursor.execute("INSERT INTO other.zoo_author SELECT id, 'there', rank FROM zoo_author")
        try:
            cursor.execute("SET search_path = other, public")
            assert Author.cached.get(pk=here.pk).name == "there"
            with transaction.atomic():
                cursor.execute(sql)
                assert Author.cached.get(pk=here.pk).name == "here"
            cursor.execute("SET search_path = other, public")
            assert Author.cached.get(pk=here.pk).name == "there"
        finally:
            cursor.execute("RESET search_path; DROP SCHEMA other CASCADE")


@pytest.mark.postgres
def test_a_transaction_with_a_search_path_of_its_own_decides_nothing_for_others() -> None:
    """Its table of the same name has another type, so that an equality does not decide about its rows."""
    queryset = Author.cached.filter(name="of two schemas")
    forget_catalogues()
    with connection.cursor() as cursor, transaction.atomic():
        cursor.execute("CREATE SCHEMA other; CREATE TABLE other.zoo_author (id int, name text, rank int)")
        cursor.execute("SET LOCAL search_path = other, public")
        assert "setting" in queryset.explain_cache()
        transaction.set_rollback(True)
    assert "rows with name = of two schemas" in queryset.all().explain_cache()


@pytest.mark.postgres
@pytest.mark.parametrize(
    "sql",
    ["SET LOCAL default_text_search_config = 'simple'", "SET LOCAL search_path = pg_temp, other, public"],
)
def test_a_setting_of_a_transaction_makes_results_of_its_own(sql: str) -> None:
    """What it finds is not what other transactions find."""
    Author.objects.create(name="the cats")
    queryset = Author.cached.annotate(words=SearchVector("name")).filter(words=SearchQuery("cat"))
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA other; CREATE TABLE other.zoo_author (LIKE zoo_author)")
        try:
            with transaction.atomic():
                cursor.execute(sql)
                assert list(queryset.all()) == []
                assert "setting" in queryset.explain_cache()
            assert [author.name for author in queryset.all()] == ["the cats"]
        finally:
            cursor.execute("DROP SCHEMA other CASCADE")


@pytest.mark.postgres
@pytest.mark.parametrize(
    "sql",
    [
        "SET LOCAL search_path = other, public",
        "SET LOCAL lock_timeout = '9s'; SET LOCAL search_path = other, public",
        "SELECT 1, set_config('search_path', 'other, public', true)",
    ],
)
@pytest.mark.parametrize(
    "read",
    [
        lambda pk: Author.cached.get(pk=pk).rank,
        lambda pk: Author.cached.get(name="a").rank,
        lambda pk: Author.cached.in_bulk([pk])[pk].rank,
        lambda pk: next(author.rank for author in Author.cached.filter(pk=pk)),
        lambda pk: Author.cached.values_list("rank", flat=True).get(pk=pk),
    ],
)
def test_a_transaction_with_another_schema_has_rows_of_its_own(
    authors: list[Author], sql: str, read: Any
) -> None:
    """It stores none that others read, and reads none that others have stored."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA other; CREATE TABLE other.zoo_author AS TABLE zoo_author")
        cursor.execute("UPDATE other.zoo_author SET rank = 7 WHERE name = 'a'")
        try:
            for _ in range(2):
                with transaction.atomic():
                    cursor.execute(sql)
                    assert read(authors[0].pk) == 7
                assert read(authors[0].pk) == 0
        finally:
            cursor.execute("DROP SCHEMA other CASCADE")


@pytest.mark.postgres
def test_limits_of_time_change_no_result() -> None:
    """A transaction reads from the ring after a batch of write-behind, which sets them."""
    with transaction.atomic():
        with limited_transaction("default"):
            pass
        assert "not cached" not in cached().explain_cache()


@pytest.mark.postgres
def test_results_with_aware_times_have_a_key_of_their_own() -> None:
    """After a deploy that changes USE_TZ, those with naive times are misses."""
    explained = Poem.cached.all().explain_cache()
    with override_settings(USE_TZ=not settings.USE_TZ):
        assert Poem.cached.all().explain_cache() != explained


def test_a_decimal_that_changes_its_scale_alone() -> None:
    """In a column without a scale, 1.0 and 1.00 are equal, and are returned as they are."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE zoo_novel ALTER price TYPE numeric")
        forget_catalogues()
        try:
            novel = Novel.objects.create(name="a", price=Decimal("1.0"))
            prices = Novel.cached.values_list(Cast("price", CharField(max_length=40)), flat=True)
            assert list(prices.all()) == list(prices.all()) == ["1.0"]
            Novel.objects.filter(pk=novel.pk).update(price=Decimal("1.00"))
            assert list(prices.all()) == ["1.00"]
        finally:
            cursor.execute("ALTER TABLE zoo_novel ALTER price TYPE numeric(6, 2)")
            forget_catalogues()


def test_a_transaction_sees_its_own_changes(poems: list[Poem]) -> None:
    """Its changes are not stored, and are gone after the rollback."""
    queryset = cached().filter(rank=1)
    assert queryset.all().count() == 2
    with transaction.atomic():
        Poem.objects.filter(pk=poems[0].pk).update(rank=1)
        assert queryset.all().count() == 3
        assert "the open transaction has changed a table" in queryset.explain_cache()
        transaction.set_rollback(True)
    assert statements(lambda: queryset.all().count()) == 0
    assert queryset.all().count() == 2


def test_what_is_not_cached_says_why() -> None:
    """And has the right result all the same."""
    queryset = cached().annotate(now=Now())
    assert len(queryset) == 6
    assert queryset.explain_cache() == ("not cached: Now() has another value each time that the query runs")


def test_what_is_cached_says_how() -> None:
    """The key, and the tables with what the result depends on."""
    text = cached().filter(rank=1).explain_cache()
    assert "zoo_poem: rows with rank = 1; id, rank" in text
    assert "rows are read from their own entries" in text


def test_a_queryset_can_be_pickled(poems: list[Poem]) -> None:
    """With its result, and its query with its options."""
    queryset = cached().filter(rank=1).cached(timeout=7)
    again = pickle.loads(pickle.dumps(queryset))
    assert list(again) == list(queryset)
    assert again.cache_options == queryset.cache_options
    other = cached().none()
    other.query = pickle.loads(pickle.dumps(queryset.query))
    assert list(other) == list(queryset)


def test_a_queryset_reads_related_rows_in_its_own_way(poems: list[Poem]) -> None:
    """Also if the rows are read from their own entries otherwise."""
    modes = pytest.importorskip("django.db.models.fetch_modes", reason="came with Django 6.1")
    for _ in range(2):
        [poem, *_] = Poem.cached.fetch_mode(modes.FETCH_RAISE)
        with pytest.raises(modes.FieldFetchBlocked):
            _ = poem.author
        assert [each.author for each in Poem.cached.order_by("pk")] == [each.author for each in poems]


def test_a_plain_queryset_asks_the_database() -> None:
    """With the same query."""
    queryset = cached().filter(rank=1)
    list(queryset)
    assert statements(lambda: list(queryset.uncached())) == 1


def test_writing_through_a_cached_queryset(poems: list[Poem]) -> None:
    """It writes what the database has."""
    queryset = cached().filter(rank=1)
    list(queryset)
    assert queryset.all().update(rank=8) == 2
    assert not queryset.all()
    assert cached().filter(rank=8).delete()[0] == 2
    assert cached().count() == 4


def test_a_queryset_that_was_read_and_deleted_is_read_again() -> None:
    """As a plain one, which has no rows after ``delete()``."""
    queryset = cached().filter(rank=1)
    assert len(queryset) == 2
    queryset.delete()
    assert list(queryset) == []


def test_the_rows_of_the_other_end_of_a_relation(poems: list[Poem]) -> None:
    """They are found by a row, or by its key, and found no more when it has moved."""
    for other in (poems[0], poems[0].pk):
        assert [each.name for each in cached(Author).filter(poem=other)] == ["a"]
    Poem.objects.filter(pk=poems[0].pk).update(author=poems[-1].author)
    for other in (poems[0], poems[0].pk):
        assert [each.name for each in cached(Author).filter(poem=other)] == ["b"]
    post = Post.objects.create(name="post")
    mark = Mark.objects.create(name="mark", target=post)
    assert cached(Post).filter(marks=mark.pk).count() == 1
    Mark.objects.update(object_id=None)
    assert cached(Post).filter(marks=mark.pk).count() == 0


def test_a_union_that_is_ordered_by_a_column_that_is_not_selected() -> None:
    """Django adds this column to the parts of the union when it compiles them, also if it does so again."""

    def union(of: Any) -> Any:
        return of(Poem).filter(rank=1).union(of(Poem).filter(rank=2)).order_by("name")

    for _ in range(2):
        for form in (
            lambda queryset: list(queryset.values("rank")),
            lambda queryset: list(queryset.values_list("rank", flat=True)),
            lambda queryset: list(queryset.values_list("rank", "author")),
        ):
            assert form(union(cached)) == form(union(QuerySet))


def test_a_table_with_too_many_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The results of further ones depend on every change of the table, and are cached as well."""
    monkeypatch.setattr("cachebackend.protocol.cache.shapes.MAX_SHAPES", 0)

    def count() -> int:
        return int(cached().filter(rank=1).count())

    assert count() == count() == 2
    assert statements(count) == 0
    Poem.objects.filter(name="a0").update(name="other")
    assert statements(count) == 1
    Poem.objects.filter(name="other").update(rank=1)
    assert count() == 3
    assert len(cached().filter(rank=1)) == 3  # it finds that its shard is full
    assert "zoo_poem: all rows; all columns" in cached().filter(rank=1).explain_cache()


def test_what_is_prefetched_does_not_have_the_options_of_its_owner() -> None:
    """SQL of the caller in it reads other tables than that in the query of its owner."""
    number = RawSQL("(SELECT COUNT(*) FROM zoo_label)", (), output_field=IntegerField())
    own = Poem.cached.cached(depends_on=[Label]).annotate(n=number)
    for queryset in (own, Poem.objects.annotate(n=number)):
        authors = cached(Author).cached(depends_on=[Author]).annotate(n=number)
        prefetched = authors.prefetch_related(Prefetch("poem_set", queryset.all(), to_attr="poems"))
        before = Label.objects.count()
        for count in (before, before, before + 1):
            if count > before:
                Label.objects.create(name=str(count))
            numbers = {poem.n for author in prefetched.all() for poem in author.poems}
            assert numbers == {count}


@pytest.mark.parametrize("number", [F("rank"), RawSQL("1", [])], ids=["cached", "not cached"])
@pytest.mark.parametrize("is_prefetched", [False, True], ids=["rows", "prefetched rows"])
def test_what_is_queried_while_instances_are_made_is_read_from_the_database(
    is_prefetched: bool, number: Any
) -> None:
    """A receiver of ``post_init`` asks a plain manager: no block of a cached queryset answers it."""
    numbers: list[int] = []

    def receive(**_: Any) -> None:
        numbers.append(Label.objects.count())

    def read() -> None:
        poems = cached().filter(rank=1).annotate(n=number)
        own = Author.cached.prefetch_related(Prefetch("poem_set", poems))
        list(own if is_prefetched else poems)

    read()
    post_init.connect(receive, sender=Poem)
    try:
        read()
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO zoo_label (name, rank) VALUES ('another', 0)")
        read()
    finally:
        post_init.disconnect(receive, sender=Poem)
    before, after = numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]
    assert [count + 1 for count in before] == after


def test_depends_on_includes_the_relations_of_a_model() -> None:
    """As a tag of the model does: the rows at both ends of a change count as changed."""
    post, label = Post.objects.create(name="post"), Label.objects.create(name="label")
    number = RawSQL("(SELECT COUNT(*) FROM zoo_post_labels)", (), output_field=IntegerField())
    numbers = Author.cached.cached(depends_on=[Label]).annotate(n=number).values_list("n", flat=True)
    assert set(numbers.all()) == {0}
    post.labels.add(label)
    assert set(numbers.all()) == {1}
    assert statements(lambda: list(numbers.all())) == 0


def test_what_a_model_reads_while_it_is_made_does_not_have_the_options_of_its_query() -> None:
    """Its SQL reads other tables."""
    number = RawSQL("(SELECT COUNT(*) FROM zoo_label)", (), output_field=IntegerField())
    numbers: list[int] = []

    def count_labels(**_: Any) -> None:
        numbers.append(Author.objects.annotate(n=number).values_list("n", flat=True)[0])

    poems = cached().cached(depends_on=[Poem]).annotate(n=number)
    post_init.connect(count_labels, sender=Poem)
    try:
        for count in range(2):
            for _ in range(2):
                list(poems.all())
                assert numbers.pop() == count
            Label.objects.create(name=str(count))
    finally:
        post_init.disconnect(count_labels, sender=Poem)


def test_an_uncached_queryset_is_read_from_the_database_where_it_is_prefetched() -> None:
    """Also if it was filtered after that, and not if it was made a cached one again."""
    for queryset, count in (
        (Poem.cached.uncached(), 1),
        (Poem.cached.uncached().filter(rank__gte=0), 1),
        (cached_queryset(Poem.cached.uncached(), QueryOptions()), 0),
        (Poem.objects.all(), 0),
    ):
        prefetch = Prefetch("poem_set", queryset, to_attr="poems")
        authors = cached(Author).prefetch_related(prefetch)
        list(authors.all())
        assert statements(lambda authors=authors: list(authors.all())) == count


@pytest.mark.parametrize("end", ["row", "other row", "model", "other model"])
def test_either_end_of_a_relation_that_raw_sql_has_changed_can_be_invalidated(end: str) -> None:
    """No tag names a row of a many-to-many table that Django makes by itself."""
    post, label = Post.objects.create(name="post"), Label.objects.create(name="label")
    targets = {"row": post, "other row": label, "model": Post, "other model": Label}
    numbers = [Label.cached.filter(posts=post.pk).count, Post.cached.filter(labels=label.pk).count]
    assert [number() for number in numbers] == [0, 0]
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO zoo_post_labels (post_id, label_id) VALUES ({post.pk}, {label.pk})")
    invalidate(targets[end])
    assert [number() for number in numbers] == [1, 1]


def test_the_manager_has_every_method_of_a_queryset() -> None:
    """No attribute of its own hides one, such as ``alias``."""
    names = {name for name in dir(type(Poem.objects)) if not name.startswith("_")}
    values = {"auto_created", "creation_counter", "db", "model", "name", "use_in_migrations"}
    assert [name for name in sorted(names - values) if not callable(getattr(Poem.cached, name, None))] == []
    assert Poem.cached.alias(twice=F("rank") * 2).filter(twice=2).count() == 2


@pytest.mark.parametrize("codec", ["auto", "pickle", "signed-pickle", "json", "msgpack"])
def test_every_codec_holds_results(codec: str, settings: Any) -> None:
    """Their rows are lists, which JSON knows."""
    block = settings.CACHES["default"]
    options = block.get("OPTIONS", {}) | {"codec": codec}
    settings.CACHES = settings.CACHES | {"default": block | {"OPTIONS": options, "KEY_PREFIX": codec}}

    def read() -> Any:
        rows = cached().filter(rank=1).order_by("name")
        return [p.name for p in rows], list(rows.values_list("name", "rank")), rows.count(), rows.exists()

    assert read() == read() == (["a1", "b1"], [("a1", 1), ("b1", 1)], 2, True)
    assert statements(read) == 0


@pytest.mark.postgres
def test_a_result_that_the_codec_refuses_is_not_cached(settings: Any) -> None:
    """A sum of integers is a decimal; no check of columns shows it. The process tries it once."""
    block = settings.CACHES["default"]
    options = block.get("OPTIONS", {}) | {"codec": "json"}
    settings.CACHES = settings.CACHES | {"default": block | {"OPTIONS": options, "KEY_PREFIX": "json"}}
    sums = cached(Author).annotate(n=Sum("poem__pk")).values_list("n", flat=True)
    for _ in range(2):
        assert cached().aggregate(a=Avg("rank")) == {"a": 1.0}
        assert sum(sums.all()) == sum(Poem.objects.values_list("pk", flat=True))
        assert [poem.half for poem in cached().filter(name="a1").annotate(half=F("rank") / 2.0)] == [0.5]
    assert statements(lambda: cached().aggregate(a=Avg("rank"))) == 1
    assert "not cached: codec 'json' cannot hold a Decimal" in sums.explain_cache()
    assert "cached as" not in sums.explain_cache()


@pytest.mark.parametrize("column", ["name", "rank"])
def test_a_column_whose_values_writers_do_not_read(
    column: str, poems: list[Poem], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table may have too many columns; then a change may be of any row."""
    monkeypatch.setattr(columns, "MOST_COLUMNS", 1)
    old, new = getattr(poems[0], column), {"name": "z", "rank": 50}[column]
    counts = [cached().filter(**{column: value}) for value in (old, new)]
    before = [queryset.count() for queryset in counts]
    Poem.objects.filter(pk=poems[0].pk).update(**{column: new})
    assert [queryset.count() for queryset in counts] == [before[0] - 1, before[1] + 1]
    Poem.objects.create(name="y", **({} if column == "name" else {column: new}))
    assert [queryset.count() for queryset in counts] == [
        Poem.objects.filter(**{column: value}).count() for value in (old, new)
    ]
