"""Outbox rows that cannot be read: they mean everything that they can, are set aside, and stop nothing."""

from __future__ import annotations

import json
import logging
import tracemalloc
from collections.abc import Iterator
from datetime import timedelta
from importlib import import_module
from typing import Any

import ormsgpack
import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import OperationalError, connection, transaction
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse

from cachebackend import RingCache, invalidation
from cachebackend.invalidation import outbox_keys, outbox_pages, stored_keys
from cachebackend.invalidation.outbox import ClientOutbox, write_row
from cachebackend.invalidation.outbox_keys import UNKNOWN_MODEL
from cachebackend.invalidation.set_aside import set_aside_errors
from cachebackend.models import OutboxRow
from cachebackend.monitoring import key_figures, outbox_figures
from cachebackend.monitoring import outbox as monitoring_outbox
from cachebackend.monitoring.outbox import pending_by_node
from cachebackend.protocol.missed_deletes import ALL_KEYS
from tests.sessions import session
from tests.shop.models import Author

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


def insert(**columns: Any) -> None:
    """Insert an outbox row as raw SQL, so that it holds what no write of this package makes."""
    given = {"keys": b"", "node": "", "is_intent": False, "label": ""} | columns
    names, places = ", ".join(map(connection.ops.quote_name, given)), ", ".join(["%s"] * len(given))
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO cachebackend_outboxrow ({names}) VALUES ({places})", list(given.values())
        )


def trigger_row(rows: object, label: str = "shop.author") -> dict[str, Any]:
    return {"label": label, "rows": json.dumps(rows), "transaction_id": 1}


#: Rows that any process may find in the table, by what is wrong with them.
UNREADABLE: dict[str, dict[str, Any]] = {
    "keys that are not MessagePack": {"keys": b"\xff\xff\x00"},
    "no keys at all": {"keys": b""},
    "keys without an alias": {"keys": ormsgpack.packb([1])},
    "keys that are not bytes": {"keys": ormsgpack.packb({"default": ["text", 5, None]})},
    "a number of keys": {"keys": ormsgpack.packb({"default": 5})},
    "an alias that is a number": {"keys": ormsgpack.packb({5: [b"k"]}, option=ormsgpack.OPT_NON_STR_KEYS)},
    "a huge declared length": {"keys": b"\xdf\xff\xff\xff\xff"},
    "a trigger's row of another type": trigger_row([{"id": "abc", "name": "x", "code": "x"}]),
    "a primary key that Python cannot read": trigger_row([{"id": "infinity", "name": "x"}]),
    "a row without its primary key": trigger_row([{"name": "x"}]),
    "an object in place of rows": trigger_row({"a": 1}),
    "numbers in place of rows": trigger_row([1, 2]),
    "a number with 5,000 digits": {"label": "shop.author", "rows": f'[{{"id": {"9" * 5000}}}]'},
    "deeply nested JSON": {"label": "shop.author", "rows": "[" * 3000 + "]" * 3000},
}


@pytest.fixture
def author(ring_cache: RingCache) -> Author:
    """A row that is cached, and a key "k" whose delete is pending besides."""
    author = Author.objects.create(name="Sappho")
    OutboxRow.objects.all().delete()
    Author.cached.get(pk=author.pk)
    ring_cache.set("k", "old", None)
    ring_cache.set("kept", "new", None)
    write_row("default", {"default": {ring_cache.key_bytes("k")}})
    OutboxRow.objects.update(created=Now() - timedelta(seconds=5))
    return author


def age() -> None:
    OutboxRow.objects.update(created=Now() - timedelta(seconds=5))


