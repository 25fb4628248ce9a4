from __future__ import annotations

import pytest

from cachebackend.options import Faults, NodeAddress, parse_node, parse_nodes


def parsed(url: object) -> NodeAddress:
    faults = Faults("NODES")
    node = parse_node(url, 0, faults)
    assert node is not None, faults.messages
    return node


def fault_of(url: object) -> str:
    faults = Faults("NODES")
    assert parse_node(url, 0, faults) is None
    [fault] = faults.messages
    return fault


@pytest.mark.parametrize(
    ("url", "name", "weight", "rest"),
    [
        ("redis://h:1/2?name=a&weight=2.5", "a", 2.5, "redis://h:1/2"),
        ("redis://h", "h:6379", 1.0, "redis://h"),
        ("rediss://[::1]:7/0", "[::1]:7", 1.0, "rediss://[::1]:7/0"),
        ("unix:///run/redis.sock?db=1&name=s", "s", 1.0, "unix:///run/redis.sock?db=1"),
        ("redis+sentinel://h1,h2:1/shop/2?weight=2", "shop", 2.0, "redis+sentinel://h1,h2:1/shop/2"),
        ("REDIS://H:1", "h:1", 1.0, "redis://H:1"),
        ("RedisS://h", "h:6379", 1.0, "rediss://h"),
        ("UNIX:///run/redis.sock", "/run/redis.sock", 1.0, "unix:///run/redis.sock"),
        ("Redis+Sentinel://h/shop", "shop", 1.0, "redis+sentinel://h/shop"),
    ],
)
def test_a_url_has_name_weight_and_address(url: str, name: str, weight: float, rest: str) -> None:
    """Name and weight are for the ring; the rest is for the connection."""
    node = parsed(url)
    assert (node.name, node.weight, node.url) == (name, weight, rest)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://h:99999", "is not a URL"),
        ("memcached://h", "must begin with one of"),
        ("redis:///0", "has no host"),
        ("unix://", "has no path of a socket"),
        ("redis://h/zero", "the database must be a number"),
        ("redis://h?weight=0", "the weight must be a number from 0.1 to 10"),
        ("redis://h?weight=heavy", "the weight must be a number"),
        ("redis://h?weight=1_0", "the weight must be a number"),
        ("redis://h?weight=\u0663", "the weight must be a number"),
        ("redis://h?weight=1e0", "the weight must be a number"),
        ("redis://h?name=a%20b", "the name must be"),
        ("redis://:a b@h", "has a space; percent-encode it"),
        ("redis://h?db=1&db=2", "the parameter 'db' is given twice"),
        ("redis://h?name=a&name=a", "the parameter 'name' is given twice"),
        ("redis://h?d%62=1", "parameter 1 of the query is not known"),
        ("unix:/run/redis.sock", "must begin with one of"),
        ("redis:h", "must begin with one of"),
        (7, "must be a URL such as"),
        ("redis://h?foo=bar", "parameter 1 of the query is not known; known are db, name, weight"),
        ("redis://h?db=1&names=a", "parameter 2 of the query is not known; did you mean 'name'?"),
        ("redis://h?ssl_cert_reqs=none", "parameter 1 of the query is not known"),
        ("rediss://h?ssl_cert_reqs=maybe", "'ssl_cert_reqs' must be one of none, optional, required"),
        ("rediss://h?ssl_check_hostname=maybe", "'ssl_check_hostname' must be one of true, false"),
        ("redis://h/²", "the database must be a number"),
        ("redis://h?db=" + "1" * 5000, "the database must be a number"),
        ("redis://h%00", "the host has a part"),
        ("redis://h\0/1", "has a character that cannot be printed"),
        ("redis://:\ud800@h", "has a character that cannot be printed"),
        ("redis://u%3Ahunter2%40h:1/0", "the host has a percent-encoded '@'"),
        ("redis://hunter2%40h?name=a", "the host has a percent-encoded '@'"),
        ("redis://u%3Ahunter2%40[::1]:1", "the host has a percent-encoded '@'"),
        ("redis+sentinel://u%3Ahunter2%40h:1/shop", "the host has a percent-encoded '@'"),
        ("redis://h/0#a", "has a '#'; percent-encode"),
        ("redis+sentinel://h/shop#a", "has a '#'; percent-encode"),
        ("redis://h?db=abc", "the database must be a number"),
        ("redis://h:0", "the port must be from 1 to 65535"),
        ("unix://foo/bar", "has no path of a socket"),
        ("redis://h1,h2", "has several hosts"),
        ("redis://redis..internal", "the host has a part that is empty or longer than 63 characters"),
        (f"redis://{'h' * 64}", "the host has a part that is empty or longer than 63 characters"),
        ("redis+sentinel://h1,redis..internal/shop", "each sentinel must be host or host:port"),
        ("redis+sentinel://h1,h2", "has no service"),
        ("redis+sentinel://h1,/shop", "each sentinel must be host or host:port"),
        ("redis+sentinel://::1/shop", "write an IPv6 address in brackets"),
        ("redis+sentinel://h1/shop/zero", "the database must be a number"),
        ("redis+sentinel://h1/shop?ssl_keyfile=f", "parameter 1 of the query is not known"),
    ],
)
def test_a_url_that_is_not_valid_is_a_fault(url: object, says: str) -> None:
    """The message says what is wrong with the URL."""
    assert says in fault_of(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:hun%3Ater2@h:99999",
        "redis://u:hunter2@h/zero",
        "x://u:hunter2@h",
        "hunter2://u:p@h",
        "redis://u:1/hunter2@h:1/0",
        "redis://u:1?hunter2@h:1/0",
        "redis://u:1?name=hunter2@h:1/0",
        "redis://u:1?weight=hunter2@h:1/0",
        "redis://u:1?db=hunter2@h:1/0",
        "redis://u:1#hunter2@h:1/0",
        "redis://:hunter2/x@h",
        "redis://h?name=hunter 2",
        "redis://u%3Ahunter2%40h:1/0?name=a",
        "redis+sentinel://h1,u%3Ahunter2%40h:1/shop",
        "redis+sentinel://u:1/hunter2@h/shop",
        "redis+sentinel://u/1/hunter2@h/shop",
        "rediss://h?ssl_cert_reqs=hunter2",
        "unix://u:hunter2/x@/run/valkey.sock",
    ],
)
def test_a_fault_never_shows_a_password(url: str) -> None:
    """The message does not repeat a URL that is not valid."""
    assert "hun" not in fault_of(url)


