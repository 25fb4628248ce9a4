"""Results and the registry of shapes, as the inspector and the commands of a ring see them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from cachebackend import RingCache, protocol
from cachebackend.backend.query_names import shard_names
from cachebackend.backend.scope import scope_of
from cachebackend.effects import Send
from cachebackend.monitoring import alias_figures, key_figures
from cachebackend.monitoring.registry import registry_faults
from tests.zoo.models import Author, Poem

pytestmark = [pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def cache(ring_cache: RingCache) -> RingCache:
    """The cache on empty nodes."""
    return ring_cache


def read() -> list[Any]:
    """Read poems of an author through the ring."""
    return list(Poem.cached.filter(author=1).order_by("rank"))


def node_key_of_result() -> str:
    """Return the key that ``explain_cache`` prints."""
    first = Poem.cached.filter(author=1).order_by("rank").explain_cache().splitlines()[0]
    return first.removeprefix("cached as ")


def shards(cache: RingCache) -> list[tuple[str, bytes]]:
    """Return the names and keys of the shards of poems that exist."""
    names = shard_names(scope_of("default"), Poem._meta.db_table)
    keys = cache.many_tag_bytes(names)
    found = cache.client.run(protocol.read_shards(cache.client.context, keys)).shapes
    return [(name, key) for name, key in zip(names, keys, strict=True) if key in found]


def send(cache: RingCache, node: int, *command: bytes) -> Any:
    """Send a command to a node."""

    def operation() -> protocol.Operation[Any]:
        [reply] = yield Send([(node, command)])
        return reply

    return cache.client.run(operation())


def wrong_types(cache: RingCache) -> list[str]:
    """Return what the nodes have counted of commands for a key of another type."""
    infos = [send(cache, node, b"INFO", b"errorstats") for node in range(len(cache.client.ring))]
    return [line for info in infos for line in info.decode().splitlines() if "WRONGTYPE" in line]


def test_a_result_is_shown_with_its_tags_and_shapes(cache: RingCache) -> None:
    """By the key on the nodes, which ``explain_cache`` prints, and by that of the cache."""
    read()
    node_key = node_key_of_result()
    figures = key_figures("default", node_key, None, shows_value=True)
    by_key = key_figures("default", figures.key, None, shows_value=True)
    assert (by_key.node_key, by_key.depends_on) == (figures.node_key, figures.depends_on)
    assert cache.key_bytes(figures.key).decode() == node_key == figures.node_key
    assert figures.value == "[]"
    tag, shape = figures.depends_on
    assert tag.name.startswith(f"{cache.key_prefix}:1:queries:")
    assert (tag.shard, tag.is_valid, shape.is_valid) == ("", True, True)
    assert shape.name == "zoo_poem by author_id (id, rank)"
    Author.objects.create(pk=1, name="a")
    Poem.objects.create(name="p", author_id=1)
    tag, shape = key_figures("default", node_key, None, shows_value=False).depends_on
    assert (tag.present, tag.is_valid, shape.is_valid) == (None, False, True)


def test_a_shard_is_shown_with_its_shapes(cache: RingCache, admin_client: Client) -> None:
    """By its name, on the page and by the command."""
    read()
    [(name, _)] = shards(cache)
    figures = key_figures("default", name, None, shows_value=True)
    assert figures.record is not None
    assert (figures.key, figures.record.kind) == ("", "shapes")
    assert [each.name for each in figures.shapes] == ["zoo_poem by author_id (id, rank)"]
    url = reverse("admin:cachebackend_ring_changelist")
    page = admin_client.get(url, {"alias": "default", "key": name}).content.decode()
    assert "zoo_poem by author_id (id, rank)" in page
    assert "Delete the key" not in page
    page = admin_client.get(url, {"alias": "default", "key": node_key_of_result()}).content.decode()
    assert "valid" in page
    assert "Delete the key" in page


def test_the_command_shows_the_owner_of_a_shard(cache: RingCache, capsys: pytest.CaptureFixture[str]) -> None:
    """And the shapes in it."""
    read()
    [(name, key)] = shards(cache)
    call_command("ring", "owner", name, "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["holds"], found["owner"]) == (
        "shapes",
        cache.client.ring.names[cache.client.ring.owner(key)],
    )
    assert [each["name"] for each in found["shapes"]] == ["zoo_poem by author_id (id, rank)"]


def test_a_tag_is_shown_by_its_name(cache: RingCache) -> None:
    """A text, or the row of a model; a value with this key comes first."""
    poem = Poem.objects.create(name="p")
    cache.get_or_set("k", 1, tags=["a", poem])
    for name in ("a", f"zoo.Poem:{poem.pk}"):
        figures = key_figures("default", name, None, shows_value=True)
        assert figures.record is not None
        assert (figures.key, figures.record.kind, len(figures.tokens)) == ("", "tag", 1)
    cache.set("a", 1)
    assert key_figures("default", "a", None, shows_value=True).key == "a"
    nothing = key_figures("default", "none", None, shows_value=True)
    assert nothing.record is not None
    assert (nothing.key, nothing.record.kind) == ("none", "nothing")


def test_nothing_reads_a_shard_as_a_record(cache: RingCache, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a search for keys, nor the inspector, nor a cleanup, nor a delete of all keys."""
    before = wrong_types(cache)
    read()
    assert shards(cache)
    assert all(":shapes:" not in key for key in cache.keys("*"))
    assert cache.delete_pattern("nothing*") == 0
    key_figures("default", shards(cache)[0][0], None, shows_value=True)
    call_command("ring", "cleanup", "--yes")
    assert shards(cache)
    cache.clear()
    assert not shards(cache)
    assert wrong_types(cache) == before
    assert read() == []


@pytest.mark.ring_of_nodes
def test_cleanup_deletes_shards_from_nodes_that_do_not_own_them(cache: RingCache) -> None:
    """The shard at its owner stays."""
    read()
    [(_, key)] = shards(cache)
    owner, nodes = cache.client.ring.owner(key), len(cache.client.ring)
    other = (owner + 1) % nodes
    send(cache, other, b"HSET", key, b"id", b"entry")
    call_command("ring", "cleanup", "--yes")
    assert send(cache, other, b"EXISTS", key) == 0
    assert send(cache, owner, b"EXISTS", key) == 1


def test_a_table_with_too_many_shapes_is_a_fault(
    cache: RingCache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page and ``ring doctor`` name the table, and say what to do; a node that is away names none."""
    monkeypatch.setattr(protocol, "MAX_SHAPES", 2)
    read()
    assert registry_faults("default") == []
    [(_, shard)] = shards(cache)
    node = cache.client.context.serving_node(shard)
    send(cache, node, b"HSET", shard, b"another", b"shape")
    [fault] = registry_faults("default")
    assert repr(Poem._meta.db_table) in fault.message
    assert fault in alias_figures("default").faults
    with pytest.raises(SystemExit):
        call_command("ring", "doctor")
    assert f"{fault.message} {fault.way_out}" in capsys.readouterr().out
    send(cache, node, b"DEL", shard)
    send(cache, node, b"SET", shard, b"of another type")
    assert registry_faults("default") == []
