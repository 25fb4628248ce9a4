"""The keys of cached calls, made without a ring."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from cachebackend.backend.scope import scope_of
from cachebackend.decorators import cached
from tests.shop.models import Tag


@cached(60)
def report(day: Any, *, size: Any = 10, **more: Any) -> None:
    """A function with arguments."""


@cached(60, key=lambda request: request["user"])
def page(request: Any) -> None:
    """A function with a key of its own."""


def test_a_call_has_one_key_however_it_is_written() -> None:
    """By position or by name, with defaults or without."""
    assert report.key_of(1) == report.key_of(day=1) == report.key_of(1, size=10)
    assert report.key_of(1).startswith(f"call:{scope_of('default')}:{__name__}.report:")
    assert report.key_of(1) != report.key_of(2)


def test_functions_of_one_place_have_different_keys() -> None:
    """Closures with other values, partial functions, and lambdas on one line."""

    def closure(number: int) -> Any:
        def times(other: int) -> int:
            return number * other

        return cached(60)(times)

    one, other = cached(60)(lambda: 1), cached(60)(lambda: 2)
    assert one.key_of() != other.key_of()
    assert closure(1).key_of(5) != closure(2).key_of(5)
    assert closure(1).key_of(5) == closure(1).key_of(5)
    partials = [cached(60)(partial(report._function, size=size)) for size in (1, 2)]
    assert partials[0].key_of(1) != partials[1].key_of(1)
    with pytest.raises(TypeError, match=r"give @cached\(key=…\)"):
        closure(object()).key_of(5)  # type: ignore[arg-type]  # the point


def test_a_method_of_an_unsaved_row_is_refused() -> None:
    """Two new rows would have one key."""
    with pytest.raises(TypeError, match="save it first"):
        cached(60)(Tag().save).key_of()
    with pytest.raises(TypeError, match="save it first"):
        report.key_of(Tag())


def test_an_argument_without_a_key_needs_a_key_function() -> None:
    """The error says how to pass one."""
    with pytest.raises(TypeError, match=r"report\(\) has an argument .*@cached\(key=…\)"):
        report.key_of(object())
    assert page.key_of({"user": "me"}).endswith(".page:me")
