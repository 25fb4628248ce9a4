"""Models of other people's apps that settings give a ``cached`` manager, and fields that managers ignore."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.db import connection
from django.test.utils import CaptureQueriesContext, override_settings

from cachebackend import RingCache
from cachebackend.backend import tag_names
from cachebackend.invalidation import tables, watched
from cachebackend.managers.configured import add_configured_managers
from cachebackend.queries import plans
from tests.zoo.models import Author, Poem

pytestmark = [pytest.mark.django_db(transaction=True)]

MODELS = {"auth.*": {"timeout": 60}, "auth.User": {"lookups": ["username"], "ignore": ["last_login"]}}


@pytest.fixture(autouse=True)
def configured(ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch) -> Iterator[RingCache]:
    """Models of ``django.contrib.auth`` with managers, until the test ends."""
    monkeypatch.setattr(watched, "_dependents", dict(watched._dependents))
    monkeypatch.setattr(watched, "_queried", dict(watched._queried))
    monkeypatch.setattr(tag_names, "_watched", set(tag_names._watched))
    with override_settings(RINGCACHE={"models": MODELS}):
        add_configured_managers()
        yield ring_cache
    for model in (Group, Permission, User):
        del model.cached  # type: ignore[attr-defined]  # settings have added it
    tables.forget_tables()


def cached(model: Any) -> Any:
    return model.cached


def statements(read: Any) -> int:
    with CaptureQueriesContext(connection) as captured:
        read()
    return len(captured)


def test_rows_and_queries_are_cached() -> None:
    """By the lookups of the setting, and until a write."""
    user = User.objects.create(username="ann")
    for _ in range(3):
        assert cached(User).get(username="ann") == user
    assert statements(lambda: cached(User).get(username="ann")) == 0
    assert cached(User).filter(is_staff=True).count() == 0
    User.objects.filter(pk=user.pk).update(is_staff=True)
    assert cached(User).get(username="ann").is_staff
    assert cached(User).filter(is_staff=True).count() == 1
    assert statements(lambda: cached(User).filter(is_staff=True).count()) == 0


def test_relations_between_the_models_are_watched() -> None:
    """The many-to-many table of users and groups has no line in any setting."""
    user, group = User.objects.create(username="ann"), Group.objects.create(name="staff")

    def names() -> Any:
        return list(cached(Group).filter(user=user).values_list("name", flat=True))

    assert names() == []
    user.groups.add(group)
    assert names() == ["staff"]
    Group.objects.update(name="crew")
    assert names() == ["crew"]


def test_the_models_are_tags(configured: RingCache) -> None:
    """As those that have a manager in their own module."""
    configured.get_or_set("page", "old", tags=[Permission])
    Permission.objects.create(name="new", codename="new", content_type_id=1)
    assert configured.get("page") is None


def test_a_change_of_an_ignored_field_leaves_results() -> None:
    """Those that order by it, too. The row has the present value, and other changes invalidate."""
    users = [User.objects.create(username=name) for name in "ab"]

    def first_seen() -> list[str]:
        return [user.username for user in cached(User).order_by("last_login", "username")]

    assert first_seen() == ["a", "b"]
    User.objects.filter(pk=users[1].pk).update(last_login="2030-01-01T00:00Z")
    assert cached(User).get(pk=users[1].pk).last_login.year == 2030
    assert list(cached(User).order_by("last_login", "username"))[1].last_login.year == 2030
    assert first_seen() == ["a", "b"]
    User.objects.filter(pk=users[0].pk).update(username="c")
    in_order = User.objects.order_by("last_login", "username")  # databases differ in where NULL is
    assert first_seen() == [user.username for user in in_order]


def test_a_field_is_ignored_by_queries_through_other_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a condition of equality is not: its results stay right."""
    author = Author.objects.create(name="a")
    Poem.objects.create(name="p", author=author, rank=1)
    monkeypatch.setattr(Poem.cached, "ignore", ("rank",))
    plans._plans.clear()
    try:

        def great() -> Any:
            return cached(Author).filter(poem__rank__gt=5).count()

        def equal() -> Any:
            return cached(Author).filter(poem__rank=9).count()

        assert (great(), equal()) == (0, 0)
        Poem.objects.update(rank=9)
        assert (great(), equal()) == (0, 1)
        Poem.objects.create(name="q", author=author, rank=3)
        assert great() == 1
    finally:
        plans._plans.clear()
