"""Which models settings give a manager, and with which options."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.db import models
from django.test.utils import isolate_apps, override_settings

from cachebackend import CachedManager, checks
from cachebackend.backend import tag_names
from cachebackend.checks import cached_models
from cachebackend.invalidation import tables, watched
from cachebackend.managers import configured
from cachebackend.managers.configured import (
    ConfiguredManager,
    add_configured_managers,
    configured_models,
    unknown_labels,
)
from tests.shop.models import Product
from tests.zoo.models import Author, Singer


@pytest.fixture(autouse=True)
def unwatched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget afterwards what is watched, and take the managers from models that had none."""
    monkeypatch.setattr(watched, "_dependents", dict(watched._dependents))
    monkeypatch.setattr(watched, "_queried", dict(watched._queried))
    monkeypatch.setattr(tag_names, "_watched", set(tag_names._watched))
    yield
    for model in (Group, Permission, User):
        if "cached" in vars(model):
            del model.cached  # type: ignore[attr-defined]  # added by the test
    tables.forget_tables()


def test_a_model_gets_a_manager_with_the_options() -> None:
    """The arguments of ``CachedManager``; a list of names is a lookup by several fields."""
    options = {"lookups": ["name", ["content_type", "codename"]], "timeout": 9, "ignore": ["name"]}
    with override_settings(RINGCACHE={"models": {"auth.Permission": options}}):
        add_configured_managers()
    manager = inspect.getattr_static(Permission, "cached")
    assert isinstance(manager, CachedManager)
    assert (manager.lookups, manager.timeout) == (("name", ("content_type", "codename")), 9)
    assert manager.ignore == ("name",)
    assert (Permission, manager) in watched.all_dependents()
    assert manager not in Permission._meta.managers
    assert Permission._default_manager.name == "objects"


def test_a_model_has_its_own_entry_before_that_of_its_app() -> None:
    """In any order."""
    with override_settings(RINGCACHE={"models": {"auth.Group": {"timeout": 1}, "auth.*": {"timeout": 2}}}):
        timeouts = {model: options["timeout"] for model, options in configured_models().items()}
    assert timeouts == {Group: 1, Permission: 2, User: 2}


def test_labels_without_a_model_are_known() -> None:
    """They add nothing, and a check reports them."""
    models_: dict[str, Any] = {"auth.Nobody": {}, "none.*": {}, "none.User": {}, "auth.User": {}}
    with override_settings(RINGCACHE={"models": models_}):
        assert unknown_labels() == ["auth.Nobody", "none.*", "none.User"]
        messages = [each.msg for each in checks.check_model_labels()]
    assert "RINGCACHE['models']: there is no model auth.Nobody." in messages
    assert "RINGCACHE['models']: no installed app 'none' has models." in messages


def test_a_model_keeps_an_attribute_of_its_own() -> None:
    """A check says that the options have no effect; without options, a ``CachedManager`` is right."""
    own = vars(Author)["cached"]
    models_: dict[str, Any] = {"zoo.Author": {"timeout": 5}, "zoo.Singer": {}, "auth.Group": {}}
    Group.cached = True  # type: ignore[attr-defined]
    with override_settings(RINGCACHE={"models": models_}):
        add_configured_managers()
        assert [each.obj for each in checks.check_configured_managers()] == [Author, Group]
    assert vars(Author)["cached"] is own
    assert vars(Group)["cached"] is True
    assert any(model is Group for model, _ in watched.all_dependents())
    assert not isinstance(vars(Singer)["cached"], ConfiguredManager)


def test_children_have_their_own_managers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of their own entry, or else copies of their parent's."""
    with isolate_apps("tests.shop") as apps:

        class Parent(models.Model):
            class Meta:
                app_label = "shop"

        class Child(Parent):
            class Meta:
                app_label = "shop"

        class Other(Parent):
            class Meta:
                app_label = "shop"
                proxy = True

        monkeypatch.setattr(configured, "apps", apps)
        models_ = {"shop.Parent": {"timeout": 1}, "shop.Child": {"timeout": 2}}
        with override_settings(RINGCACHE={"models": models_}):
            add_configured_managers()
            assert checks.check_configured_managers() == []
        managers = [inspect.getattr_static(each, "cached") for each in (Parent, Child, Other)]
        assert [each.timeout for each in managers] == [1, 2, 1]
        assert [each.model for each in managers] == [Parent, Child, Other]


def test_all_models_of_an_app_are_those_that_django_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views and tables of others can be named one by one."""
    with isolate_apps("tests.shop") as apps:

        class Shown(models.Model):
            class Meta:
                app_label = "shop"
                managed = False

        class Made(models.Model):
            class Meta:
                app_label = "shop"

        monkeypatch.setattr(configured, "apps", apps)
        with override_settings(RINGCACHE={"models": {"shop.*": {}}}):
            assert list(configured_models()) == [Made]
        with override_settings(RINGCACHE={"models": {"shop.Shown": {}}}):
            assert list(configured_models()) == [Shown]


def test_a_check_names_ignored_names_that_are_no_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a name would ignore nothing."""
    assert checks.check_ignored_fields() == []
    monkeypatch.setattr(Product.cached, "ignore", ("name", "views", "pk"))
    messages = [each.msg for each in checks.check_ignored_fields()]
    assert messages == [
        f"shop.Product.cached ignores '{name}', which is not a field of the model."
        for name in ("views", "pk")
    ]


def test_a_check_names_other_caches_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may answer the queries that fill this cache."""
    assert checks.check_query_caches() == []
    monkeypatch.setattr(cached_models.apps, "is_installed", lambda name: name == "cacheops")
    [warning] = checks.check_query_caches()
    assert warning.id == "ringcache.W018"
    assert "from CACHEOPS" in str(warning.hint)
