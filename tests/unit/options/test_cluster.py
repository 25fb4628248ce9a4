"""The URL of a cluster, and the options that have no use with one."""

from __future__ import annotations

import pytest

from cachebackend.errors import ConfigurationError
from cachebackend.options import (
    CLUSTER_PARTS,
    ClusterAddress,
    Faults,
    RingOptions,
    WriteBehindOptions,
    parse_node,
)
from cachebackend.options.cluster import parse_cluster, parse_location
from cachebackend.ring import cluster_slot

PATH = "CACHES['default']"
URL = "redis+cluster://h1:7000,h2"


def parsed(url: str) -> ClusterAddress:
    faults = Faults("NODES")
    address = parse_cluster(url, 0, faults)
    assert address is not None, faults.messages
    return address


def faults_of(url: str) -> list[str]:
    faults = Faults("NODES")
    assert parse_cluster(url, 0, faults) is None
    return [message.removeprefix("NODES[0]: ") for message in faults.messages]


def test_the_url_of_a_cluster_has_hosts_and_a_login() -> None:
    """Hosts of every kind, each once; without a port, it is 6379."""
    address = parsed("redis+cluster://me:p%40ss@h1:7000,[::1]:7,10.0.0.1,h1:7000/0?db=0")
    assert address.hosts == (("h1", 7000), ("::1", 7), ("10.0.0.1", 6379))
    assert (address.username, address.password, address.is_tls) == ("me", "p@ss", False)


@pytest.mark.parametrize(
    ("url", "node_url"),
    [
        ("redis+cluster://h", "redis://x:7000/0"),
        ("Redis+Cluster://me@h/", "redis://me@x:7000/0"),
        ("redis+cluster://:p%40ss%2F@h", "redis://:p%40ss%2F@x:7000/0"),
        (
            "rediss+cluster://me:p@h?ssl_ca_certs=%2Fca.pem&ssl_cert_reqs=none",
            "rediss://me:p@x:7000/0?ssl_ca_certs=%2Fca.pem&ssl_cert_reqs=none",
        ),
    ],
)
def test_each_server_of_the_cluster_has_a_url_with_the_same_login(url: str, node_url: str) -> None:
    """It is the URL of a plain node, with the parameters of TLS."""
    assert parsed(url).node_url("x", 7000) == node_url
    assert parse_node(node_url, 0, faults := Faults("")) is not None, faults.messages


def test_a_server_may_have_an_ipv6_address() -> None:
    """In a URL it is in brackets."""
    assert parsed(URL).node_url("::1", 7000) == "redis://[::1]:7000/0"


def test_the_order_of_the_hosts_does_not_matter() -> None:
    """The endpoint is the same, and it is not that of a node."""
    assert parsed("redis+cluster://b,a:1").endpoint == parsed("redis+cluster://:p@a:1,b").endpoint
    assert parsed("redis+cluster://b,a:1").endpoint == "a:1,b:6379/cluster"


def test_no_text_of_the_address_shows_a_password() -> None:
    """Nor the user."""
    address = parsed("rediss+cluster://me:hunter2@h?ssl_password=hunter2")
    assert address.public_url == "rediss+cluster://***@h:6379?ssl_password=%2A%2A%2A"
    assert "hunter2" not in repr(address)
    assert "me" not in repr(address).replace("username", "")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis+cluster://", "each server must be host or host:port"),
        ("redis+cluster://h1,,h2", "each server must be host or host:port"),
        ("redis+cluster://h1:0", "each server must be host or host:port"),
        ("redis+cluster://::1", "write an IPv6 address in brackets"),
        ("redis+cluster://h/1", "a cluster has database 0 only"),
        ("redis+cluster://h/shop", "a cluster has database 0 only"),
        ("redis+cluster://h?db=1", "a cluster has database 0 only"),
        ("redis+cluster://h?db=1&db=0", "a cluster has database 0 only"),
        ("redis+cluster://h?weight=2", "the parameter 'weight' is for a ring of nodes"),
        ("redis+cluster://h?name=a", "the parameter 'name' is for a ring of nodes"),
        ("redis+cluster://h?ssl_ca_certs=f", "parameter 1 of the query is not known"),
        ("rediss+cluster://h?ssl_cert_reqs=maybe", "'ssl_cert_reqs' must be one of none"),
        ("redis+cluster://:hunter2/x@h", "has an '@' after the host"),
        ("redis+cluster://h#hunter2", "has a '#'"),
        ("redis+cluster://me:hunter2@h1,me:hunter2@h2", "write user and password once, before the first"),
        ("redis+cluster://:hunter2@x@h1", "write user and password once, before the first host"),
    ],
)
def test_a_url_that_is_not_valid_is_a_fault(url: str, says: str) -> None:
    """The message says what is wrong with the URL, and repeats no part of it."""
    [fault] = faults_of(url)
    assert says in fault
    assert "hunter2" not in fault


