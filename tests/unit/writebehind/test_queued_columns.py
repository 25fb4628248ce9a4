"""Instances that show queued writes: which of their columns ``save()`` may write."""

from __future__ import annotations

import copy
import pickle

import pytest
from django.db.models.signals import pre_save

from cachebackend.errors import WriteBehindRefusedError
from cachebackend.writebehind.queued_columns import mark_queued
from tests.shop.models import Meter

REFUSED = r"Meter.save\(\): the instance shows queued writes of {}, .*Meter.behind.update\(\)"


def sends_pre_save(meter: Meter, *, raw: bool = False, update_fields: frozenset[str] | None = None) -> bool:
    pre_save.send(sender=Meter, instance=meter, raw=raw, using="default", update_fields=update_fields)
    return True


@pytest.fixture
def meter() -> Meter:
    """An instance that shows queued writes of two columns."""
    meter = Meter(count=7)
    mark_queued(meter, ["count", "tag_id"])
    return meter


def test_a_save_of_all_columns_is_refused(meter: Meter) -> None:
    """The error names the columns by their fields, and what to call."""
    with pytest.raises(WriteBehindRefusedError, match=REFUSED.format("count, tag")):
        meter.save()


@pytest.mark.parametrize("name", ["tag", "tag_id"])
def test_a_save_of_a_queued_column_is_refused(meter: Meter, name: str) -> None:
    """By the name of the field, and by that of its attribute."""
    with pytest.raises(WriteBehindRefusedError, match=REFUSED.format("tag")):
        meter.save(update_fields=[name, "label"])


def test_copies_are_refused_too(meter: Meter) -> None:
    """A copy, and an instance that was pickled, for example in a session or a task."""
    for twin in (copy.copy(meter), copy.deepcopy(meter), pickle.loads(pickle.dumps(meter))):
        with pytest.raises(WriteBehindRefusedError):
            twin.save()


def test_other_saves_are_allowed(meter: Meter) -> None:
    """Of other columns; of another row; of a fixture; and of an instance without queued writes."""
    assert sends_pre_save(meter, update_fields=frozenset({"label"}))
    assert sends_pre_save(meter, raw=True)
    mark_queued(other := Meter(), [])
    assert sends_pre_save(other)
    meter.pk = Meter().pk
    assert sends_pre_save(meter)