def test_a_node_never_shows_its_password() -> None:
    """Neither its repr() nor its public URL holds the user or the password."""
    node = parsed("rediss://me:p%40ss@h:1/0?ssl_password=hunter2&name=a")
    assert node.public_url == "rediss://***@h:1/0?ssl_password=%2A%2A%2A"
    assert "p%40ss" not in repr(node)
    assert "hunter2" not in repr(node)


@pytest.mark.parametrize(
    "url",
    ["redis://h", "rediss://u:p@h:1/2?weight=0.5", "unix:///run/s?db=1", "redis+sentinel://:p@h1,h2/shop/2"],
)
def test_the_setting_of_a_node_is_the_same_node_without_its_password(url: str) -> None:
    """It has the same name, weight and endpoint."""
    node = parsed(url)
    copy = parsed(node.setting)
    assert (copy.name, copy.weight, copy.endpoint) == (node.name, node.weight, node.endpoint)
    assert ":p@" not in node.setting


def test_a_comma_between_sentinels_does_not_separate_urls() -> None:
    """In one string, a comma separates URLs only before a scheme. Passwords are masked."""
    text = "redis+sentinel://:hunter2@h1,h2/shop?sentinel_password=hunter2,redis://b"
    nodes = parse_nodes(text, Faults("NODES"))
    assert [node.name for node in nodes] == ["shop", "b:6379"]
    assert nodes[0].public_url == "redis+sentinel://***@h1,h2/shop?sentinel_password=%2A%2A%2A"


@pytest.mark.parametrize(
    "text", ["redis://a,redis://b", "redis://a,REDIS://b", "redis://a; redis://b", "redis://a redis://b"]
)
def test_one_string_may_hold_several_urls(text: str) -> None:
    """As an environment variable does."""
    assert [node.name for node in parse_nodes(text, Faults("NODES"))] == ["a:6379", "b:6379"]


def test_the_endpoint_of_each_node_is_read_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many nodes there are: to compare each with each other takes seconds."""
    read: list[str] = []
    endpoint = NodeAddress.endpoint.fget

    def counted(node: NodeAddress) -> str:
        read.append(node.name)
        return endpoint(node)

    monkeypatch.setattr(NodeAddress, "endpoint", property(counted))
    nodes = parse_nodes([f"redis://h/{number}?name=n{number}" for number in range(200)], Faults(""))
    assert len(read) <= 3 * len(nodes)
