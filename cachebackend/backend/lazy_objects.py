"""Lazy objects of Django, such as ``request.user``, which stand for an object that is loaded later."""

from __future__ import annotations

from typing import Any

from django.utils.functional import LazyObject

__all__ = ["loaded"]


def loaded(value: Any) -> Any:
    """Return the object that a lazy object of Django stands for, and any other value as it is.

    A lazy object pretends to be of the class of its object, but has its own type and its own attributes.
    """
    while isinstance(value, LazyObject):
        value.__class__  # noqa: B018  # any access loads the object
        value = vars(value)["_wrapped"]
    return value
