"""The faults of a settings block, collected so that one error reports all of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from cachebackend.errors import ConfigurationError
from cachebackend.interrupts import raise_interrupt

__all__ = ["Faults", "shown"]

#: Longer values are shortened in a message.
_MAX_SHOWN = 100


def shown(value: object) -> str:
    """Return the ``repr`` of a value for a message, shortened; of a value that has none, its type."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001  # a value of any class may be in settings; an int may be too long
        raise_interrupt(error)
        return f"a {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


@dataclass(slots=True)
class Faults:
    """Collects the faults of a settings block.

    Attributes:
        path: The path of the block, such as ``CACHES['default']``; every message begins with it.
        messages: The faults found so far.
    """

    path: str
    messages: list[str] = field(default_factory=list)

    def add(self, key: object, text: str) -> None:
        """Add a fault.

        Args:
            key: The setting below ``path``, a name or an index; None: the block itself.
            text: What is wrong with it.
        """
        path = f"{self.path}[{shown(key)}]" if key is not None else self.path
        self.messages.append(f"{path}: {text}")

    def below(self, key: object) -> Faults:
        """Return a collector for the block at ``key``; it adds to the same list."""
        return Faults(f"{self.path}[{shown(key)}]", self.messages)

    def raise_any(self) -> None:
        """Raise an error if there are faults.

        Raises:
            ConfigurationError: There is at least one fault.
        """
        if self.messages:
            raise ConfigurationError(self.messages)
