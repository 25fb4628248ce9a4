"""Lazy objects, and what they stand for."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils.functional import SimpleLazyObject

from cachebackend.backend.lazy_objects import loaded


@pytest.mark.parametrize("value", [None, 1, "a", [1], object])
def test_the_object_of_a_lazy_object(value: Any) -> None:
    """Also if it is lazy itself; any other value stays as it is."""
    assert loaded(value) is value
    assert loaded(SimpleLazyObject(lambda: value)) is value
    assert loaded(SimpleLazyObject(lambda: SimpleLazyObject(lambda: value))) is value
