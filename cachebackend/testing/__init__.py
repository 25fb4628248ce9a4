"""Helps projects that use the ring with their tests: empty rings and queues, nodes, an assertion.

``blocks`` and ``queues`` have the context managers that a test puts around its code, ``cases`` has a
mixin for Django's test cases, ``embedded`` starts nodes for a test, and ``plugin`` has pytest
fixtures. pytest loads the plugin before Django is set up, so modules that need Django are imported
when they are first used. Nothing outside tests imports this package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cachebackend.testing.blocks import assert_invalidates, empty_ring
    from cachebackend.testing.cases import RingCacheTestMixin
    from cachebackend.testing.embedded import embedded_nodes
    from cachebackend.testing.queues import drain_now, empty_queue

__all__ = [
    "RingCacheTestMixin",
    "assert_invalidates",
    "drain_now",
    "embedded_nodes",
    "empty_queue",
    "empty_ring",
]

#: The module that defines each public name.
_MODULES = {
    "RingCacheTestMixin": "cases",
    "assert_invalidates": "blocks",
    "drain_now": "queues",
    "embedded_nodes": "embedded",
    "empty_queue": "queues",
    "empty_ring": "blocks",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _MODULES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
