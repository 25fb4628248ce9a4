"""Every write deletes the tags of the shapes that it makes wrong, and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from decimal import Decimal
from typing import Any

import pytest
from django.apps import apps
from django.db import connection, models, transaction
from django.db.models import F
from django.db.models.signals import post_migrate
from django.test.utils import CaptureQueriesContext

from cachebackend import RingCache, invalidate, protocol
from cachebackend.backend.keys import change_key, change_keys, content_of_change_key
from cachebackend.backend.query_names import shape_tag_name, shard_names
from cachebackend.backend.scope import scope_of
from cachebackend.invalidation import (
    clears,
    old_rows,
    pending_deletes,
    query_changes,
    relay,
    row_texts,
    shape_registry,
    statement,
    statement_outbox,
)
from cachebackend.invalidation.catalogue import forget_catalogues
from cachebackend.invalidation.compilers import watch_queries
from cachebackend.invalidation.outbox import ClientOutbox, new_row
from cachebackend.invalidation.query_changes import ResultChange, unknown_change
from cachebackend.invalidation.stored_keys import pack_keys, unpack_keys
from cachebackend.invalidation.tables import forget_tables
from cachebackend.invalidation.transactions import pending_keys
from cachebackend.invalidation.watched import _queried
from cachebackend.models import OutboxRow
from cachebackend.protocol import FillOptions, ShapeEntry
from cachebackend.protocol.missed_deletes import ALL_KEYS
from cachebackend.queries.dependencies import dependencies_of
from cachebackend.queries.options import QueryOptions
from cachebackend.queries.plans import plan_of
from cachebackend.shapes import Shape, value_digest
from tests.second_models import second_model
from tests.shop.models import Meter
from tests.upserts import unique_fields
from tests.zoo.models import Author, Bar, EarlyPlace, Label, Poem, Post

pytestmark = [pytest.mark.django_db(transaction=True)]

BY_AUTHOR = Shape(["author_id"], ["name"])
BY_RANK = Shape(["rank"], [])
ALL_RANKS = Shape([], ["rank"])
TITLES = Shape([], ["name"])


@pytest.fixture(autouse=True)
def watched() -> Iterator[None]:
    """Results of queries over some models are cached."""
    before = {model: set(aliases) for model, aliases in _queried.items()}
    for model in (Author, Poem, Post, Label):
        watch_queries(model, "default")
    yield
    _queried.clear()
    _queried.update(before)
    forget_tables()


@pytest.fixture(autouse=True)
def cache(ring_cache: RingCache) -> RingCache:
    """The cache on empty nodes."""
    return ring_cache


class Results:
    """Cached results of one table, each with one tag."""

    def __init__(self, cache: RingCache, table: str = Poem._meta.db_table) -> None:
        self.cache, self.table = cache, table
        self.stored: dict[str, tuple[bytes, FillOptions]] = {}

    def store(self, name: str, shape: Shape, **values: Any) -> None:
        scope = scope_of("default")
        digests = {column: value_digest(None if v is None else str(v)) for column, v in values.items()}
        tag = shape.tag(digests)
        assert tag is not None
        [tag_key] = self.cache.many_tag_bytes([shape_tag_name(scope, self.table, tag)])
        shards = self.cache.many_tag_bytes(shard_names(scope, self.table))
        shard = shards[len(self.stored) % len(shards)]
        entry = ShapeEntry(shard, shape.id, shape.description)
        key = self.cache.key_bytes(name.replace(" ", "-"))
        self.stored[name] = key, FillOptions(60_000, tags=(tag_key,), shapes=(entry,))
        self._read(name, lambda: "cached")

    def _read(self, name: str, loader: Callable[[], Any]) -> Any:
        key, fill_options = self.stored[name]
        client = self.cache.client
        return client.run(protocol.get_or_load(client.context, key, loader, fill_options))

    def wrong(self) -> set[str]:
        """Return the names of the results that are misses now."""
        return {name for name in self.stored if self._read(name, lambda: "loaded") == "loaded"}


@pytest.fixture
def authors() -> list[Author]:
    """Two authors."""
    return [Author.objects.create(name=name) for name in "ab"]


@pytest.fixture
def poems(authors: list[Author]) -> list[Poem]:
    """A poem of each author, of ranks 0 and 1."""
    return [Poem.objects.create(name=author.name, author=author, rank=n) for n, author in enumerate(authors)]


@pytest.fixture
def results(cache: RingCache, poems: list[Poem], authors: list[Author]) -> Results:
    """Cached results of queries over the poems."""
    results = Results(cache)
    for author in authors:
        results.store(f"names of {author.name}", BY_AUTHOR, author_id=author.pk)
    results.store("names of nobody", BY_AUTHOR, author_id=None)
    for rank in range(3):
        results.store(f"rank {rank}", BY_RANK, rank=rank)
    results.store("ranks", ALL_RANKS)
    results.store("titles", TITLES)
    assert not results.wrong()
    return results


def save_rank(poem: Poem) -> None:
    poem.rank = 2
    poem.save()


def update_rank(poem: Poem) -> None:
    Poem.objects.filter(pk=poem.pk).update(rank=F("rank") + 2)


def bulk_rank(poem: Poem) -> None:
    poem.rank = 2
    Poem.objects.bulk_update([poem], ["rank"])


def upsert_rank(poem: Poem) -> None:
    new = Poem(name=poem.name, rank=2)
    Poem.objects.bulk_create(
        [new], update_conflicts=True, unique_fields=unique_fields("name"), update_fields=["rank"]
    )


@pytest.mark.parametrize("write", [save_rank, update_rank, bulk_rank, upsert_rank])
def test_an_update_makes_results_with_the_old_and_the_new_values_wrong(
    results: Results, poems: list[Poem], write: Callable[[Poem], None]
) -> None:
    """A list that neither filters nor orders by the column remains, and so does that of another value."""
    write(poems[0])
    assert results.wrong() == {"rank 0", "rank 2", "ranks"}


def test_old_values_are_those_of_the_database(cache: RingCache, poems: list[Poem]) -> None:
    """An instance that is saved may be older than its row."""
    Poem.objects.filter(pk=poems[0].pk).update(rank=1)
    results = Results(cache)
    for rank in range(3):
        results.store(f"rank {rank}", BY_RANK, rank=rank)
    save_rank(poems[0])
    assert results.wrong() == {"rank 1", "rank 2"}


def test_a_save_that_changes_nothing_makes_no_result_wrong(results: Results, poems: list[Poem]) -> None:
    """It sets every column, to the value that the column has."""
    poems[0].save()
    assert results.wrong() == set()


def test_a_new_row_is_in_the_results_with_its_values(results: Results, authors: list[Author]) -> None:
    """Results without bound columns depend on every row."""
    authors[0].poem_set.create(name="new", rank=2)
    assert results.wrong() == {"names of a", "rank 2", "ranks", "titles"}


def test_a_deleted_row_was_in_the_results_with_its_values(results: Results, poems: list[Poem]) -> None:
    """By the instance, and by a queryset."""
    Poem.objects.filter(pk=poems[1].pk).delete()
    assert results.wrong() == {"names of b", "rank 1", "ranks", "titles"}


def test_a_row_of_nobody(results: Results, poems: list[Poem]) -> None:
    """NULL is a value like any other."""
    Poem.objects.filter(pk=poems[0].pk).update(author=None)
    assert results.wrong() == {"names of a", "names of nobody"}


def test_a_cascade_deletes_rows_of_other_tables(results: Results, authors: list[Author]) -> None:
    """Django collects the rows of related tables and deletes them."""
    authors[0].delete()
    assert results.wrong() == {"names of a", "rank 0", "ranks", "titles"}


def test_nothing_is_wrong_before_the_commit_or_after_a_rollback(results: Results, poems: list[Poem]) -> None:
    """Readers get the old rows until the commit."""
    with transaction.atomic():
        Poem.objects.update(rank=2)
        assert results.wrong() == set()
        transaction.set_rollback(True)
    assert results.wrong() == set()


def test_changes_of_a_many_to_many_table(cache: RingCache) -> None:
    """It is a table like any other: rows are inserted and deleted."""
    through = Post.labels.through
    results = Results(cache, through._meta.db_table)
    post, other = Post.objects.create(name="a"), Post.objects.create(name="b")
    label = Label.objects.create(name="x")
    for each in (post, other):
        results.store(each.name, Shape(["post_id"], []), post_id=each.pk)
    post.labels.add(label)
    assert results.wrong() == {"a"}
    label.posts.clear()
    assert results.wrong() == {"a"}


def test_many_rows_make_every_shape_wrong_that_depends_on_their_columns(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a change of a million rows is not a million tags."""
    monkeypatch.setattr(query_changes, "MAX_ROWS", 1)
    monkeypatch.setattr("cachebackend.invalidation.pending_deletes.MAX_ROWS", 1)
    Poem.objects.update(rank=7)
    assert {"rank 0", "rank 1", "rank 2", "ranks"} <= results.wrong()


