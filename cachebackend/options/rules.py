"""The rules that the values of settings must follow."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import Field, fields
from difflib import get_close_matches
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

from cachebackend.options.faults import Faults, shown

__all__ = [
    "Boolean",
    "Choice",
    "Integer",
    "IsPassword",
    "IsSecret",
    "Number",
    "Optional",
    "Password",
    "Rule",
    "Word",
    "check_fields",
    "is_encodable",
]

#: A password, or a function that returns it; the function may also return a user and a password.
Password: TypeAlias = str | Callable[[], str | Sequence[str]]
#: The largest number that is a secret.
_MAX_SECRET = 2**64 - 1
_WORD = re.compile(r"[A-Za-z0-9_.-]+")


def is_encodable(text: str) -> bool:
    """Return whether a text can be sent: bytes that were decoded in another encoding may leave surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


class Rule(Protocol):
    """A condition on the value of a setting."""

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value; None: nothing is."""
        ...


class Number(NamedTuple):
    """A number in a range.

    Attributes:
        low: The least number.
        exclusive: Whether the number must be more than ``low``.
        unit: The unit for the message, with a blank before it.
        below: The number must be less than this.
    """

    low: float
    exclusive: bool = False
    unit: str = ""
    below: float = 1e9

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value; None: nothing is."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"must be a number{self.unit}, got {shown(value)}"
        is_enough = value > self.low if self.exclusive else value >= self.low
        bound = f"{'>' if self.exclusive else '>='} {self.low:g}"
        if value >= self.below:
            bound += f" and < {self.below:g}"
        return None if is_enough and value < self.below else f"must be {bound}{self.unit}, got {shown(value)}"


class Optional(NamedTuple):
    """None, or a value that another rule allows."""

    rule: Rule

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value; None: nothing is."""
        return None if value is None else self.rule.fault(value)


class Integer(NamedTuple):
    """A whole number from ``low`` to ``high``, both included."""

    low: int
    high: int

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value; None: nothing is."""
        is_valid = isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high
        return (
            None if is_valid else f"must be a whole number from {self.low} to {self.high}, got {shown(value)}"
        )


class Word(NamedTuple):
    """A text of letters, digits, ``_``, ``-`` and ``.``, not longer than ``length``."""

    length: int

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value; None: nothing is."""
        if isinstance(value, str) and len(value) <= self.length and _WORD.fullmatch(value):
            return None
        return f"must be 1 to {self.length} letters, digits, '_', '-' or '.', got {shown(value)}"


class Choice(NamedTuple):
    """One of a few words."""

    words: tuple[str, ...]

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value; None: nothing is."""
        return None if value in self.words else f"must be one of {', '.join(self.words)}, got {shown(value)}"


class Boolean:
    """True or False."""

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value; None: nothing is."""
        return None if isinstance(value, bool) else f"must be True or False, got {shown(value)}"


class IsPassword:
    """A password, or a function that returns it. The message never shows it."""

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value; None: nothing is."""
        if isinstance(value, str) and value:
            return None if is_encodable(value) else "has a character that is not valid Unicode"
        if callable(value) and isinstance(value, Hashable):
            return None
        return (
            "must be a text that is not empty, or a function that returns the password, "
            f"got a {type(value).__name__}"
        )


class IsSecret:
    """A text that is not empty, or a whole number of 64 bits. The message never shows it."""

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value; None: nothing is."""
        if (isinstance(value, str) and value) or Integer(0, _MAX_SECRET).fault(value) is None:
            return None
        return (
            "must be a text that is not empty, or a whole number from 0 to 2**64 - 1, "
            f"got a {type(value).__name__}"
        )


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def check_fields(
    kind: type[_Dataclass], given: Mapping[str, Any], faults: Faults, also_known: Iterable[str] = ()
) -> None:
    """Check each given setting by the ``rule`` in its field's metadata; an unknown name is a fault.

    Args:
        kind: The options' dataclass; a field with ``metadata["rule"]`` is a setting.
        given: Setting names and values.
        faults: Where faults are added.
        also_known: The names of settings that the caller reads itself.
    """
    known = {f.name: f for f in fields(kind) if "rule" in f.metadata}
    for name, value in given.items():
        if name not in known:
            names = sorted((*known, *also_known))
            similar = get_close_matches(name, names, n=1) if isinstance(name, str) else []
            hint = f"; did you mean {similar[0]!r}?" if similar else f"; known are {', '.join(names)}"
            faults.add(name, f"unknown option{hint}")
        elif text := known[name].metadata["rule"].fault(value):
            faults.add(name, text)
