"""The keys of cached calls, made without a ring."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.decorators import cached
from tests.shop.models import Author, Tag


@cached(60)
def report(day: Any, *, size: Any = 10, **more: Any) -> None:
    """A function with arguments."""


@cached(60, key=lambda request: request["user"])
def page(request: Any) -> None:
    """A function with a key of its own."""


def test_a_call_has_one_key_however_it_is_written() -> None:
    """By position or by name, with defaults or without."""
    assert report.key_of(1) == report.key_of(day=1) == report.key_of(1, size=10)
    assert report.key_of(1).startswith(f"call:{__name__}.report:")


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, "1"), (1, True), ((1,), [1]), ({1}, [1]), ({"a": 1}, [("a", 1)]), (None, ""), ([[1], 2], [1, [2]])],
)
def test_arguments_that_differ_have_different_keys(one: Any, other: Any) -> None:
    """By type as well as by value, at any depth."""
    assert report.key_of(one) != report.key_of(other)


def test_sets_and_dicts_have_no_order() -> None:
    """Equal arguments have one key, in every process."""
    assert report.key_of({1, 2, 3}) == report.key_of({3, 2, 1})
    assert report.key_of({"a": 1, "b": 2}) == report.key_of({"b": 2, "a": 1})


def test_a_row_is_its_model_and_primary_key() -> None:
    """Its other columns make no difference."""
    assert report.key_of(Tag(pk=1, name="x")) == report.key_of(Tag(pk=1, name="y"))
    assert report.key_of(Tag(pk=1)) != report.key_of(Author(pk=1))
    assert report.key_of([Tag(pk=1)]) != report.key_of([Tag(pk=2)])


def test_an_argument_without_a_key_needs_a_key_function() -> None:
    """The error says how to pass one."""
    with pytest.raises(TypeError, match=r"report\(\) has an argument .*@cached\(key=…\)"):
        report.key_of(object())
    assert page.key_of({"user": "me"}).endswith(".page:me")
