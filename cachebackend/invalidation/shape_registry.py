"""The registry of shapes as changes of rows find it: which tags and shards a change makes wrong.

A reader registers the shapes of a result on the nodes before it loads the result (``protocol.cache.shapes``).
After the commit of a change, its writer reads which shapes are registered. If it cannot read a shape, it
deletes the whole shard.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from cachebackend import protocol
from cachebackend.backend import RingCache
from cachebackend.backend.keys import content_of_change_key
from cachebackend.backend.query_names import shape_tag_name, shard_names
from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.query_changes import ResultChange
from cachebackend.properties import cached_property
from cachebackend.query_counts import shape_form
from cachebackend.shapes import Shape

__all__ = ["Registry", "wrong_keys_at"]

#: The most shapes that a process remembers.
_MAX_KNOWN = 10_000
_known: dict[bytes, Shape] = {}


class Registry:
    """The registry of shapes as some changes find it, after they are committed.

    Args:
        cache: The cache that holds the results.
        keys: The keys of the changes.
    """

    def __init__(self, cache: RingCache, keys: Iterable[bytes]) -> None:
        self._cache = cache
        self._changes = {key: ResultChange.read(content_of_change_key(key) or b"") for key in keys}
        places = {(scope, each.table) for each in self._changes.values() for scope in each.scopes}
        self._shards = {place: cache.many_tag_bytes(shard_names(*place)) for place in places}
        self._found = protocol.RegisteredShapes({}, [])

    def read(self) -> protocol.Operation[list[bytes]]:
        """Read which shapes are registered. It only sends commands, and returns an empty list."""
        shards = [shard for group in self._shards.values() for shard in group]
        self._found = yield from protocol.read_shards(self._cache.client.context, shards)
        return []

    @property
    def is_confirmed(self) -> bool:
        """Whether what was read is right; else the changes must stay pending."""
        return self._found.is_confirmed

    @cached_property
    def _shapes(self) -> dict[bytes, Shape | None]:
        """The shapes by id; None for one that cannot be read."""
        shapes = self._found.shapes
        return _shapes(self._cache, {(shard, each) for shard, ids in shapes.items() for each in ids})

    def unknown_shards(self) -> set[bytes]:
        """Return the shards whose shapes are not all known."""
        of_unknown = {
            shard
            for shard, ids in self._found.shapes.items()
            if any(self._shapes.get(each) is None for each in ids)
        }
        return of_unknown.union(self._found.unreadable)

    def wrong_keys(self) -> Iterator[tuple[bytes, set[bytes]]]:
        """Yield each change with the keys of the tags and shards that it makes wrong."""
        unreadable = set(self._found.unreadable)
        for key, change in self._changes.items():
            wrong: set[bytes] = set()
            for scope in change.scopes:
                shards = self._shards[scope, change.table]
                wrong |= unreadable.intersection(shards)
                registered = {shard: self._found.shapes.get(shard, set()) for shard in shards}
                wrong |= _wrong_in(self._cache, change, scope, registered, self._shapes)
            yield key, wrong


def wrong_keys_at(cache: RingCache, keys: Iterable[bytes], nodes: Sequence[int]) -> set[bytes] | None:
    """Return the keys that changes make wrong and some nodes may hold.

    Args:
        cache: The cache that holds the results.
        keys: The keys of changes. Those changes must be committed.
        nodes: The indices of the nodes. They serve no reads, so their own shards count as unreadable.

    Returns:
        None: they are not known, because another node does not return its shards.
    """
    registry, context = Registry(cache, keys), cache.client.context
    cache.client.run(registry.read())
    if any(context.holders(shard).isdisjoint(nodes) for shard in registry.unknown_shards()):
        return None
    wrong = {key for _, group in registry.wrong_keys() for key in group}
    return {key for key in wrong if any(context.may_hold(node, key) for node in nodes)}


def _wrong_in(
    cache: RingCache,
    change: ResultChange,
    scope: str,
    registered: Mapping[bytes, Collection[bytes]],
    shapes: Mapping[bytes, Shape | None],
) -> set[bytes]:
    """Return the keys that a change makes wrong in one scope."""
    wrong: set[bytes] = set()
    tags_of: dict[bytes, set[str] | None] = {}
    for shard, ids in registered.items():
        for each in ids:
            if each not in tags_of:
                shape = shapes.get(each)
                tags_of[each] = None if shape is None else change.wrong_tags(shape)
            if tags_of[each] is None:
                wrong.add(shard)
    _count(cache, change.table, tags_of, shapes)
    tags = {tag for each in tags_of.values() if each is not None for tag in each}
    wrong.update(cache.many_tag_bytes([shape_tag_name(scope, change.table, tag) for tag in tags]))
    return wrong


def _count(
    cache: RingCache,
    table: str,
    tags_of: Mapping[bytes, Collection[str] | None],
    shapes: Mapping[bytes, Shape | None],
) -> None:
    """Count what a change makes wrong of each shape."""
    for each, tags in tags_of.items():
        shape = shapes.get(each)
        if shape is not None and (count := 1 if tags is None else len(tags)):
            cache.client.query_counts.cell[shape_form(table, shape)].invalidations += count


def _shapes(cache: RingCache, registered: Collection[tuple[bytes, bytes]]) -> dict[bytes, Shape | None]:
    """Return registered shapes by id; None for one that cannot be read."""
    unknown = {shape: (shard, shape) for shard, shape in registered if shape not in _known}
    if unknown:
        described = cache.client.run(protocol.describe_shapes(cache.client.context, list(unknown.values())))
        for (_, name), description in described.items():
            shape = _read_shape(description)
            if shape is not None and shape.id == name:
                if len(_known) >= _MAX_KNOWN:
                    _known.clear()
                _known[name] = shape
    return {shape: _known.get(shape) for _, shape in registered}


def _read_shape(description: bytes | None) -> Shape | None:
    try:
        return None if description is None else Shape.read(description)
    except ValueError as error:
        raise_interrupt(error)
        return None
