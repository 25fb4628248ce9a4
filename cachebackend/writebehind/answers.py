"""Lists that several servers answer together, with the errors of those that did not answer.

A list that may be partial always carries these errors. So no caller takes a part for the whole: it
asks for the complete list, or it uses the part and reports what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

__all__ = ["Answers"]

T = TypeVar("T")


class Answers(list[T]):
    """What the servers that answered hold.

    Args:
        found: What they hold.
        errors: For each server that did not answer its name for a reader and its error.

    Attributes:
        errors: As the argument.
    """

    def __init__(self, found: Iterable[T] = (), errors: Mapping[str, Exception] | None = None) -> None:
        super().__init__(found)
        self.errors = dict(errors or {})

    def complete(self) -> Answers[T]:
        """Return the list.

        Raises:
            Exception: The error of a server that did not answer.
        """
        for error in self.errors.values():
            raise error
        return self
