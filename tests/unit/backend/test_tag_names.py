"""The names of tags."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.cache.backends.base import memcache_key_warnings
from django.core.exceptions import ImproperlyConfigured

from cachebackend.backend.scope import scope_of
from cachebackend.backend.tag_names import names_of_text, row_tag_name, tag_name, watch_tags_of
from cachebackend.managers.keys import RowKeys
from tests.shop.models import Author, Coin, Everything, Line, Product, Review, SaleProduct, Tag


def test_a_tag_is_a_string_a_model_or_a_row() -> None:
    """No string has the name of a model or row."""
    scope = scope_of("default")
    assert tag_name("front") == "tag:front"
    assert tag_name(Tag) == f"rows:{scope}:shop_tag"
    assert tag_name(Tag(pk=7)) == f"rows:{scope}:shop_tag:7"


def test_a_row_has_one_name_however_its_key_is_written() -> None:
    """As text, for example, or as hexadecimal digits."""
    assert tag_name(Tag(pk="7")) == tag_name(Tag(pk=7))
    assert tag_name(Coin(pk="#a")) != tag_name(Coin(pk="a"))
    assert row_tag_name(Line, ["1", "2"], "s") == row_tag_name(Line, (1, 2), "s")
    assert row_tag_name(Author, 1, "s") != row_tag_name(Tag, 1, "s")


def test_the_rows_of_a_proxy_are_those_of_its_model() -> None:
    """So are the tags."""
    assert tag_name(SaleProduct) == tag_name(Product)
    assert tag_name(SaleProduct(pk=1)) == tag_name(Product(pk=1))


def test_a_cached_manager_makes_its_model_a_tag() -> None:
    """Review has no InvalidatingManager."""
    assert tag_name(Review).endswith(":shop_review")


@pytest.mark.parametrize("tag", [Everything, Everything(pk=1)])
def test_a_model_that_nothing_watches_is_refused(tag: Any) -> None:
    """The message says what to write."""
    says = r'Everything cannot be a tag.*InvalidatingManager\(\).*{"models": {"shop.Everything": {}}}'
    with pytest.raises(ImproperlyConfigured, match=says):
        tag_name(tag)


def test_a_row_without_a_primary_key_is_refused() -> None:
    """No write could name it."""
    with pytest.raises(TypeError, match="its primary key is None"):
        tag_name(Tag())


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("front", []),
        ("shop.Tag", [Tag]),
        ("SHOP.tag:7", [Tag(pk=7)]),
        ("shop.tag:x", []),
        ("shop.tag:", []),
        ("shop.everything", []),
    ],
)
def test_a_text_may_name_a_watched_model_or_its_row(text: str, means: list[Any]) -> None:
    """It is always a tag itself."""
    assert names_of_text(text) == [f"tag:{text}", *map(tag_name, means)]


def test_a_model_is_watched_once() -> None:
    """A second manager of the model changes nothing."""
    assert not watch_tags_of(Tag)


def test_a_table_with_a_space_makes_keys_that_django_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It warns about a key with a space, at each write."""
    monkeypatch.setattr(Tag._meta, "db_table", 'tags of "2026"')
    names = [tag_name(Tag), tag_name(Tag(pk=7)), *RowKeys(Tag, []).of_rows([{"pk": 7, "id": 7}], ["s"])]
    assert not [warning for name in names for warning in memcache_key_warnings(name)]
    assert len({*names}) == 3
