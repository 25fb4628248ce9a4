"""Write-behind compared with a plain dict that gets the same writes, one by one."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db.models import F
from django.db.models.functions import Greatest, Least
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cachebackend import protocol, writebehind
from cachebackend.writebehind.queue import project_queue
from tests.shop.models import Meter, Tag

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
START = datetime(2026, 1, 1, tzinfo=UTC)
NUMBERS = st.integers(-50, 50)
Row = dict[str, Any]

#: A change: which field, which kind, and a small number that the value is made from.
changes = st.lists(
    st.tuples(
        st.sampled_from(["count", "level", "seen", "total", "label", "tag_id"]),
        st.sampled_from(["put", "null", "add", "most", "least"]),
        NUMBERS,
    ),
    min_size=1,
    max_size=3,
)
steps = st.one_of(
    st.tuples(st.just("update"), st.integers(0, 2), changes),
    st.tuples(st.just("update_many"), st.none(), st.dictionaries(st.integers(0, 2), changes, min_size=1)),
    st.tuples(st.just("create"), st.integers(0, 2), NUMBERS),
    st.tuples(st.just("delete"), st.integers(0, 2), st.none()),
    st.tuples(st.sampled_from(["seal", "drain", "drain and die"]), st.none(), st.none()),
)
#: A row that only its level was given of.
MADE: Row = {"count": 0, "level": None, "seen": None, "total": Decimal(0), "label": "", "tag_id": None}
#: Which fields may be null, and which are only ever put.
NULLABLE, PUT_ONLY = {"level", "seen", "tag_id"}, {"label", "tag_id"}


def value_of(field: str, number: int) -> Any:
    match field:
        case "seen":
            return START + timedelta(seconds=number)
        case "total":
            return Decimal(number) / 4
        case "label":
            return str(number)
        case "tag_id":
            return number % 3 + 1
    return number


def change_of(field: str, kind: str, number: int) -> tuple[Any, Any]:
    """The change as ``behind`` takes it, and as a function of the value before."""
    value = value_of(field, number)
    if kind == "null" and field in NULLABLE:
        return None, lambda _: None
    if kind in {"put", "null"} or field in PUT_ONLY:
        return value, lambda _: value
    if kind == "add":
        addend = timedelta(seconds=number) if field == "seen" else value
        return F(field) + addend, lambda old: None if old is None else old + addend
    if kind == "most":
        return Greatest(F(field), value), lambda old: value if old is None else max(old, value)
    return Least(value, F(field)), lambda old: value if old is None else min(old, value)


Asked = list[tuple[str, str, int]]


class Fleet:
    """Three rows written behind, and the dict that they must equal."""

    def __init__(self) -> None:
        self.keys = [uuid.uuid4() for _ in range(3)]
        self.rows: dict[int, Row] = {}
        Tag.objects.bulk_create([Tag(pk=pk, name=str(pk)) for pk in (1, 2, 3)], ignore_conflicts=True)

    def update(self, number: int, asked: Asked) -> None:
        Meter.behind.update(self.keys[number], **self.changes(number, asked))

    def update_many(self, _: None, asked: dict[int, Asked]) -> None:
        Meter.behind.update_many(
            (self.keys[number], self.changes(number, each)) for number, each in asked.items()
        )

    def changes(self, number: int, asked: Asked) -> dict[str, Any]:
        """Change the dict; return the arguments for ``behind``."""
        given = {field: change_of(field, kind, value) for field, kind, value in asked}
        if row := self.rows.get(number):
            row.update({field: after(row[field]) for field, (_, after) in given.items()})
        return {field: change for field, (change, _) in given.items()}

    def create(self, number: int, level: int) -> None:
        if number not in self.rows:
            Meter.behind.create(pk=self.keys[number], level=level)
            self.rows[number] = MADE | {"level": level}

    def delete(self, number: int, _: None) -> None:
        Meter.behind.delete(self.keys[number])
        self.rows.pop(number, None)

    def step(self, name: str) -> None:
        client = project_queue()
        for partition, _ in writebehind.dirty_partitions():
            if name == "drain":
                writebehind.drain(partition, max_batches=1)
            elif name == "seal":
                [state] = client.run(protocol.queue.queue_states(client.context, [partition]))[
                    partition
                ].values()
                assert isinstance(state, protocol.queue.QueueState)
                client.run(protocol.queue.seal(client.context, state, partition, state.open_batch))
            else:
                close = protocol.queue.close
                protocol.queue.close = die  # type: ignore[assignment]
                try:
                    writebehind.drain(partition)
                except KeyboardInterrupt:
                    pass
                finally:
                    protocol.queue.close = close

    def expected(self) -> dict[uuid.UUID, Row]:
        return {self.keys[number]: row for number, row in self.rows.items()}

    def read(self) -> dict[uuid.UUID, Row]:
        found = Meter.behind.in_bulk(self.keys)
        return {pk: {name: getattr(row, name) for name in MADE} for pk, row in found.items()}

    def stored(self) -> dict[uuid.UUID, Row]:
        values = Meter.objects.filter(pk__in=self.keys).values("pk", *MADE)
        return {row.pop("pk"): row for row in values}


def die(*_: Any) -> Any:
    raise KeyboardInterrupt


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(steps, max_size=20))
def test_folding_and_reading_equal_a_dict(walk: list[tuple[str, Any, Any]]) -> None:
    """For any writes in any order, drained or not, a read equals the dict, and finally the database does."""
    fleet = Fleet()
    for name, number, argument in walk:
        if name in {"update", "update_many", "create", "delete"}:
            getattr(fleet, name)(number, argument)
        else:
            fleet.step(name)
        assert fleet.read() == fleet.expected()
    while partitions := writebehind.dirty_partitions():
        for partition, _ in partitions:
            writebehind.drain(partition)
    assert fleet.stored() == fleet.expected()
    assert not Meter.behind.pending(fleet.keys[0])
