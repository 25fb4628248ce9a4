"""Lists whose rows come from their own entries, read by the code of cached querysets.

The list of the even category has the row in its even versions, and is empty in the others. A reader reads
the list, and then the row by its key. So the row may have moved to the other list in between: what is
returned may be as new as anybody wants, but it must be the row of an even version, and none that is older
than an acknowledged write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from django.db import models

from cachebackend import protocol
from cachebackend.effects import Load, Operation
from cachebackend.node import Node
from cachebackend.queries.forms import ROWS
from cachebackend.queries.whole_rows import CONTRADICTED, Before, WholeRows
from tests.interleavings import direct
from tests.interleavings.list_actors import ListReader
from tests.interleavings.lists import ListScenario, ListWorld
from tests.interleavings.processes import CODEC, Process
from tests.interleavings.relaying import caches
from tests.interleavings.scenario import MINUTE
from tests.interleavings.world import KEY, World

__all__ = [
    "RowListReader",
    "RowListReaderBeside",
    "RowListReaderOfTwo",
    "RowListScenario",
]

PK = 1
CATEGORY: Any = models.IntegerField()
CATEGORY.set_attributes_from_name("category")
#: The list asks for category 0.
PLAN: Any = SimpleNamespace(equalities={(): {CATEGORY: frozenset({"0"})}})


@dataclass(frozen=True)
class RowListScenario(ListScenario):
    """A scenario of lists whose row has an entry of its own; ``evict_row`` is a further accident."""

    def world(self, nodes: tuple[Node, Node]) -> World:
        return RowListWorld(nodes, self)


class RowListWorld(ListWorld):
    """The lists, and the row under its own key."""

    def __init__(self, nodes: tuple[Node, Node], scenario: RowListScenario) -> None:
        super().__init__(nodes, scenario)
        self.keys["rows"] = [KEY]
        if scenario.is_cached:
            self._call_owner(b"SET", KEY, CODEC.encode(0, KEY), b"PX", b"60000")

    def value_of(self, version: int) -> Any:
        return [[PK]] if version % 2 == 0 else []

    def is_current(self, value: Any) -> bool:
        return bool(value == self.value_of(self.committed))

    def keys_of(self, version: int) -> set[bytes]:
        return {*super().keys_of(version), KEY}

    def check_end(self) -> None:
        super().check_end()
        process = self.process("end", "old")
        version = process.run(protocol.get(process.context, KEY))
        if version is not None and version < self.committed:
            self.wrong.append(f"the row has version {version} although {self.committed} is committed")


class RowManager:
    """Reads the row by its key, as a ``CachedManager``; its columns are its version."""

    def __init__(self, process: Process, world: World) -> None:
        self.cache = caches[process.clock.name]
        self._process, self._world = process, world

    def reading(self, keys: Iterable[int]) -> Operation[dict[int, int]]:
        """Return the operation that reads the row."""

        def load(names: list[int]) -> dict[int, int]:
            return dict.fromkeys(names, self._world.committed)

        return protocol.get_or_load_many(self._process.context, dict.fromkeys(keys, KEY), load, MINUTE)

    def instances(self, rows: Sequence[int | None]) -> list[Any]:
        """Return what has the columns of rows as attributes."""
        return [
            None if version is None else SimpleNamespace(version=version, category=version % 2)
            for version in rows
        ]


class RowListReader(ListReader):
    """Reads the list and its row by ``WholeRows``."""

    def __init__(self, name: str, world: World, process: Process) -> None:
        super().__init__(name, world, process)
        self.whole = WholeRows(RowManager(process, world))

    def start(self) -> Operation[Any]:
        return direct.as_operation(self.read)

    def read(self) -> Any:
        """Return the versions in the list."""
        found = self.whole.read(self._result, self._drop)
        if found is CONTRADICTED:
            return self._run(self._run_query())
        return [row.version for row in found]

    def perform(self) -> Any:
        return self.effect.loader() if isinstance(self.effect, Load) else super().perform()

    def finish(self, value: list[int]) -> None:
        self.history.append(("returned", tuple(value)))
        self.remaining_reads -= 1
        self.operation = None
        oldest = self.oldest_allowed
        assert oldest is not None
        versions = range(oldest, self.world.committed + 1)
        if any(version % 2 for version in value):
            self.world.wrong.append(f"read the row in version {value}, which contradicts the query")
        elif not set(value or versions) & set(versions) & {n for n in versions if n % 2 != bool(value)}:
            self.world.wrong.append(f"read {value} though {oldest} was acknowledged before it began")

    def _result(self) -> Any:
        world, fill_options = self._list()
        read = protocol.get_or_load(
            self.context(), self.query.name, lambda: world.value_of(world.committed), fill_options
        )
        return ROWS(self._run(read)), PLAN

    def _drop(self, _: Any) -> None:
        self._run(protocol.delete(self.context(), self.query.name))

    def _run_query(self) -> Operation[list[int]]:
        versions = yield Load(lambda: [each for each in [self.world.committed] if each % 2 == 0])
        return list(versions)

    def _list(self) -> tuple[ListWorld, protocol.FillOptions]:
        assert isinstance(self.world, ListWorld)
        return self.world, self.query.fill_options(self.world.table)

    def _run(self, operation: Operation[Any]) -> Any:
        return self.whole.manager.cache.client.run(operation)


class RowListReaderOfTwo(RowListReader):
    """Reads the list twice."""

    reads = 2


class RowListReaderBeside(RowListReader):
    """Reads the list and, in the same scatter, the row that it had before."""

    def read(self) -> Any:
        _, fill_options = self._list()
        before = Before([PK], {self.whole.manager: [PK]})
        wanted = (self.context(), self.query.name, fill_options, protocol.MISSING)
        found = self.whole.read_beside(wanted, before, PLAN)
        if found is None or found[0] is None:
            return super().read()
        return [row.version for row in found[0]]
