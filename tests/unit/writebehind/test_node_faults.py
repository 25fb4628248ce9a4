"""Errors of queue nodes, as text."""

from __future__ import annotations

import pytest

from cachebackend.errors import NodeReplyError, NodeUnavailableError, RingCacheError
from cachebackend.writebehind.node_faults import named_error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (NodeUnavailableError("node 'q' is not reachable"), "node 'q' is not reachable"),
        (NodeReplyError("NOPERM no permission"), "queue node 'q': NOPERM no permission"),
    ],
)
def test_an_error_names_its_node(error: RingCacheError, text: str) -> None:
    """Once: most errors have the name already."""
    assert named_error("q", error) == text
