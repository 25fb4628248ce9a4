"""The URL of a node behind sentinels."""

from __future__ import annotations

import pytest

from cachebackend.options import sentinel_address


def test_a_sentinel_url_has_hosts_service_and_logins() -> None:
    """Hosts of every kind; user and password are the node's, and the sentinels have their own."""
    address = sentinel_address(
        "redis+sentinel://me:p%40ss@h1,[::1]:7,10.0.0.1:8/my%20shop/3?sentinel_username=s&sentinel_password=hun%26ter2"
    )
    assert address.hosts == (("h1", 26379), ("::1", 7), ("10.0.0.1", 8))
    assert (address.service, address.username, address.password) == ("my shop", "s", "hun&ter2")
    assert address.node_url == "redis://me:p%40ss@behind.sentinel/3"
    assert "hun" not in repr(address)
    assert "p%40ss" not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://h1,h2",
        "redis+sentinel://h1,,h2/shop",
        "redis+sentinel://h1:0/shop",
        "redis+sentinel://h1:70000/shop",
        "redis+sentinel://h1/shop/x",
        "redis+sentinel://:hunter2@a..b/shop",
    ],
)
def test_a_sentinel_url_that_is_not_valid_is_refused(url: str) -> None:
    """Without a service, with a host or port that cannot be; the message never holds the password."""
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # each says what is wrong with it
        sentinel_address(url)
    assert "hunter2" not in str(raised.value)


def test_the_order_of_the_sentinels_does_not_matter() -> None:
    """The endpoint is the same, so two names for it are a fault."""
    one, other = (sentinel_address(f"redis+sentinel://{hosts}/shop/2") for hosts in ("a,b", "b,a:26379"))
    assert one.endpoint == other.endpoint == "a:26379,b:26379/shop/2"
