"""A value that was read in a transaction, or under a savepoint, that was rolled back is not stored."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, transaction

from tests.integration.fill_readers import author, elsewhere, lease_on_get, name_of, read, ring
from tests.shop.models import Author

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes", "lease_on_get"),
]


def rolled_back(load: Callable[[], str]) -> str:
    """Return what is loaded in a transaction that is rolled back then."""
    with transaction.atomic():
        value = load()
        transaction.set_rollback(True)
    return value


def rolled_back_to_a_savepoint(load: Callable[[], str]) -> str:
    """Return what is loaded under a savepoint that is rolled back then, in a transaction that commits."""
    with transaction.atomic():
        savepoint = connection.savepoint()
        value = load()
        transaction.savepoint_rollback(savepoint)
    return value


UNDO = pytest.mark.parametrize("undo", [rolled_back, rolled_back_to_a_savepoint])


def lost_name(author: Author) -> str:
    """Rename a row, and return its name; the caller rolls back."""
    Author.objects.filter(pk=author.pk).update(name="Lost")
    return name_of(author.pk)


@UNDO
@pytest.mark.parametrize("is_inside", [False, True], ids=["get before", "get inside"])
def test_a_value_of_a_transaction_that_was_rolled_back_is_not_set(
    author: Author, undo: Callable[..., str], is_inside: bool
) -> None:
    """Although no transaction is open any more when ``set`` presents the lease; the next request fills."""
    cache = ring("leasing")

    def load() -> str:
        if is_inside:
            assert cache.get("name") is None
            assert cache.get_many(["other"]) == {}
        return lost_name(author)

    if not is_inside:
        assert cache.get("name") is None
        assert cache.get_many(["other"]) == {}
    lost = undo(load)
    assert cache.set("name", lost) is False
    assert cache.set_many({"other": lost}) == []
    cache.close()
    assert cache.get_many(["name", "other"]) == {}
    assert cache.set("name", "First") is True
    assert cache.set_many({"other": "First"}) == []
    assert cache.get_many(["name", "other"]) == {"name": "First", "other": "First"}


@UNDO
def test_a_loader_that_rolls_back_what_it_wrote_is_not_stored(
    author: Author, undo: Callable[..., str]
) -> None:
    """Its value may have been computed from the lost change."""
    load = partial(undo, partial(lost_name, author))
    assert ring().get_or_set("one", load) == "Lost"
    assert ring().get_or_set_many(["many"], lambda names: {"many": load()}) == {"many": "Lost"}
    assert async_to_sync(ring().aget_or_set)("async", sync_to_async(load)) == "Lost"
    assert ring().get_many(["one", "many", "async"]) == {}


def test_a_rollback_elsewhere_prevents_no_fill(author: Author) -> None:
    """Neither in another thread, nor of a transaction that only read."""
    cache = ring("leasing")
    assert cache.get("name") is None
    elsewhere(lambda: rolled_back(lambda: lost_name(author)))
    rolled_back(lambda: name_of(author.pk))
    assert cache.set("name", "First") is True
