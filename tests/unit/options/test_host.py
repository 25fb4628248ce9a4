"""Hosts that can be looked up."""

from __future__ import annotations

import pytest

from cachebackend.options.host import is_host


@pytest.mark.parametrize("text", ["h", "10.0.0.1", "::1", "valkey.example.com", "bücher.example", "x" * 63])
def test_a_host_is_a_name_or_an_address(text: str) -> None:
    """In any script."""
    assert is_host(text)


@pytest.mark.parametrize("text", ["", "a..b", ".a", "x" * 64, "a." + "x" * 64])
def test_a_name_with_a_part_that_is_empty_or_too_long_is_no_host(text: str) -> None:
    """Looking it up would raise UnicodeError, which does not mean that a node failed."""
    assert not is_host(text)
