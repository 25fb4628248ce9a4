"""Helps projects that use the ring with their tests: empty rings, nodes to run them on, an assertion.

``blocks`` has the context managers that a test puts around its code, ``embedded`` starts nodes for
a test, and ``plugin`` offers both as pytest fixtures. pytest loads the plugin before Django is set
up, so modules that need Django are imported when they are first used. Nothing outside tests
imports this package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cachebackend.testing.blocks import assert_invalidates, empty_ring
    from cachebackend.testing.embedded import embedded_nodes

__all__ = ["assert_invalidates", "embedded_nodes", "empty_ring"]

#: The module that defines each public name.
_MODULES = {"assert_invalidates": "blocks", "embedded_nodes": "embedded", "empty_ring": "blocks"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _MODULES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
