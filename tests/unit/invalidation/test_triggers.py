"""The SQL of triggers, as it depends on the model."""

from __future__ import annotations

from typing import Any

import pgtrigger
import pytest
from django.db import models
from django.test.utils import isolate_apps

from cachebackend.invalidation import row_texts
from cachebackend.invalidation.triggers import OutboxTrigger
from tests.unit.invalidation.computed_columns import Doubled
from tests.zoo.models import Sample, Stock


def sql_of_update(model: Any) -> str:
    return OutboxTrigger(pgtrigger.Update, "old_rows", "new_rows").get_func(model)


def test_an_update_compares_the_rows_that_have_one_primary_key() -> None:
    """Every column, by its bytes; the columns of a composite key together."""
    sql = sql_of_update(Sample)
    assert 'ON ROW(o."id")::record *= ROW(n."id")::record' in sql
    for field in Sample._meta.local_concrete_fields:
        assert f"THEN '{field.column}' END" in sql
    assert 'ON ROW(o."shop", o."sku")::record *= ROW(n."shop", n."sku")::record' in sql_of_update(Stock)


@isolate_apps("tests.zoo")
def test_rows_of_a_table_that_django_does_not_manage_are_not_compared() -> None:
    """What the model calls its primary key may not be unique in the table."""

    class Seen(models.Model):
        name = models.CharField(max_length=9)

        class Meta:
            app_label = "zoo"
            managed = False

    assert "JOIN" not in sql_of_update(Seen)
    assert "changed of" not in sql_of_update(Seen)


def test_a_table_with_very_many_columns_does_not_list_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names would be longer than the values."""
    monkeypatch.setattr(row_texts, "MAX_NAME_BYTES", 10)
    assert "changed of" not in sql_of_update(Sample)


def test_a_column_that_is_computed_when_it_is_read_counts_as_changed() -> None:
    """A trigger does not see its value."""
    sql = sql_of_update(Doubled)
    assert "THEN 'rank' END, 'twice']" in sql
    assert '"twice"' not in sql
