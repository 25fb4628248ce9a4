"""pytest fixtures: name this module in the ``pytest_plugins`` of your ``conftest.py``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from django.conf import settings

from cachebackend.testing import embedded_nodes, empty_queue, empty_ring

if TYPE_CHECKING:
    from cachebackend.backend import RingCache

__all__ = ["own_queue", "ring", "ring_nodes"]


@pytest.fixture(scope="session")
def ring_nodes() -> Iterator[list[str]]:
    """The URLs of three nodes that are started for the test run; override it to use your own nodes."""
    with embedded_nodes(3) as urls:
        yield urls


@pytest.fixture
def ring(ring_nodes: list[str]) -> Iterator[RingCache]:
    """The cache of the alias "default": an empty ring on ``ring_nodes``, for one test.

    The first of these nodes holds the queue of write-behind, which is empty too.
    """
    with empty_ring(location=ring_nodes) as cache, empty_queue(nodes=ring_nodes[:1]):
        yield cache


@pytest.fixture(autouse=True)
def own_queue() -> Iterator[None]:
    """Give each test without ``ring`` an empty queue on the settings' nodes, which no worker drains."""
    if not settings.configured and not os.environ.get("DJANGO_SETTINGS_MODULE"):
        yield
        return
    with empty_queue():
        yield
