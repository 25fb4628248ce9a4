"""The options of write-behind."""

from __future__ import annotations

import pytest

from cachebackend.errors import ConfigurationError
from cachebackend.options import WriteBehindOptions


def test_write_behind_faults_have_their_path() -> None:
    """WRITE_BEHIND is checked in the same way."""
    with pytest.raises(ConfigurationError) as raised:
        WriteBehindOptions.read({"nodes": ["redis://"], "partitions": 0, "batchrows": 1})
    assert raised.value.faults == (
        "WRITE_BEHIND['nodes'][0]: has no host; write redis://host:6379/0",
        "WRITE_BEHIND['partitions']: must be a whole number from 1 to 1024, got 0",
        "WRITE_BEHIND['batchrows']: unknown option; did you mean 'batch_rows'?",
    )


def test_write_behind_must_be_a_dict() -> None:
    """A list is reported as a fault; it does not raise an AttributeError."""
    with pytest.raises(ConfigurationError, match="WRITE_BEHIND: must be a dict, got a list"):
        WriteBehindOptions.read([])


def test_retiring_nodes_come_after_the_nodes_and_once() -> None:
    """A node that is retired and used again is named once."""
    options = WriteBehindOptions.read(
        {"nodes": ["redis://h:1?name=a"], "retiring": ["redis://h:2?name=b", "redis://h:1?name=a"]}
    )
    assert [node.name for node in options.all_nodes] == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "is_on"),
    [({}, False), ({"nodes": ["redis://h"]}, True), ({"nodes": "redis+cluster://h:1"}, True)],
)
def test_write_behind_is_on_with_nodes_or_a_cluster(given: dict[str, object], is_on: bool) -> None:
    """Without them it is off."""
    assert WriteBehindOptions.read(given).is_on is is_on


@pytest.mark.parametrize(
    ("given", "is_safe"),
    [
        ({}, True),
        ({"durability": "fsync"}, True),
        ({"durability": "memory"}, False),
        ({"durability": "memory", "wait_replicas": 1}, True),
    ],
)
def test_a_seal_is_safe_on_a_disk_or_on_replicas(given: dict[str, object], is_safe: bool) -> None:
    """A queue in memory without replicas has neither."""
    assert WriteBehindOptions.read({"nodes": ["redis://h"]} | given).has_safe_seals is is_safe


def test_nodes_cannot_be_retired_without_any_to_replace_them() -> None:
    """Their writes would have no queue."""
    with pytest.raises(ConfigurationError, match=r"WRITE_BEHIND\['retiring'\]"):
        WriteBehindOptions.read({"retiring": ["redis://h:1?name=a"]})


@pytest.mark.parametrize("key", ["nodes", "retiring"])
def test_a_queue_node_behind_sentinel_is_refused(key: str) -> None:
    """A promoted replica may lack writes that the old primary has acknowledged."""
    given = {"nodes": ["redis://h:1?name=a"]} | {key: ["redis+sentinel://h1,h2/queue"]}
    with pytest.raises(ConfigurationError, match=rf"WRITE_BEHIND\['{key}'\]\[0\]: is behind Sentinel"):
        WriteBehindOptions.read(given)


def test_the_password_is_that_of_each_node_and_in_no_repr() -> None:
    """A URL's own password stays in the URL, which is used first."""
    given = {"nodes": ["redis://h", "redis://:own@i"], "retiring": ["redis://j"], "password": "hunter2"}
    options = WriteBehindOptions.read(given)
    assert [node.password for node in options.all_nodes] == ["hunter2"] * 3
    assert "hunter2" not in f"{options!r} {options.all_nodes!r}"
