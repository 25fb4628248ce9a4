"""The memory of random keys of a node."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.protocol.telemetry.key_sizes import random_key_sizes
from tests.unit.protocol.stepping import DOWN, context_of, step


def test_each_key_is_measured_once() -> None:
    """A node may choose a key several times; one that is gone by then is left out."""
    context = context_of("a", "b")
    sizes, [chosen, measured] = step(
        random_key_sizes(context, 1, 4), [b"k", b"l", b"k", b"m"], [56, None, DOWN]
    )
    assert sizes == {b"k": 56}
    assert chosen == [(1, (b"RANDOMKEY",))] * 4
    assert measured == [(1, (b"MEMORY", b"USAGE", key)) for key in (b"k", b"l", b"m")]


@pytest.mark.parametrize("replies", [[None, None], [DOWN, DOWN]])
def test_a_node_without_keys_is_not_asked_again(replies: list[Any]) -> None:
    """Neither is one that does not answer."""
    assert step(random_key_sizes(context_of("a"), 0, 2), replies)[0] == {}
