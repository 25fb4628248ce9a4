"""The faults of a settings block, collected so that all are told at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, ClassVar, Protocol

from cachebackend.errors import ConfigurationError

__all__ = ["Choice", "Faults", "Flag", "Number", "Optional", "Rule", "Whole", "check_fields"]


@dataclass(slots=True)
class Faults:
    """Collects faults under a path; ``raise_any`` ends in one ConfigurationError."""

    path: str
    found: list[str] = field(default_factory=list)

    def add(self, key: object, text: str) -> None:
        """Note that the setting at ``path`` + ``key`` (a name or an index) is wrong, and how."""
        where = f"{self.path}[{key!r}]" if key is not None else self.path
        self.found.append(f"{where}: {text}")

    def at(self, key: object) -> Faults:
        """Return a collector for the block below ``key``; it shares this one's list."""
        return Faults(f"{self.path}[{key!r}]", self.found)

    def raise_any(self) -> None:
        """Raise what was found.

        Raises:
            ConfigurationError: At least one fault was found.
        """
        if self.found:
            raise ConfigurationError(self.found)


class Rule(Protocol):
    """What a setting's value must be."""

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value, or None."""
        ...


@dataclass(frozen=True, slots=True)
class Number:
    """A number of at least, or above, ``low``, and where it is given less than ``below``."""

    low: float
    above: bool = False
    unit: str = ""
    below: float = 1e9

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value, or None."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"must be a number{self.unit}, got {value!r}"
        fine = value > self.low if self.above else value >= self.low
        bound = f"{'>' if self.above else '>='} {self.low:g}"
        if value >= self.below:
            bound += f" and < {self.below:g}"
        return None if fine and value < self.below else f"must be {bound}{self.unit}, got {value!r}"


@dataclass(frozen=True, slots=True)
class Optional:
    """None, or what another rule allows."""

    rule: Rule

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value, or None."""
        return None if value is None else self.rule.fault(value)


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from ``low`` to ``high``, both included."""

    low: int
    high: int

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value, or None."""
        fine = isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high
        return None if fine else f"must be a whole number from {self.low} to {self.high}, got {value!r}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value, or None."""
        return None if value in self.words else f"must be one of {', '.join(self.words)}, got {value!r}"


@dataclass(frozen=True, slots=True)
class Flag:
    """True or False."""

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value, or None."""
        return None if isinstance(value, bool) else f"must be True or False, got {value!r}"


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def check_fields(
    kind: type[_Dataclass], given: Mapping[str, Any], faults: Faults, others: Iterable[str] = ()
) -> None:
    """Hold each given setting against the ``rule`` in its field's metadata; unknown names are faults.

    Args:
        kind: The options' dataclass; a setting is a field with ``metadata["rule"]``.
        given: Setting names and values.
        faults: Where faults go.
        others: The names of settings that are known too, but are read elsewhere.
    """
    known = {f.name: f for f in fields(kind) if "rule" in f.metadata}
    for name, value in given.items():
        if name not in known:
            names = sorted((*known, *others))
            near = get_close_matches(str(name), names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(names)}"
            faults.add(name, f"unknown option{hint}")
        elif text := known[name].metadata["rule"].fault(value):
            faults.add(name, text)
