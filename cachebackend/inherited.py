"""The attributes of a kind that a model class inherits."""

from __future__ import annotations

import inspect
from typing import TypeVar

__all__ = ["inherited_attributes"]

T = TypeVar("T")


def inherited_attributes(owner: type, kind: type[T]) -> dict[str, T]:
    """Return the attributes of a kind that a class inherits, by name, and does not define itself."""
    inherited = {
        name: value
        for base in reversed(owner.__mro__[1:])
        for name, value in vars(base).items()
        if isinstance(value, kind)
    }
    return {name: value for name, value in inherited.items() if inspect.getattr_static(owner, name) is value}
