"""Instances in the order of a result, with the rows that their foreign keys refer to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cachebackend.effects import Operation, Send
from cachebackend.managers.rows import RowShape
from cachebackend.queries.relations import Relation
from cachebackend.queries.whole_rows import CONTRADICTED, WholeRows
from tests.zoo.models import Author, Poem, Sample


class Manager:
    """Reads rows that a test gives it, and notes which were read."""

    def __init__(self, model: Any, rows: dict[int, list[Any]], *, has_ring: bool = True) -> None:
        self.shape, self.rows, self.has_ring, self.database = RowShape(model), rows, has_ring, "default"
        self.reads: list[list[int]] = []
        self.cache = SimpleNamespace(client=SimpleNamespace(run=self.run))

    def run(self, operation: Operation[Any]) -> Any:
        """Run an operation; count its scatters."""
        answer: Any = None
        try:
            while True:
                send = operation.send(answer)
                assert isinstance(send, Send)
                answer = [None] * len(send.requests)
        except StopIteration as end:
            return end.value

    def reading(self, keys: Any) -> Any:
        def read() -> Operation[dict[int, list[Any]]]:
            self.reads.append(list(keys))
            yield Send([(0, (b"MGET",))])
            return {key: self.rows[key] for key in keys if key in self.rows}

        return read() if self.has_ring else None

    def instances(self, rows: Any) -> list[Any]:
        return [None if row is None else self.shape.instance(row, "default") for row in rows]


@pytest.fixture
def poems() -> Manager:
    """Three poems: of author 5, of none, and of author 6."""
    return Manager(Poem, {1: [1, "a", 0, 5], 2: [2, "b", 1, None], 3: [3, "c", 1, 6]})


@pytest.fixture
def authors() -> Manager:
    return Manager(Author, {5: [5, "x", 0], 6: [6, "y", 1]})


def whole(poems: Manager, authors: Manager) -> WholeRows:
    return WholeRows(poems, [Relation(Poem._meta.get_field("author"), ("author",), authors, ())])


def plan(**equalities: dict[str, set[str]]) -> Any:
    """Return a plan that binds fields of poems, and of their authors."""
    models = {"poem": ((), Poem), "author": (("author",), Author)}
    found = {
        models[name][0]: {models[name][1]._meta.get_field(each): texts for each, texts in bound.items()}
        for name, bound in equalities.items()
    }
    return SimpleNamespace(equalities=found)


def test_instances_are_in_the_order_of_their_keys(poems: Manager) -> None:
    """A row that is named twice has two instances."""
    found = WholeRows(poems).instances([3, 1, 3], {}, plan())
    assert found is not None
    assert [each.pk for each in found] == [3, 1, 3]
    assert found[0] is not found[2]
    assert poems.reads == [[3, 1]]


def test_related_rows_are_set(poems: Manager, authors: Manager) -> None:
    """Each once, and None where the key is NULL."""
    found = whole(poems, authors).instances([1, 2, 3], {}, plan())
    assert found is not None
    assert [each.author and each.author.name for each in found] == ["x", None, "y"]
    assert authors.reads == [[5, 6]]


def test_no_instance_shares_a_list_with_another_one(poems: Manager, authors: Manager) -> None:
    """A caller may change the value of one row: Django reads the columns of each instance apart."""
    poems.rows[1][2], authors.rows[5][2] = [0], {"x": [1]}
    poems.rows[2][3] = 5
    found = whole(poems, authors).instances([1, 1, 2], {}, plan())
    assert found is not None
    first, again, other = found
    first.rank.append(2)
    first.author.rank["x"].append(2)
    assert (again.rank, again.author.rank, other.author.rank) == ([0], {"x": [1]}, {"x": [1]})


def test_rows_that_were_read_are_not_read_again(poems: Manager, authors: Manager) -> None:
    """The others are read, and added."""
    rows: Any = {poems: dict(poems.rows), authors: {5: authors.rows[5]}}
    assert whole(poems, authors).instances([1, 3], rows, plan()) is not None
    assert (poems.reads, authors.reads) == ([], [[6]])
    assert rows[authors] == authors.rows


@pytest.mark.parametrize(
    ("keys", "equalities"),
    [
        ([1, 9], {}),  # a row is gone
        ([1, 4], {}),  # a related row is gone
        ([1, 3], {"poem": {"rank": {"0"}}}),
        ([1, 3], {"author": {"name": {"x"}}}),
        ([1, 2], {"author": {"name": {"x"}}}),  # a row without an author
    ],
)
def test_rows_that_contradict_the_query(
    poems: Manager, authors: Manager, keys: list[int], equalities: Any
) -> None:
    """Then nothing is returned."""
    poems.rows[4] = [4, "d", 0, 7]
    assert whole(poems, authors).instances(keys, {}, plan(**equalities)) is None


def test_rows_that_fit_the_query(poems: Manager, authors: Manager) -> None:
    """Each row has one of the values."""
    fits = plan(poem={"rank": {"0", "1"}}, author={"name": {"x", "y"}})
    assert whole(poems, authors).instances([1, 3], {}, fits) is not None


@pytest.mark.parametrize(("name", "fits"), [(None, True), ("a.pdf", False)])
def test_a_file_is_compared_as_the_database_has_it(name: str | None, fits: bool) -> None:
    """Its attribute is an object, also if the column is NULL."""
    fields = Sample._meta.concrete_fields
    row = [name if field.attname == "file" else 1 if field.primary_key else None for field in fields]
    no_file = SimpleNamespace(equalities={(): {Sample._meta.get_field("file"): {None}}})
    assert (WholeRows(Manager(Sample, {1: row})).instances([1], {}, no_file) is not None) == fits


def test_what_is_read_is_shown(poems: Manager, authors: Manager) -> None:
    """The names are those that ``select_related`` takes."""
    assert str(WholeRows(poems)) == "rows are read from their own entries"
    assert str(whole(poems, authors)) == "rows and author are read from their own entries"


def test_the_database_of_related_rows_may_change(poems: Manager, authors: Manager) -> None:
    """A router may send the models to two databases."""
    assert whole(poems, authors).is_of("default")
    authors.database = "lite"
    assert not whole(poems, authors).is_of("default")


def test_without_a_ring_there_is_nothing_to_read_beside(poems: Manager, authors: Manager) -> None:
    """All managers must have one."""
    authors.has_ring = False
    assert whole(poems, authors).reading({poems: [1], authors: [5]}) is None


def test_a_result_is_loaded_again_once(poems: Manager) -> None:
    """If its rows contradict it twice, the query must be run."""
    dropped: list[Any] = []
    results = [([9], "one"), ([9], "two"), ([1], "three")]

    def result() -> Any:
        keys, name = results.pop(0)
        return keys, SimpleNamespace(equalities={}, name=name)

    read = WholeRows(poems).read
    assert read(result, lambda plan: dropped.append(plan.name)) is CONTRADICTED
    assert dropped == ["one", "two"]
    [row] = read(result, dropped.append)
    assert row.pk == 1
    assert read(lambda: None, dropped.append) is None