@pytest.mark.postgres
def test_a_large_statement_makes_results_of_its_columns_wrong(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It returns no rows; the columns that it sets are known all the same."""
    monkeypatch.setattr(statement_outbox, "RETURNED_ROWS", 1)
    monkeypatch.setattr(statement_outbox, "ROWS_PER_OUTBOX_ROW", 1)
    assert Poem.objects.update(rank=7) == 2
    wrong = results.wrong()
    assert {"rank 0", "rank 1", "rank 2", "ranks"} <= wrong
    assert "titles" not in wrong
    Poem.objects.all()._raw_delete("default")
    assert "titles" in results.wrong()


@pytest.mark.postgres
def test_an_insert_of_many_rows_reads_no_values_of_them(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would not be followed. All results of the table are wrong."""
    for module in (query_changes, statement):
        monkeypatch.setattr(module, "MAX_ROWS", 1)
    monkeypatch.setattr("cachebackend.invalidation.pending_deletes.MAX_ROWS", 1)
    with CaptureQueriesContext(connection) as captured:
        Poem.objects.bulk_create([Poem(name=name) for name in "xyz"])
    [insert] = [query["sql"] for query in captured if 'INTO "zoo_poem"' in query["sql"]]
    assert "rank" in insert.partition("RETURNING")[0]
    assert "rank" not in insert.partition("RETURNING")[2]
    assert results.wrong() == set(results.stored)


def test_raw_sql_through_invalidate_drops_all_results_of_the_table(
    results: Results, poems: list[Poem]
) -> None:
    """The caller names the row and not what it was before."""
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {Poem._meta.db_table} SET rank = 2 WHERE id = %s", [poems[0].pk])
    invalidate(poems[0])
    assert results.wrong() == set(results.stored)


def test_the_relay_deletes_the_tags_of_a_writer_that_died(
    results: Results, poems: list[Poem], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outbox row names the changed rows; what they were before is not always in it."""
    monkeypatch.setattr(
        "cachebackend.invalidation.pending_deletes.PendingDeletes.delete", lambda _: {"default": {b""}}
    )
    with transaction.atomic():
        Poem.objects.filter(pk=poems[0].pk).update(rank=2)
    assert results.wrong() == set()
    monkeypatch.undo()
    OutboxRow.objects.update(created="2020-01-01T00:00:00Z")
    assert relay().pending == 0
    assert results.wrong() >= {"rank 0", "rank 2", "ranks"}


def insert_poem(poem: Poem) -> None:
    Poem.objects.create(name="new", author=poem.author, rank=2)


def delete_poem(poem: Poem) -> None:
    Poem.objects.filter(pk=poem.pk)._raw_delete("default")


def move_poem(poem: Poem) -> None:
    Poem.objects.filter(pk=poem.pk).update(id=poem.pk + 1000)


def rename_poem(poem: Poem) -> None:
    Poem.objects.filter(name=poem.name).update(name="new")


def change_nothing(poem: Poem) -> None:
    Poem.objects.filter(pk=poem.pk).update(rank=F("rank"))


OF_A, WITHOUT_EQUALITY = {"names of a", "rank 0"}, {"ranks", "titles"}


@pytest.fixture(params=["this version", "before 18", "no rows returned"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ways in which a statement returns the rows that it changes."""
    match request.param:
        case "before 18":
            monkeypatch.setattr(old_rows, "POSTGRES_18", 10**9)
        case "no rows returned":
            monkeypatch.setattr(statement_outbox, "RETURNED_ROWS", 0)


@pytest.mark.postgres
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("write", "wrong"),
    [
        (save_rank, {"names of a", "rank 0", "rank 2", *WITHOUT_EQUALITY}),  # it sets every column
        (update_rank, {"rank 0", "rank 2", "ranks"}),
        (bulk_rank, {"rank 0", "rank 2", "ranks"}),
        (insert_poem, {"names of a", "rank 2", *WITHOUT_EQUALITY}),
        (delete_poem, OF_A | WITHOUT_EQUALITY),
        (move_poem, set()),
        (rename_poem, {"names of a", "titles"}),
        (change_nothing, {"rank 0", "ranks"}),
    ],
)
def test_the_relay_reads_the_changes_of_a_statement_that_wrote_its_outbox_row(
    results: Results,
    poems: list[Poem],
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Poem], None],
    wrong: set[str],
) -> None:
    """By value: it deletes the results that the change can affect, and no others."""
    with monkeypatch.context() as patch:
        patch.setattr(pending_deletes.PendingDeletes, "delete", lambda _: {"default": {b""}})
        write(poems[0])
    assert results.wrong() == set()
    OutboxRow.objects.update(created="2020-01-01T00:00:00Z")
    assert relay().pending == 0
    assert results.wrong() == wrong


