"""The figures of a node."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from cachebackend.cluster import ShardNode
from cachebackend.cluster.topology import Server
from cachebackend.monitoring import NodeFigures
from cachebackend.monitoring.evictions import Evictions
from cachebackend.monitoring.nodes import (
    _of_shard,
    eviction_note,
    refusal_faults,
    states_with_replay,
)

STATES = ("up", "up", "down", "down")


def node(state: str = "up", **info: str) -> NodeFigures:
    return NodeFigures("ring-a", 0.5, state, 90.0, "node 'ring-a' is not reachable", 0.002, info)


def test_figures_are_read_from_info() -> None:
    """Keys of all databases; memory in percent of its limit; the server's own hit ratio."""
    figures = node(
        used_memory="64",
        maxmemory="256",
        db0="keys=3,expires=1",
        db5="keys=4,expires=0",
        keyspace_hits="3",
        keyspace_misses="1",
        evicted_keys="9",
        redis_version="7.2.4",
        valkey_version="8.1.1",
    )
    assert (figures.keys, figures.memory_percent, figures.hit_percent) == (7, 25.0, 75.0)
    assert (figures.evicted, figures.server, figures.ping_ms) == (9, "Valkey 8.1.1", 2.0)


def test_a_node_that_reports_nothing_has_no_ratios() -> None:
    """Unknown is None, not 0 percent."""
    figures = node("down")
    assert (figures.keys, figures.memory_percent, figures.hit_percent, figures.server) == (0, None, None, "")
    assert node(maxmemory="0", used_memory="64").memory_percent is None
    assert node(redis_version="7.2.4").server == "Redis 7.2.4"


@pytest.mark.parametrize("is_loaded", [True, False])
def test_slots_and_replicas_are_those_that_the_cluster_reported(is_loaded: bool) -> None:
    """Before its topology is known, its first server stands for all of it."""
    shard = object.__new__(ShardNode)
    shard.server, shard.replicas = Server("id", "10.0.0.1", 6379), ()
    ring = SimpleNamespace(shares=lambda: [16384])
    client: Any = SimpleNamespace(nodes=[shard], ring=ring, cluster=SimpleNamespace(is_loaded=is_loaded))
    figures = _of_shard(client, node())
    assert figures.slots == (16384 if is_loaded else None)
    assert (figures.address == "10.0.0.1:6379") is is_loaded


@pytest.mark.parametrize("text", ["", "abc", "1e9", "9" * 5000])
def test_figures_that_are_no_numbers_are_unknown(text: str) -> None:
    """One such node must not hide the others from the page, the metrics and the commands."""
    fields = ["maxmemory", "used_memory", "keyspace_hits", "keyspace_misses", "evicted_keys"]
    figures = node(db0=f"keys={text},expires=0", **dict.fromkeys(fields, text))
    assert (figures.keys, figures.evicted) == (None, None)
    assert (figures.memory_percent, figures.hit_percent) == (None, None)
    assert node(keyspace_hits="1", keyspace_misses="-1").hit_percent is None
    assert node(maxmemory="-5", used_memory="1").memory_percent is None


@pytest.mark.parametrize(
    ("info", "refusal"),
    [
        (
            {"role": "master", "maxmemory_policy": "noeviction", "used_memory": "64", "maxmemory": "1024"},
            None,
        ),
        ({"maxmemory_policy": "noeviction", "used_memory": "1024", "maxmemory": "1024"}, "is full, so it"),
        ({"maxmemory_policy": "noeviction", "used_memory": "1000", "maxmemory": "1024"}, "is nearly full"),
        ({"maxmemory_policy": "allkeys-lfu", "used_memory": "1024", "maxmemory": "1024"}, None),
        (
            {"role": "slave", "master_host": "h", "master_port": "6380"},
            "is a replica of h:6380, so it refuses writes",
        ),
        ({"role": "slave", "cluster_enabled": "1"}, None),
        ({"aof_enabled": "1", "aof_last_write_status": "err"}, "refuses writes: it cannot write its append-"),
        ({}, None),
    ],
)
def test_a_node_that_answers_and_refuses_writes_is_a_fault(info: dict[str, str], refusal: str | None) -> None:
    """One that is down has another fault; in a cluster a shard may change its server at any time."""
    figures = node(**info)
    messages = [
        fault.message for fault in refusal_faults("default", [figures, replace(figures, state="down")])
    ]
    assert len(messages) == (refusal is not None)
    assert all(each.startswith(f"Node ring-a of 'default' {refusal}") for each in messages)


def test_a_node_is_replaying_if_it_answers_and_a_process_replays_deletes_to_it() -> None:
    """A node that does not answer keeps its state."""
    nodes = [replace(node(state), name=name) for name, state in zip("abcd", STATES, strict=True)]
    assert states_with_replay(nodes, {"b", "c"}) == ["up", "replaying", "down", "down"]


def test_the_memory_of_a_node_is_shown_with_its_limit() -> None:
    """A node that is full looks like one that is nearly empty otherwise."""
    assert (
        node(used_memory="4096", maxmemory="8192").memory_text
        == "4.0\N{NO-BREAK SPACE}KB of 8.0\N{NO-BREAK SPACE}KB"
    )
    assert node(used_memory="4096", maxmemory="0").memory_text == "4.0\N{NO-BREAK SPACE}KB, no limit"
    assert node().memory_text == ""


def test_a_node_that_evicts_many_keys_is_noted_with_rate_usual_rate_and_limit() -> None:
    """It is a note: the site is well, and a full cache evicts."""
    full = replace(node("up", used_memory="4096", maxmemory="4096"), evictions=Evictions(240.4, 0.5))
    note = eviction_note("default", full)
    assert (full.evicts_unusually, note.is_note, note.topic) == (True, True, "nodes")
    assert note.message.startswith(
        "Node ring-a of 'default' evicts 240 keys a second, usually 0.5; its memory is 4"
    )
    assert not replace(full, evictions=Evictions(240.4, 30.0)).evicts_unusually
    assert not node().evicts_unusually
