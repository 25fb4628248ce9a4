"""The option ``address_map``: at which address this process reaches a server that a cluster names.

A cluster behind a translation of addresses, or behind forwarded ports, names its servers by addresses that
mean something else outside.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from cachebackend.errors import ConfigurationError
from cachebackend.interrupts import raise_interrupt
from cachebackend.options.faults import shown
from cachebackend.options.host import host_and_port, host_text

__all__ = ["AddressMap", "IsAddressMap", "read_address_map"]

#: Returns the host and the port at which this process reaches a server, from those that the cluster names.
AddressMap: TypeAlias = Callable[[str, int], tuple[str, int]]


class IsAddressMap:
    """A dict from ``host:port`` to ``host:port``, or a function of a host and a port that returns both."""

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value; None: nothing is."""
        if callable(value) and isinstance(value, Hashable):
            return None
        if not isinstance(value, Mapping):
            return (
                'must be a dict such as {"10.0.0.1:6379": "127.0.0.1:7000"} or a function, '
                f"got a {type(value).__name__}"
            )
        for each in (*value.keys(), *value.values()):
            if not isinstance(each, str) or host_and_port(each, None) is None:
                return f"each address must be 'host:port', got {shown(each)}"
        return None


@dataclass(frozen=True, slots=True)
class _AddressTable:
    """A dict of addresses as a function. It is hashable, because options are the key of their client."""

    addresses: tuple[tuple[tuple[str, int] | None, tuple[str, int] | None], ...]

    def __call__(self, host: str, port: int) -> tuple[str, int]:
        """Return the host and the port at which a server is reached: the same, if the dict has it not."""
        return dict(self.addresses).get((host, port)) or (host, port)


@dataclass(frozen=True, slots=True)
class _CheckedFunction:
    """A function of the project, with a check of what it returns."""

    function: Callable[[str, int], object]

    def __call__(self, host: str, port: int) -> tuple[str, int]:
        """Return the host and the port at which a server is reached.

        Raises:
            ConfigurationError: The function returned something else, or raised an error.
        """
        try:
            returned = self.function(host, port)
        except Exception as error:
            raise_interrupt(error)
            raise ConfigurationError([f"address_map: has raised {error!r}"]) from error
        match returned:
            case (str() as reached, int() as at) if host_and_port(host_text(reached, at), None):
                return reached, at
        raise ConfigurationError([f"address_map: must return (host, port), returned {shown(returned)}"])


def read_address_map(given: Any) -> AddressMap | None:
    """Return the function of the option ``address_map``, which ``IsAddressMap`` has checked."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        return _CheckedFunction(given)
    pairs = given.items()
    return _AddressTable(tuple((host_and_port(a, None), host_and_port(b, None)) for a, b in pairs))