@pytest.mark.postgres
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("atomic", [False, True])
def test_a_column_that_a_trigger_changes_has_an_old_value(cache: RingCache, *, atomic: bool) -> None:
    """Also if the statement sets no column that queries bind."""
    watch_queries(Meter, "default")
    meter = Meter.objects.create(level=1)
    results = Results(cache, Meter._meta.db_table)
    for level in range(3):
        results.store(f"level {level}", Shape(["level"], []), level=level)
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION shop_level() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN NEW.level = NEW.level + 1; RETURN NEW; END'; "
            "CREATE TRIGGER shop_level BEFORE UPDATE ON shop_meter "
            "FOR EACH ROW EXECUTE FUNCTION shop_level()"
        )
    forget_catalogues()
    try:
        with transaction.atomic() if atomic else nullcontext():
            Meter.objects.filter(pk=meter.pk).update(data=[1])
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION shop_level CASCADE")
        forget_catalogues()
    assert results.wrong() == {"level 1", "level 2"}


@pytest.mark.postgres
def test_the_relay_reads_the_columns_of_a_large_statement(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its outbox rows hold no values; every value of these columns may have changed."""
    monkeypatch.setattr(row_texts, "MAX_VALUE_BYTES", 0)
    with monkeypatch.context() as patch:
        patch.setattr(pending_deletes.PendingDeletes, "delete", lambda _: {"default": {b""}})
        Poem.objects.update(rank=7)
    assert {name for row in OutboxRow.objects.all() for text in row.rows or () for name in text} == {
        "id",
        "name",
        row_texts.changed_member(Poem),
    }
    OutboxRow.objects.update(created="2020-01-01T00:00:00Z")
    assert relay().pending == 0
    wrong = results.wrong()
    assert {"rank 0", "rank 1", "rank 2", "ranks"} <= wrong
    assert "titles" not in wrong


def pending_change(poem: Poem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit a change whose outbox row remains."""
    with monkeypatch.context() as patch:
        patch.setattr(pending_deletes.PendingDeletes, "delete", lambda _: {"default": {b""}})
        with transaction.atomic():
            Poem.objects.filter(pk=poem.pk).update(rank=2)


@pytest.mark.django_db(transaction=True, databases=["default", "lite"])
@pytest.mark.ring_of_nodes
def test_a_node_that_returns_gets_the_deletes_of_tags_of_pending_changes(
    results: Results, cache: RingCache, poems: list[Poem], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each node gets those that it may hold, before it serves reads; another process has written the row."""
    pending_change(poems[0], monkeypatch)
    outbox, missed = ClientOutbox(cache.client), set()
    for index, node in enumerate(cache.client.nodes):
        keys = outbox.missed_by(node.endpoint, 1000).keys
        assert all(cache.client.context.may_hold(index, key) for key in keys)
        missed.update(keys)
    tags = {name: set(fill_options.tags) for name, (_, fill_options) in results.stored.items()}
    assert {name for name in tags if tags[name] <= missed} == {"rank 0", "rank 2", "ranks"}
    assert not change_keys(missed)


def test_the_relay_deletes_the_tags_of_a_transaction_whose_writer_died(
    results: Results, poems: list[Poem], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds them by the values in the outbox row, and no others."""
    pending_change(poems[0], monkeypatch)
    OutboxRow.objects.update(created="2020-01-01T00:00:00Z")
    assert relay().pending == 0
    assert results.wrong() == {"rank 0", "rank 2", "ranks"}


@pytest.mark.parametrize("most", [524_288, 1_000])
def test_the_relay_reads_a_change_of_many_rows(
    cache: RingCache, authors: list[Author], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """However long it is, nothing else is deleted; one that is too long is stored without its rows."""
    monkeypatch.setattr(pending_deletes, "MAX_CHANGE_BYTES", most)
    Poem.objects.bulk_create([Poem(name=f"{number}", author=authors[0]) for number in range(700)])
    results = Results(cache)
    for rank in range(3):
        results.store(f"rank {rank}", BY_RANK, rank=rank)
    results.store("titles", TITLES)
    with monkeypatch.context() as patch:
        patch.setattr(pending_deletes.PendingDeletes, "delete", lambda _: {"default": {b""}})
        with transaction.atomic():
            Poem.objects.update(rank=2)
    OutboxRow.objects.update(created="2020-01-01T00:00:00Z")
    assert relay().pending == 0
    of_others = {"rank 1"} if most == 1_000 else set()
    assert results.wrong() == {"rank 0", "rank 2", *of_others}


@pytest.mark.django_db(transaction=True, databases=["default", "lite"])
@pytest.mark.ring_of_nodes
def test_a_node_is_cleared_if_another_one_does_not_return_its_shards(
    results: Results, cache: RingCache, poems: list[Poem], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tags that the shapes of those shards have on the node are not known."""
    pending_change(poems[0], monkeypatch)
    monkeypatch.setattr(shape_registry, "_known", {})
    monkeypatch.setattr(shape_registry.Shape, "read", classmethod(lambda *_: Shape([], ["other"])))
    outbox = ClientOutbox(cache.client)
    missed = [outbox.missed_by(node.endpoint, 1000) for node in cache.client.nodes]
    assert all(each == ALL_KEYS for each in missed)


def test_a_change_remains_until_the_nodes_of_its_tags_are_cleared(
    cache: RingCache, poems: list[Poem], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that missed too much is cleared as a whole; another node may have missed one of the tags."""
    context = cache.client.context
    [change] = change_keys(scheduled(poems[0]))
    tags = cache.many_tag_bytes([f"tag-{number}" for number in range(100)])
    on_full = next(tag for tag in tags if context.owners(tag) == {0})
    elsewhere = next(tag for tag in tags if context.owners(tag) == {1})
    monkeypatch.setattr(context.missed, "count", lambda node: None if node == 0 else 1)
    monkeypatch.setattr(context.missed, "has_missed", lambda node, key: (node, key) == (1, elsewhere))
    endpoint = cache.client.nodes[0].endpoint
    both = {change, on_full, elsewhere}
    assert clears.nodes_to_clear("default", both) == ([endpoint], {change, elsewhere})
    assert clears.nodes_to_clear("default", {change, on_full}) == ([endpoint], set())


def scheduled(poem: Poem) -> set[bytes]:
    """Return the keys that a transaction deletes which changes a poem."""
    with transaction.atomic():
        Poem.objects.filter(pk=poem.pk).update(rank=2)
        return set(pending_keys(connection, asks=False)["default"])


def test_a_shape_that_cannot_be_read_costs_its_shard(
    results: Results, cache: RingCache, poems: list[Poem], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its results are misses then, of any shape."""
    monkeypatch.setattr(shape_registry, "_known", {})
    monkeypatch.setattr(shape_registry.Shape, "read", classmethod(lambda *_: Shape([], ["other"])))
    Poem.objects.filter(pk=poems[0].pk).update(rank=2)
    assert results.wrong() == set(results.stored)


def test_a_model_invalidates_the_results_of_queries_over_its_table(results: Results) -> None:
    """What changed is not known."""
    invalidate(Poem)
    assert results.wrong() == set(results.stored)


def test_a_migration_drops_the_results_of_its_tables(results: Results) -> None:
    """It may have changed rows by SQL, or what a column holds."""
    app_config = apps.get_app_config("zoo")
    migration = type("Migration", (), {"app_label": "zoo", "operations": []})
    post_migrate.send(
        app_config, app_config=app_config, using="default", plan=[(migration, False)], verbosity=0
    )
    assert results.wrong() == set(results.stored)


def test_a_value_with_shapes_alone_records_their_tokens(cache: RingCache) -> None:
    """However it is read: it is a miss once the shard of a shape is deleted."""
    client = cache.client
    [shard, *_] = cache.many_tag_bytes(shard_names(scope_of("default"), "t"))
    fill_options = FillOptions(60_000, shapes=(ShapeEntry(shard, TITLES.id, TITLES.description),))
    loads: list[str] = []

    def read() -> None:
        client.get_or_load(cache.key_bytes("one"), lambda: loads.append("one") or "", fill_options)
        keys = {"many": cache.key_bytes("many")}
        client.run(
            protocol.get_or_load_many(
                client.context, keys, lambda _: loads.append("many") or {"many": ""}, fill_options
            )
        )

    read()
    read()
    assert loads == ["one", "many"]
    client.run(protocol.delete_many(client.context, [shard], in_outbox=True))
    read()
    assert loads == ["one", "many", "one", "many"]


def test_an_emptied_database_has_no_results(results: Results) -> None:
    """``flush`` sends no signal of rows."""
    connection.ops.execute_sql_flush([f"DELETE FROM {Poem._meta.db_table}"])
    assert results.wrong() == set(results.stored)


def test_a_value_without_a_text_counts_as_changed(cache: RingCache) -> None:
    """A decimal with many digits, for example: which values the database holds equal to it is not known."""
    watch_queries(Meter, "default")
    row = Meter.objects.create(total=Decimal("1.5"))
    results = Results(cache, Meter._meta.db_table)
    results.store("totals", Shape([], ["total"]))
    Meter.objects.filter(pk=row.pk).update(total=Decimal("12345678901234567890.12"))
    assert results.wrong() == {"totals"}


@pytest.mark.django_db(transaction=True, databases=["default", "lite"])
@pytest.mark.parametrize(
    "content", [b"", b"\x94\x91\xa1s\xa1t\x91\x93\xc0\x01\xc0\xc0", b"\x94\x01\x02\x03\x04"]
)
def test_a_damaged_change_is_set_aside_and_stops_no_other_row(
    results: Results, poems: list[Poem], content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It means everything that it can mean."""
    new_row({"default": {change_key(content)}}).save()
    pending_change(poems[0], monkeypatch)
    OutboxRow.objects.update(created="2020-01-01T00:00:00Z")
    assert relay().pending == 0
    assert [bool(row.error) for row in OutboxRow.objects.all()] == [True]
    assert {"rank 0", "rank 2", "ranks"} <= results.wrong()


def test_a_change_of_many_rows_fits_into_an_outbox_row() -> None:
    """A key that is longer than the relay reads would mean everything that is cached."""
    rows = [
        query_changes.ValueChange(["rank"], {"rank": bytes(8)}, {"rank": bytes(8)})
    ] * query_changes.MAX_ROWS
    key = query_changes.ResultChange(["default"], "t", rows).key
    assert unpack_keys(pack_keys({"default": {key}})) == {"default": {key}}
    change = query_changes.ResultChange.read(content_of_change_key(key) or b"")
    assert len(change.rows or ()) == query_changes.MAX_ROWS


@pytest.mark.postgres
def test_a_table_has_one_name_for_its_readers_and_writers(poems: list[Poem]) -> None:
    """One model may name its schema, and another model of the table may not."""
    ranked = second_model(Poem, f'public"."{Poem._meta.db_table}', rank=models.IntegerField())
    [dependency] = dependencies_of(ranked.objects.filter(rank=0).query, "default")
    assert dependency.table == unknown_change(ranked._meta.db_table, "default").table
    changed = change_keys(scheduled(poems[0]))
    assert {ResultChange.read(content_of_change_key(key) or b"").table for key in changed} == {
        dependency.table
    }


def test_two_models_of_one_table_have_plans_of_their_own(cache: RingCache) -> None:
    """Their SQL is the same, and the fields that it binds are not."""
    ranked = second_model(Poem, rank=models.IntegerField())
    placed = second_model(Poem, place=models.IntegerField(db_column="rank"))
    for queryset in (ranked.objects.filter(rank=0).values("pk"), placed.objects.filter(place=0).values("pk")):
        plan = plan_of(queryset.query.get_compiler("default"), "multi", QueryOptions(), cache)
        assert plan is not None
        assert {field.model for field in plan.equalities[()]} == {queryset.model}


def test_rows_are_compared_with_the_values_of_inherited_columns(cache: RingCache) -> None:
    """The columns of a parent are a part of the row; a proxy has those of its model. A join has a path."""

    def equalities(queryset: Any) -> Any:
        plan = plan_of(queryset.values("pk").query.get_compiler("default"), "multi", QueryOptions(), cache)
        assert plan is not None
        return {
            (path, field.name): set(texts)
            for path, fields in plan.equalities.items()
            for field, texts in fields.items()
        }

    assert equalities(Bar.objects.filter(name="x", taps=1)) == {((), "name"): {"x"}, ((), "taps"): {"1"}}
    assert equalities(EarlyPlace.objects.filter(rank__in=[1, 2])) == {((), "rank"): {"1", "2"}}
    assert equalities(Poem.objects.filter(author__rank=2)) == {(("author",), "rank"): {"2"}}
    assert equalities(Author.objects.filter(poem__rank=2)) == {}


def test_rows_are_compared_with_all_values_of_a_condition(cache: RingCache) -> None:
    """Also with more than a result has tags for."""
    queryset = Poem.objects.filter(rank__in=range(50), name__in=["a", "b"])
    plan = plan_of(queryset.values("pk").query.get_compiler("default"), "multi", QueryOptions(), cache)
    assert plan is not None
    found = {field.name: len(texts) for field, texts in plan.equalities[()].items()}
    assert found == {"rank": 50, "name": 2}


def test_a_result_with_another_timeout_has_a_key_of_its_own(cache: RingCache) -> None:
    """Or a reader would get a result that is older than its own timeout allows."""
    compiler = Poem.objects.filter(rank=0).values("pk").query.get_compiler("default")
    plans = [plan_of(compiler, "multi", QueryOptions(timeout=seconds), cache) for seconds in (1, 60, 60)]
    keys = [plan.key for plan in plans if plan is not None]
    assert keys[0] != keys[1] == keys[2]