@pytest.mark.postgres
@pytest.mark.parametrize("columns", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_row_is_set_aside_and_the_others_are_processed(
    author: Author, ring_cache: RingCache, columns: dict[str, Any]
) -> None:
    """All that it can mean is deleted once: what is cached of its model, or everything."""
    insert(**columns)
    age()
    result = invalidation.relay()
    assert (result.rows, result.pending, result.failed) == (1, 0, {})
    assert ring_cache.get("k") is None
    assert (ring_cache.get("kept") == "new") is bool(columns.get("label"))
    [key] = Author.cached.keys_of([{"pk": author.pk}], "default")[:1]
    assert ring_cache.client.nodes[ring_cache.client.ring.owner(key)].call((b"EXISTS", key)) == 0
    [row] = OutboxRow.objects.defer("rows")
    assert row.error
    ring_cache.set("kept", "newer", None)
    again = invalidation.relay()
    assert (again.rows, again.keys, again.pending, again.lag) == (0, 0, 0, 0.0)
    assert ring_cache.get("kept") == "newer"


@pytest.mark.postgres
@pytest.mark.parametrize("columns", UNREADABLE.values(), ids=UNREADABLE)
def test_everything_that_shows_pending_deletes_survives_an_unreadable_row(
    author: Author, ring_cache: RingCache, columns: dict[str, Any]
) -> None:
    """Before and after it is set aside: the page, the inspector, the commands, and the probe of a node."""
    insert(**columns)
    age()
    client, page = Client(), reverse("admin:cachebackend_ring_changelist")
    client.force_login(User.objects.create_superuser("root"))
    ring = ring_cache.client
    outbox = ClientOutbox(ring)
    for turn in range(2):
        assert client.get(page, {"alias": "default", "key": "k"}).status_code == 200
        figures = outbox_figures()
        assert figures.rows == (0 if turn else 2)
        assert any("nothing is stale" in each.message for each in figures.faults) is bool(turn)
        lines = key_figures("default", "k", None, shows_value=False).pending
        assert any("cannot be read" in line for line in lines) is not bool(turn)
        pending_by_node({"default": ring}, {"default": [True] * len(ring.nodes)})
        if turn:
            with pytest.raises(SystemExit):
                call_command("invalidation", "status")
        else:
            assert outbox.missed_by(ring.nodes[0].endpoint, 1000) == ALL_KEYS
            invalidation.relay()
    assert not outbox.missed_by(ring.nodes[0].endpoint, 1000)
    call_command("invalidation", "discard")
    assert not OutboxRow.objects.exists()


@pytest.mark.postgres
@pytest.mark.parametrize("time", ["infinity", "-infinity", "0044-03-15 BC", "20000-01-01"])
def test_a_row_with_a_time_that_python_cannot_hold_is_processed(
    author: Author, ring_cache: RingCache, time: str
) -> None:
    """It has no age, but its keys are deleted; the page and the inspector stay up meanwhile."""
    insert(keys=ormsgpack.packb({"default": [ring_cache.key_bytes("kept")]}), created=time)
    assert outbox_figures().rows == 2
    assert key_figures("default", "kept", None, shows_value=False).pending
    assert invalidation.relay().rows == 2
    assert ring_cache.get("kept") is None
    assert not OutboxRow.objects.exists()


def test_a_row_with_a_negative_key_is_processed(author: Author, ring_cache: RingCache) -> None:
    """A sequence may count downwards."""
    OutboxRow.objects.update(id=-5)
    assert invalidation.relay().rows == 1
    assert ring_cache.get("k") is None


@pytest.mark.postgres
def test_a_set_aside_row_stands_for_the_next_ones_of_its_model(author: Author) -> None:
    """A forgotten trigger does not fill the outbox, and each of its rows still deletes what it can mean."""
    for _ in range(3):
        insert(**trigger_row([{"id": "abc"}]))
        insert(**trigger_row([{"id": "1"}], "shop.gone"))
        Author.cached.get(pk=author.pk)
        invalidation.relay()
    errors = dict(OutboxRow.objects.values_list("label", "error"))
    assert errors.keys() == {"shop.author", "shop.gone"}
    assert errors["shop.gone"] == UNKNOWN_MODEL
    assert OutboxRow.objects.count() == 2


@pytest.fixture
def unknown_model(author: Author, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """This process does not have the model yet, or not any more; the patch can be undone."""
    find = outbox_keys.apps.get_model

    def get_model(label: str, *args: Any) -> Any:
        if label == "shop.author":
            raise LookupError(label)
        return find(label, *args)

    with monkeypatch.context() as patch:
        patch.setattr(outbox_keys.apps, "get_model", get_model)
        patch.setattr(outbox_keys, "triggered_models", list)
        patch.setattr(outbox_keys, "models_of_tables", list)
        yield patch


@pytest.mark.postgres
def test_a_row_of_a_model_that_this_process_does_not_know_is_left_for_one_that_does(
    author: Author, unknown_model: pytest.MonkeyPatch, ring_cache: RingCache
) -> None:
    """In a rolling deploy the relay of the older release meets rows of the newer one's models."""
    insert(**trigger_row([{"id": str(author.pk)}]))
    insert(**trigger_row([{"id": str(author.pk)}]))
    for _ in range(2):
        result = invalidation.relay()
        assert (result.pending, result.failed) == (0, {})
    assert list(OutboxRow.objects.values_list("label", "rows", "error")) == [
        ("shop.author", None, UNKNOWN_MODEL)
    ]
    assert "shop.author" in outbox_figures().faults[0].message
    unknown_model.undo()
    Author.objects.filter(pk=author.pk)._raw_delete("default")
    Author.cached.cache.set("untouched", 1, None)
    assert invalidation.relay().rows == 1
    assert not OutboxRow.objects.exists()
    assert not Author.cached.in_bulk([author.pk])
    assert ring_cache.get("untouched") == 1


@pytest.mark.postgres
def test_a_row_that_another_relay_has_locked_stands_for_no_further_one(
    author: Author, unknown_model: pytest.MonkeyPatch
) -> None:
    """That relay knows the model and is about to delete its row; a later change needs a row of its own."""
    insert(**trigger_row([{"id": "1"}]))
    invalidation.relay()
    with session("SELECT id FROM cachebackend_outboxrow FOR UPDATE"):
        insert(**trigger_row([{"id": "1"}]))
        invalidation.relay()
        assert OutboxRow.objects.filter(error=UNKNOWN_MODEL).count() == 2


@pytest.mark.postgres
def test_a_row_whose_query_fails_because_of_the_database_stays_pending(
    author: Author, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such a row can be read later, so it is not set aside."""
    insert(**trigger_row([{"id": str(author.pk)}]))

    def fail(*_: Any) -> Any:
        message = "canceling statement due to lock timeout"
        raise OperationalError(message)

    with monkeypatch.context() as patch:
        patch.setattr(outbox_keys, "keys_of_trigger_row", fail)
        result = invalidation.relay()
    assert (result.rows, result.pending) == (1, 1)
    assert "cannot be processed now" in caplog.text
    assert invalidation.relay().rows == 1


@pytest.mark.postgres
def test_a_database_that_ends_is_logged_once_and_not_for_each_row(
    author: Author, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest of the run fails, without a traceback; the rows stay."""
    monkeypatch.setattr(import_module("cachebackend.invalidation.relay"), "_failures_log", {})
    for _ in range(3):
        insert(**trigger_row([{"id": str(author.pk)}]))

    def lose_connection(*_: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with monkeypatch.context() as patch:
        patch.setattr(outbox_keys, "keys_of_trigger_row", lose_connection)
        for _ in range(2):
            assert list(invalidation.relay().failed) == ["default"]
    [logged] = [
        each for each in caplog.records if each.name == "cachebackend" and each.levelno >= logging.WARNING
    ]
    assert logged.getMessage().startswith("the outbox of database 'default' could not be processed: ")
    assert logged.exc_info is None
    invalidation.relay()
    assert not OutboxRow.objects.exists()


@pytest.mark.postgres
def test_a_transaction_does_not_fail_because_of_an_unreadable_row_of_a_trigger(author: Author) -> None:
    """It commits, and leaves the row to the relay."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("UPDATE shop_author SET name = 'Psappho' WHERE id = %s", [author.pk])
        cursor.execute("UPDATE cachebackend_outboxrow SET rows = '[5]' WHERE label = 'shop.author'")
    assert OutboxRow.objects.filter(label="shop.author").count() == 1
    invalidation.relay()
    assert Author.cached.get(pk=author.pk).name == "Psappho"
    assert OutboxRow.objects.get().error


@pytest.mark.postgres
def test_a_row_that_is_too_long_is_not_fetched(
    author: Author, ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is set aside like a row that cannot be read, and means everything that it can."""
    monkeypatch.setattr(outbox_keys, "MAX_ROW_BYTES", 500)
    insert(keys=ormsgpack.packb({"default": [b"x" * 501]}))
    insert(**trigger_row([{"id": "1" * 501}]))
    age()
    long = outbox_keys.pending_rows("default").filter(size__gt=500)
    assert [(row.packed_keys, row.rows_text) for row in long] == [(None, None)] * 2
    result = invalidation.relay()
    assert (result.failed, result.pending) == ({}, 0)
    assert ring_cache.get("kept") is None
    assert all("bytes" in error for error in set_aside_errors("default"))
    assert len(set_aside_errors("default")) == 2


def test_a_page_of_rows_has_a_most_number_of_bytes(
    author: Author, ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that is longer than a page has a page of its own; the relay and the figures read all pages."""
    monkeypatch.setattr(outbox_pages, "PAGE_BYTES", 500)
    lengths = [100, 100, 700, 100, 450, 100, 100, 100]
    OutboxRow.objects.all().delete()
    for length in lengths:
        insert(keys=ormsgpack.packb({"default": [b"k" * length]}))
    age()
    rows = outbox_keys.pending_rows("default")
    sizes = list(rows.order_by("pk").values_list("size", flat=True))
    pages, first = [], 0
    while keys := outbox_pages.page_keys(rows.order_by("pk").filter(pk__gt=first)):
        pages.append(len(keys))
        first = keys[-1]
    assert pages == [2, 1, 1, 1, 3]
    assert [row.size for row in outbox_pages.paged(rows)] == sizes
    assert [row.size for row in outbox_pages.paged(rows, newest_first=True)] == sizes[::-1]
    assert invalidation.relay().rows == len(lengths)


def test_the_inspector_searches_a_limited_number_of_bytes(
    author: Author, ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so, and searches at least the newest row."""
    monkeypatch.setattr(monitoring_outbox, "MAX_BYTES", 500)
    for name in ("k", "other"):
        insert(keys=ormsgpack.packb({"default": [ring_cache.key_bytes(name), b"x" * 501]}))
    for name, found in (("k", 0), ("other", 1)):
        lines = monitoring_outbox.pending_of_key("default", ring_cache.client, ring_cache.key_bytes(name))
        assert "more outbox rows than were searched" in lines[-1]
        assert len(lines) == found + 1


#: The most bytes of a row in the next tests.
SHORT = 50_000
#: Rows that are short as they are stored, and long as a text or in memory.
EXPANDING: dict[str, dict[str, Any]] = {
    "numbers with many digits": {"label": "shop.author", "rows": f'[{{"n": [{"1e131071, " * 9000}0]}}]'},
    "characters that are escaped": trigger_row([{"id": "1", "name": "\1" * 100_000}]),
    "a text that is compressed": trigger_row([{"id": "1", "name": "x" * 1_000_000}]),
    "lists in place of keys": {"keys": b"\x81\xa7default\xdc\xbb\x80" + b"\x90" * 48_000},
    "a long key": {"keys": ormsgpack.packb({"default": [b"x" * 40_000]})},
    "many keys": {"keys": ormsgpack.packb({"default": [b"%d" % number for number in range(5_000)]})},
}


@pytest.mark.ring_of_nodes  # to read the slots of a cluster takes more memory
@pytest.mark.postgres
@pytest.mark.parametrize("columns", EXPANDING.values(), ids=EXPANDING)
def test_a_row_is_not_expanded_to_be_read(
    author: Author, ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch, columns: dict[str, Any]
) -> None:
    """It is set aside, and neither the database nor this process needs much memory for it."""
    monkeypatch.setattr(outbox_keys, "MAX_ROW_BYTES", SHORT)
    monkeypatch.setattr(stored_keys, "MAX_KEYS", 4_000)
    monkeypatch.setattr(stored_keys, "MAX_KEY_BYTES", 30_000)
    insert(**columns)
    age()
    tracemalloc.start()
    try:
        assert outbox_figures().rows == 2
        assert key_figures("default", "k", None, shows_value=False).pending
        result = invalidation.relay()
        assert tracemalloc.get_traced_memory()[1] < 20 * SHORT
    finally:
        tracemalloc.stop()
    assert (result.rows, result.pending, result.failed) == (1, 0, {})
    assert ring_cache.get("k") is None
    assert len(set_aside_errors("default")) == 1
    call_command("invalidation", "discard")
    assert not OutboxRow.objects.exists()


@pytest.mark.postgres
def test_a_page_holds_few_rows_that_are_compressed(author: Author, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their size counts as it may be without compression, which is not known before they are read."""
    monkeypatch.setattr(outbox_keys, "MAX_ROW_BYTES", SHORT)
    monkeypatch.setattr(outbox_pages, "MAX_ROW_BYTES", SHORT)
    monkeypatch.setattr(outbox_pages, "PAGE_BYTES", 2 * SHORT)
    OutboxRow.objects.all().delete()
    for _ in range(3):
        insert(**trigger_row([{"id": "1", "name": "x" * 40_000}]))
    rows = outbox_keys.pending_rows("default").order_by("pk")
    assert len(outbox_pages.page_keys(rows)) == 2
    assert [len(row.rows_text) > 40_000 for row in rows] == [True] * 3


@pytest.mark.postgres
def test_a_row_that_cannot_be_fetched_is_found_and_set_aside(
    author: Author, ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement that fetches its page fails; the other rows of the page are processed."""
    for name in ("a", "b", "damaged", "c"):
        insert(**trigger_row([{"id": str(author.pk), "name": name}]))
    age()
    divisor = "CASE WHEN %(expressions)s::text LIKE '%%%%damaged%%%%' THEN 0 ELSE 1 END"
    text = f"CASE 1 / {divisor} WHEN 1 THEN %(expressions)s::text END"
    monkeypatch.setattr(outbox_keys, "_POSTGRES_TEXT", text)
    node = ring_cache.client.nodes[0].endpoint
    assert ClientOutbox(ring_cache.client).missed_by(node, 1000) == ALL_KEYS
    lines = key_figures("default", "k", None, shows_value=False).pending
    assert sum("cannot be fetched" in line for line in lines) == 1
    result = invalidation.relay()
    assert (result.rows, result.pending, result.failed) == (4, 0, {})
    assert ring_cache.get("k") is None
    [error] = set_aside_errors("default")
    assert "shop.author" in error
    assert "division by zero" in error
