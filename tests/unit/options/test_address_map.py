"""The addresses at which a process reaches the servers of a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.errors import ConfigurationError
from cachebackend.options import mapped_address
from cachebackend.options.address_map import IsAddressMap, read_address_map


def test_an_address_that_is_not_in_the_map_stays() -> None:
    """IPv6 addresses are in brackets."""
    given = {"10.0.0.1:6379": "localhost:7000", "[fd00::1]:6379": "[::1]:7001"}
    assert IsAddressMap().fault(given) is None
    address_map = read_address_map(given)
    assert mapped_address(address_map, "10.0.0.1", 6379) == ("localhost", 7000)
    assert mapped_address(address_map, "fd00::1", 6379) == ("::1", 7001)
    assert mapped_address(address_map, "10.0.0.1", 6380) == ("10.0.0.1", 6380)
    assert mapped_address(None, "10.0.0.1", 6379) == ("10.0.0.1", 6379)


def test_equal_maps_are_equal() -> None:
    """Two aliases with the same options share a client."""
    one, other = read_address_map({"a:1": "b:1"}), read_address_map({"a:1": "b:1"})
    assert one == other
    assert hash(one) == hash(other)


def test_a_function_maps_addresses() -> None:
    """It gets the host and the port that the cluster names."""

    def outside(host: str, port: int) -> tuple[str, int]:
        return f"{host}.example.com", port + 1

    assert IsAddressMap().fault(outside) is None
    assert mapped_address(read_address_map(outside), "a", 1) == ("a.example.com", 2)


@pytest.mark.parametrize("returned", [None, "a:1", ("a",), ("a", "1"), ("", 1), ("a", 0), (b"a", 1)])
def test_a_function_that_returns_something_else_is_a_fault(returned: Any) -> None:
    """The message shows what it returned."""
    with pytest.raises(ConfigurationError, match=r"address_map: must return \(host, port\), returned"):
        mapped_address(lambda *_: returned, "a", 1)


@pytest.mark.parametrize(
    "given", [{"a": "b:1"}, {"a:1": "b"}, {"a:1": 1}, {1: "a:1"}, {"a:0": "b:1"}, "a:1", 7]
)
def test_a_map_that_is_not_valid_is_a_fault(given: object) -> None:
    """Every address has a host and a port."""
    assert IsAddressMap().fault(given) is not None