def test_all_faults_of_a_url_are_reported() -> None:
    """Not only the first one."""
    assert len(faults_of("redis+cluster://h:0/1?name=a&weight=2&x=1")) == 5


def test_a_location_is_a_cluster_or_nodes() -> None:
    """As one string, or as a list of one."""
    for location in (URL, [URL], (URL,), f"{URL}\n"):
        nodes, cluster = parse_location(location, faults := Faults("LOCATION"))
        assert (nodes, cluster) == ((), parsed(URL)), faults.messages
    nodes, cluster = parse_location("redis://a,redis://b", Faults("LOCATION"))
    assert ([node.name for node in nodes], cluster) == (["a:6379", "b:6379"], None)


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ([URL, "redis+cluster://h3"], "['LOCATION'][1]: is a second cluster; a cluster has one URL"),
        (["redis://a", URL], "['LOCATION'][1]: is a cluster, which cannot be one of several nodes"),
        (f"{URL};redis://a", "['LOCATION'][0]: is a cluster, which cannot be one of several nodes"),
        ("redis+cluster://h/3", "['LOCATION'][0]: a cluster has database 0 only"),
    ],
)
def test_a_cluster_is_the_only_url(location: object, says: str) -> None:
    """Several clusters, or a cluster and nodes, are one fault."""
    with pytest.raises(ConfigurationError) as raised:
        RingOptions.read(location, {"address_map": {}}, PATH)
    [fault] = raised.value.faults
    assert says in fault


def test_the_options_of_an_alias_hold_the_cluster() -> None:
    """It has no nodes then; the address map is a function."""
    given = {"address_map": {"10.0.0.1:6379": "127.0.0.1:7000"}, "wait_replicas": 1, "joining": []}
    options = RingOptions.read(URL, given | {"strict_on_failover": "accept"}, PATH)
    assert (options.nodes, options.all_nodes, options.cluster) == ((), (), parsed(URL))
    assert options.address_map is not None
    assert options.address_map("10.0.0.1", 6379) == ("127.0.0.1", 7000)
    assert (options.wait_replicas, options.strict_on_failover) == (1, "accept")
    assert hash(options) == hash(RingOptions.read([URL], given | {"strict_on_failover": "accept"}, PATH))
    assert (RingOptions.read("redis://a", {}, PATH).cluster, options.hash_seed) == (None, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gutter", "redis://a"),
        ("hash_seed", 0),
        ("hash_seed", "secret"),
    ],
)
def test_an_option_of_a_ring_is_a_fault_with_a_cluster(name: str, value: object) -> None:
    """The message says what to do instead."""
    with pytest.raises(ConfigurationError) as raised:
        RingOptions.read(URL, {name: value}, PATH)
    [fault] = raised.value.faults
    assert fault.startswith(f"{PATH}['OPTIONS']['{name}']: ")
    assert "cluster" in fault


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"address_map": {"a": "b:1"}}, "each address must be 'host:port', got 'a'"),
        ({"address_map": {"a:1": ("b", 2)}}, r"each address must be 'host:port', got \('b', 2\)"),
        ({"address_map": {1: 2}}, "each address must be 'host:port', got 1"),
        ({"address_map": "a:1"}, "must be a dict such as"),
        ({"wait_replicas": 6}, "must be a whole number from 0 to 5, got 6"),
        ({"wait_replicas": True}, "must be a whole number from 0 to 5"),
        ({"strict_on_failover": "maybe"}, "must be one of refuse, accept"),
    ],
)
def test_an_option_of_a_cluster_is_checked(options: dict[str, object], says: str) -> None:
    """As every other option is."""
    with pytest.raises(ConfigurationError, match=says):
        RingOptions.read(URL, options, PATH)


