"""For the tests of projects that use the ring: empty rings, nodes to run them on, and an assertion.

``blocks`` is what a test puts around some code, ``embedded`` starts nodes of the test's own, and
``plugin`` makes fixtures of both for pytest, which loads it before Django is set up: so what
needs Django is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cachebackend.testing.blocks import assert_invalidates, empty_ring
    from cachebackend.testing.embedded import embedded_nodes

__all__ = ["assert_invalidates", "embedded_nodes", "empty_ring"]

_HOMES = {"assert_invalidates": "blocks", "embedded_nodes": "embedded", "empty_ring": "blocks"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
