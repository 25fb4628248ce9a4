"""The addresses at which a process reaches the servers of a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.errors import ConfigurationError
from cachebackend.options.address_map import IsAddressMap, read_address_map


def test_an_address_that_is_not_in_the_map_stays() -> None:
    """IPv6 addresses are in brackets."""
    given = {"10.0.0.1:6379": "localhost:7000", "[fd00::1]:6379": "[::1]:7001"}
    assert IsAddressMap().fault(given) is None
    address_map = read_address_map(given)
    assert address_map is not None
    assert address_map("10.0.0.1", 6379) == ("localhost", 7000)
    assert address_map("fd00::1", 6379) == ("::1", 7001)
    assert address_map("10.0.0.1", 6380) == ("10.0.0.1", 6380)
    assert read_address_map(None) is None


def test_equal_maps_are_equal() -> None:
    """Two aliases with the same options share a client."""
    for given in ({"a:1": "b:1"}, max):
        one, other = read_address_map(given), read_address_map(given)
        assert one == other
        assert hash(one) == hash(other)


def test_a_function_maps_addresses() -> None:
    """It gets the host and the port that the cluster names."""

    def outside(host: str, port: int) -> tuple[str, int]:
        return f"{host}.example.com", port + 1

    assert IsAddressMap().fault(outside) is None
    address_map = read_address_map(outside)
    assert address_map is not None
    assert address_map("a", 1) == ("a.example.com", 2)


@pytest.mark.parametrize("returned", [None, "a:1", ("a",), ("a", "1"), ("", 1), ("a", 0), (b"a", 1)])
def test_a_function_that_returns_something_else_is_a_fault(returned: Any) -> None:
    """The message shows what it returned."""
    address_map = read_address_map(lambda *_: returned)
    assert address_map is not None
    with pytest.raises(ConfigurationError, match=r"address_map: must return \(host, port\), returned"):
        address_map("a", 1)


def test_a_function_that_raises_is_a_fault() -> None:
    """The message shows the error: the settings are wrong, and not the call that needs a server."""
    address_map = read_address_map(lambda host, _: {}[host])
    assert address_map is not None
    with pytest.raises(ConfigurationError, match=r"address_map: has raised KeyError\('a'\)"):
        address_map("a", 1)


@pytest.mark.parametrize(
    "given", [{"a": "b:1"}, {"a:1": "b"}, {"a:1": 1}, {1: "a:1"}, {"a:0": "b:1"}, "a:1", 7]
)
def test_a_map_that_is_not_valid_is_a_fault(given: object) -> None:
    """Every address has a host and a port."""
    assert IsAddressMap().fault(given) is not None
