from __future__ import annotations

import pytest

from cachebackend.errors import ConfigurationError
from cachebackend.options import RingOptions, WriteBehindOptions

PATH = "CACHES['default']"
URL = "redis://10.0.0.1:6379/0?name=a"


def faults_of(location: object, **options: object) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as raised:
        RingOptions.read(location, options, PATH)
    return raised.value.faults


def test_defaults_stand_where_nothing_is_said() -> None:
    """A block with one URL is whole."""
    options = RingOptions.read(URL, {}, PATH)
    assert (options.connect_timeout, options.socket_timeout, options.lease_timeout) == (0.25, 0.25, 5.0)
    assert options.on_node_failure == "miss"


def test_every_fault_is_told_with_its_path() -> None:
    """Two faults in two places are two lines, each opening with the path of its setting."""
    faults = faults_of([URL, "http://x"], lease_timeout=-1, codec="xml")
    assert faults == (
        (
            "CACHES['default']['LOCATION'][1]: must begin with one of redis://, rediss://, unix://, "
            "redis+sentinel://, got 'http'"
        ),
        "CACHES['default']['OPTIONS']['lease_timeout']: must be > 0 seconds, got -1",
        (
            "CACHES['default']['OPTIONS']['codec']: "
            "must be one of auto, pickle, signed-pickle, json, msgpack, got 'xml'"
        ),
    )


def test_an_unknown_option_is_a_fault_that_names_the_nearest() -> None:
    """A misspelt option is not silently ignored."""
    [fault] = faults_of(URL, lease_timeoot=3)
    assert (
        fault
        == "CACHES['default']['OPTIONS']['lease_timeoot']: unknown option; did you mean 'lease_timeout'?"
    )


def test_two_nodes_of_one_name_are_a_fault() -> None:
    """The name decides what a node owns, so it must be its own."""
    [fault] = faults_of([URL, "redis://10.0.0.2:6379/0?name=a"])
    assert fault == "CACHES['default']['LOCATION'][1]: a second node is named 'a'; give each its own ?name="


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("redis://h", "redis://:secret@H:6379/0"),
        ("redis://h/2", "redis://h?db=2"),
        ("redis://h", "rediss://h"),
        ("unix:///run/s", "unix://:secret@/run/s?db=0"),
        ("redis+sentinel://h1,h2/shop", "redis+sentinel://:secret@h2,h1:26379/shop/0"),
    ],
)
def test_two_nodes_of_one_place_are_a_fault(one: str, same: str) -> None:
    """A set of the one would be the delete of the other; another database is another place."""

    def named(url: str, name: str) -> str:
        return f"{url}{'&' if '?' in url else '?'}name={name}"

    [fault] = faults_of([named(one, "a"), named(same, "b")])
    assert fault.startswith("CACHES['default']['LOCATION'][1]: is where 'a' is: a server's database is one")
    assert "secret" not in fault
    RingOptions.read(["redis://h/0?name=a", "redis://h/1?name=b"], {}, PATH)


@pytest.mark.parametrize("location", [[], "", ()])
def test_no_node_is_a_fault(location: object) -> None:
    """A ring has at least one node."""
    [fault] = faults_of(location)
    assert fault.startswith("CACHES['default']['LOCATION']: names no node")


def test_djangos_own_options_are_taken() -> None:
    """MAX_ENTRIES and CULL_FREQUENCY, which Django gives to any backend, are no faults."""
    RingOptions.read(URL, {"MAX_ENTRIES": 30, "CULL_FREQUENCY": 0}, PATH)


@pytest.mark.parametrize("value", [True, "3", None, float("nan"), float("inf")])
def test_a_timeout_is_a_finite_number(value: object) -> None:
    """What only looks like a number is told apart."""
    [fault] = faults_of(URL, socket_timeout=value)
    assert fault.startswith("CACHES['default']['OPTIONS']['socket_timeout']: must be ")


def test_write_behind_faults_have_their_path() -> None:
    """The project-wide setting is checked the same way."""
    with pytest.raises(ConfigurationError) as raised:
        WriteBehindOptions.read({"nodes": ["redis://"], "partitions": 0, "batchrows": 1})
    assert raised.value.faults == (
        "WRITE_BEHIND['nodes'][0]: names no host",
        "WRITE_BEHIND['partitions']: must be a whole number from 1 to 1024, got 0",
        "WRITE_BEHIND['batchrows']: unknown option; did you mean 'batch_rows'?",
    )


def test_write_behind_must_be_a_dict() -> None:
    """A list where a dict belongs is told, not tripped over."""
    with pytest.raises(ConfigurationError, match="WRITE_BEHIND: must be a dict, got a list"):
        WriteBehindOptions.read([])
