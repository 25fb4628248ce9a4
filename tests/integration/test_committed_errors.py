"""Errors after a statement that is its own transaction: the change is stored, so the caller learns of it."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import caches
from django.db import DataError, connection, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from cachebackend import invalidation
from cachebackend.invalidation import confirmed_rows
from cachebackend.models import OutboxRow
from tests.zoo.models import Author, Price, Profile

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


@pytest.fixture
def price() -> Price:
    """A row that is cached, beside one with a moment that Python cannot hold."""
    price = Price.objects.create(amount=1)
    Price.objects.create(amount=2)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE zoo_price SET since = 'infinity' WHERE amount = 2")
    Price.cached.get(pk=price.pk)
    return price


@pytest.mark.parametrize("is_atomic", [False, True])
def test_a_value_that_python_cannot_hold_fails_no_write(price: Price, is_atomic: bool) -> None:
    """The write itself reads no value. What is cached of the table is deleted."""
    if is_atomic:
        with transaction.atomic():
            assert Price.objects.update(rank=F("rank") + 1) == 2
    else:
        assert Price.objects.update(rank=F("rank") + 1) == 2
    assert Price.cached.get(pk=price.pk).rank == 1
    assert Price.objects.all()._raw_delete("default") == 2
    assert not Price.cached.filter(pk=price.pk).exists()
    assert not OutboxRow.objects.exists()


@pytest.mark.parametrize("is_atomic", [False, True])
def test_a_save_that_reads_a_column_back_reads_no_other_one(price: Price, is_atomic: bool) -> None:
    """Django 6.1 reads the columns back that are set to expressions."""
    row = Price.objects.defer("since").get(amount=2)
    row.rank = F("rank") + 1
    with transaction.atomic() if is_atomic else nullcontext():
        row.save(update_fields=["rank"])
    assert Price.objects.values_list("rank", flat=True).get(amount=2) == 1
    assert Price.cached.filter(rank=0).count() == 1
    assert not OutboxRow.objects.exists()


def test_a_new_row_has_its_key_although_another_value_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django reads the primary key alone."""
    since = Price._meta.get_field("since")
    monkeypatch.setattr(since, "get_db_prep_save", lambda *_, **__: "infinity")
    price = Price.objects.create()
    assert Price.objects.values_list("pk", flat=True).get() == price.pk


def test_a_field_that_cannot_convert_a_value_fails_no_write(
    price: Price, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The field of the project may raise anything."""

    def refuse(value: Any, *_: Any) -> Any:
        raise LookupError(value)

    with monkeypatch.context() as patch:
        patch.setattr(Price._meta.get_field("amount"), "from_db_value", refuse, raising=False)
        assert Price.objects.filter(pk=price.pk).update(rank=7) == 1
    assert Price.cached.get(pk=price.pk).rank == 7


def test_an_error_of_the_key_function_leaves_the_keys_to_the_relay(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A caller that got the error would repeat the change."""
    author = Author.objects.create(name="a")
    Author.cached.get(pk=author.pk)

    def refuse(*_: Any) -> str:
        raise LookupError

    with monkeypatch.context() as patch:
        patch.setattr(caches["default"], "key_func", refuse)
        assert Author.objects.update(rank=F("rank") + 1) == 1
    assert "keys_unknown" in [getattr(record, "event", "") for record in caplog.records]
    OutboxRow.objects.update(created=Now() - timedelta(seconds=5))
    invalidation.relay()
    assert Author.cached.get(pk=author.pk).rank == 1
    assert not OutboxRow.objects.exists()


def test_an_error_of_a_wrapper_of_the_program_leaves_nothing_stale() -> None:
    """It is the program's own error, after the statement has run."""
    author = Author.objects.create(name="a")
    Author.cached.get(pk=author.pk)

    def wrapper(execute: Any, sql: str, *given: Any) -> Any:
        result = execute(sql, *given)
        if "UPDATE" in sql:
            raise DataError
        return result

    with pytest.raises(DataError), connection.execute_wrapper(wrapper):
        Author.objects.update(rank=5)
    assert Author.cached.get(pk=author.pk).rank == 5


def test_an_error_of_a_wrapper_at_the_outbox_keeps_no_row_from_being_loaded() -> None:
    """The row is written through: the next read needs no query."""
    profile = Profile.objects.create(name="p")
    Profile.cached.get(pk=profile.pk)

    def wrapper(execute: Any, sql: str, *given: Any) -> Any:
        if sql.startswith("DELETE"):
            raise LookupError
        return execute(sql, *given)

    confirmed_rows._waiting.clear()
    with connection.execute_wrapper(wrapper):
        Profile.objects.filter(pk=profile.pk).update(rank=9)
    with CaptureQueriesContext(connection) as captured:
        assert Profile.cached.get(pk=profile.pk).rank == 9
    assert not captured.captured_queries