def test_the_fault_of_another_scheme_names_those_of_a_cluster() -> None:
    """Also where a cluster is in the wrong place: it says which settings may be one."""
    with pytest.raises(ConfigurationError, match=r"unix://, .*redis\+cluster://, rediss\+cluster://"):
        RingOptions.read("valkey+cluster://h", {}, PATH)
    with pytest.raises(ConfigurationError, match="only LOCATION, 'joining' and 'leaving' of a cache alias"):
        WriteBehindOptions.read({"nodes": URL, "retiring": [URL]})


def test_an_address_map_is_for_a_cluster() -> None:
    """The URLs of nodes are used as they are."""
    given = {"address_map": {"a:1": "b:1"}}
    with pytest.raises(ConfigurationError, match=r"\['address_map'\]: is for a cluster"):
        RingOptions.read("redis://a", given, PATH)
    with pytest.raises(ConfigurationError, match=r"\['address_map'\]: is for a cluster"):
        WriteBehindOptions.read({"nodes": ["redis://a"]} | given)


@pytest.mark.parametrize("name", ["joining", "leaving"])
def test_a_ring_may_change_to_a_cluster_and_back(name: str) -> None:
    """The option names the other one; the secret of the hash is that of the plain ring."""
    to_cluster = RingOptions.read("redis://a", {name: URL, "hash_seed": "s"}, PATH)
    assert getattr(to_cluster, f"{name}_cluster") == parsed(URL)
    assert (to_cluster.cluster, getattr(to_cluster, name)) == (None, ())
    from_cluster = RingOptions.read(URL, {name: ["redis://a"], "hash_seed": "s"}, PATH)
    assert (from_cluster.cluster, [node.name for node in getattr(from_cluster, name)]) == (
        parsed(URL),
        ["a:6379"],
    )
    with pytest.raises(ConfigurationError, match="is the cluster that LOCATION has"):
        RingOptions.read(URL, {name: URL}, PATH)


def test_a_gutter_cannot_be_a_cluster() -> None:
    """Nor can a ring that changes to a cluster have one."""
    with pytest.raises(ConfigurationError, match=r"\['gutter'\]: is a cluster"):
        RingOptions.read("redis://a", {"gutter": URL}, PATH)
    with pytest.raises(ConfigurationError, match=r"\['gutter'\]: is for a ring of nodes"):
        RingOptions.read("redis://a", {"gutter": "redis://g", "joining": URL}, PATH)


def test_the_queues_of_write_behind_may_be_on_a_cluster() -> None:
    """With the same options; the nodes before may be retiring."""
    given = {"nodes": URL, "address_map": {"a:1": "b:1"}, "wait_replicas": 1}
    options = WriteBehindOptions.read(given)
    assert (options.nodes, options.cluster, options.wait_replicas) == ((), parsed(URL), 1)
    assert options.address_map is not None
    assert hash(options) == hash(WriteBehindOptions.read(given))
    retiring = WriteBehindOptions.read(given | {"retiring": ["redis://a"], "password": "p"})
    assert [node.name for node in retiring.all_nodes] == [*CLUSTER_PARTS, "a:6379"]
    assert {node.password for node in retiring.all_nodes} == {"p"}


def test_the_parts_of_a_queue_are_spread_over_the_slots() -> None:
    """One in each sixteenth, so that they are spread over primaries that own ranges of slots."""
    assert [cluster_slot(b"{%b}" % part.encode()) // 1024 for part in CLUSTER_PARTS] == list(range(16))
