"""``cached_property``: an attribute that is computed when it is first read.

That of ``functools`` holds a lock meanwhile, before Python 3.12: one for all instances of a class. A thread
that waits for a node in such an attribute made all other threads wait for it, and a signal handler that
raised could leave the lock held for good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

__all__ = ["cached_property"]

T = TypeVar("T")


class cached_property(Generic[T]):  # noqa: N801  # it is used like a function
    """An attribute that a method computes once for each instance; two threads may both compute it.

    Args:
        method: Returns the value, given the instance.
    """

    def __init__(self, method: Callable[[Any], T]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> T: ...
    def __get__(self, instance: object | None, owner: type | None = None) -> Self | T:
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._method(instance)
        return value
