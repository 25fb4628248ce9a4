"""Mutants of the registry of shapes and of lists of rows; the explorer must find a wrong list for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cachebackend import protocol
from cachebackend.effects import Load, Operation
from cachebackend.invalidation import query_changes, shape_registry
from cachebackend.node import Node
from cachebackend.protocol import FillOptions
from cachebackend.protocol.cache import fill, shapes
from cachebackend.protocol.cache import load as load_module
from cachebackend.protocol.cache.tags import take_missing_tokens
from cachebackend.protocol.cache.tokens import Tokens
from cachebackend.queries import whole_rows
from tests.interleavings import direct
from tests.interleavings.list_actors import ListReader, ListReaderOfTwo, ListWriter, OtherListReader
from tests.interleavings.list_rows import RowListReader, RowListScenario
from tests.interleavings.lists import ListScenario, ListWorld
from tests.interleavings.relaying import caches
from tests.interleavings.search import explore

Patch = pytest.MonkeyPatch


class EagerListWriter(ListWriter):
    """Finds the tags of its change before it commits."""

    order = ("find", "commit", "delete", "acknowledge")

    def begin(self, name: str) -> Operation[Any]:
        alias = self.process.clock.name
        if name == "find":
            assert isinstance(self.world, ListWorld)
            change = self.world.change(self.world.committed + 1)
            self.found: set[bytes] = set()

            def find() -> None:
                registry = shape_registry.Registry(caches[alias], [change])
                caches[alias].client.run(registry.read())
                [(_, self.found)] = registry.wrong_keys()

            return direct.as_operation(find)
        return protocol.delete_many(self.process.context, list(self.found), in_outbox=True)


def registry_read_before_the_commit(_: Patch) -> None:
    """The scenario has a writer that does so."""


def shape_registered_after_the_load(patch: Patch) -> None:
    """The tags' tokens are taken before the load, and the shape is registered with the fill."""
    load_and_fill = load_module.load_and_fill

    def tags_alone(context: Any, tokens: Tokens, entries: Any = ()) -> Any:
        names = {entry.name for entry in entries}
        tags = Tokens([name for name in tokens.required if name not in names])
        tags.add(tokens._tokens)
        yield from take_missing_tokens(context, tags)
        tokens.add(tags._tokens)

    def late(context: Any, call: Any, fill_options: FillOptions, tokens: Tokens) -> Any:
        inner = load_and_fill(context, call, fill_options, tokens)
        effect = next(inner)
        try:
            while True:
                outcome = yield effect
                if isinstance(effect, Load):
                    yield from take_missing_tokens(context, tokens, fill_options.shapes)
                effect = inner.send(outcome)
        except StopIteration as end:
            return end.value

    patch.setattr(fill, "take_missing_tokens", tags_alone)
    patch.setattr(load_module, "load_and_fill", late)


def one_token_for_the_whole_registry(patch: Patch) -> None:
    """A shape that is registered again has the token that it had."""
    request = shapes.RegisterShape.request
    patch.setattr(
        shapes.RegisterShape,
        "request",
        lambda self, context: request(self._replace(token=bytes(16)), context),
    )


def results_without_the_tokens_of_their_shapes(patch: Patch) -> None:
    """A result is valid if its tags are."""
    patch.setattr(FillOptions, "token_names", property(lambda self: self.tags))


def unreadable_shards_not_deleted(patch: Patch) -> None:
    """The writer takes a shard that it cannot read for one without shapes."""
    read_shards = protocol.read_shards

    def read(context: Any, keys: Any) -> Any:
        found = yield from read_shards(context, keys)
        return found._replace(unreadable=[])

    patch.setattr(protocol, "read_shards", read)


def old_values_left_out(patch: Patch) -> None:
    """A change has the new values alone."""
    patch.setattr(
        query_changes,
        "_packed",
        lambda row: [list(row.columns), None, None if row.new is None else dict(row.new)],
    )


def rows_not_compared_with_the_query(patch: Patch) -> None:
    """A row that has moved to another list in between is returned."""
    patch.setattr(whole_rows, "_fit", lambda *_: True)


LOADS = ListScenario((ListReader, ListWriter), is_cached=False)
EVICTED = (("evict_shard", 1),)
MUTANTS: dict[Callable[[Patch], None], ListScenario] = {
    registry_read_before_the_commit: ListScenario((ListReader, EagerListWriter), is_cached=False),
    shape_registered_after_the_load: LOADS,
    one_token_for_the_whole_registry: ListScenario(
        (ListReader, OtherListReader, ListWriter), (), (("lose_shape", 1),)
    ),
    results_without_the_tokens_of_their_shapes: ListScenario((ListReader, ListWriter), (), EVICTED),
    unreadable_shards_not_deleted: ListScenario((ListReaderOfTwo, ListWriter), (), (("fail0", 1),)),
    old_values_left_out: ListScenario((ListReader, ListWriter)),
    rows_not_compared_with_the_query: RowListScenario((RowListReader, ListWriter)),
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_explorer_finds_a_stale_list(
    node: Node, spare: Node, mutant: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    """With the mutant a schedule is wrong; ``test_list_schedules`` proves that without it none is."""
    mutant(monkeypatch)
    wrong = explore((node, spare), MUTANTS[mutant], stop_at_first=True).wrong
    assert wrong
