"""The keys that rows are cached by."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from cachebackend.managers.keys import RowKeys
from tests.shop.models import Author, Tag

CODE = uuid.UUID(int=5)


def test_a_row_has_a_key_for_its_primary_key_and_for_each_lookup() -> None:
    """As far as its columns are known."""
    keys = RowKeys(Author, ["name", "code"])
    assert keys.of_rows([{"pk": 1, "name": "x", "code": CODE}]) == [
        "shop.author:id:1", "shop.author:name:x", f"shop.author:code:{CODE}",
    ]  # fmt: skip
    assert keys.of_rows([{"pk": 1}]) == ["shop.author:id:1"]
    assert set(keys.columns) == {"id", "name", "code"}


@pytest.mark.parametrize("given", [CODE, str(CODE), CODE.hex])
def test_equal_values_have_one_key(given: Any) -> None:
    """In every form in which a caller may write them."""
    keys = RowKeys(Author, ["code"])
    assert keys.of(keys.fields["code"], given) == f"shop.author:code:{CODE}"


@pytest.mark.parametrize("name", ["a b", "x" * 101, "žluť", "a\n"])
def test_a_value_that_is_long_or_not_plain_is_hashed(name: str) -> None:
    """So the key stays short, and no warning is issued."""
    keys = RowKeys(Tag, ["name"])
    made = keys.of(keys.fields["name"], name)
    assert made.startswith("shop.tag:name:#")
    assert made.isascii()
    assert made != keys.of(keys.fields["name"], name + "!")


def test_a_row_may_be_asked_for_under_each_name_of_a_field() -> None:
    """``pk`` is the primary key."""
    fields = RowKeys(Tag, ["name"]).fields
    assert fields["pk"] is fields["id"]
    assert set(fields) == {"pk", "id", "name"}


@pytest.mark.parametrize("lookup", ["no_such", "products"])
def test_a_lookup_must_be_a_unique_field(lookup: str) -> None:
    """Otherwise one key could belong to several rows."""
    with pytest.raises(ImproperlyConfigured, match=f"Tag: the lookup '{lookup}' is not a unique field"):
        _ = RowKeys(Tag, [lookup]).fields
