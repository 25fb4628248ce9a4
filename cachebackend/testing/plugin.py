"""pytest fixtures: name this module in the ``pytest_plugins`` of your ``conftest.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from cachebackend.testing import embedded_nodes, empty_ring

if TYPE_CHECKING:
    from cachebackend.backend import RingCache

__all__ = ["ring", "ring_nodes"]


@pytest.fixture(scope="session")
def ring_nodes() -> Iterator[list[str]]:
    """The URLs of three nodes that are started for the test run; override it to use your own nodes."""
    with embedded_nodes(3) as urls:
        yield urls


@pytest.fixture
def ring(ring_nodes: list[str]) -> Iterator[RingCache]:
    """The cache of the alias "default": an empty ring on ``ring_nodes``, for one test."""
    with empty_ring(location=ring_nodes) as cache:
        yield cache
