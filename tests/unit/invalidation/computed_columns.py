"""A model with a column that is computed when it is read. Not every Postgres can have its table."""

from __future__ import annotations

from django.db import models
from django.test.utils import isolate_apps

__all__ = ["Doubled"]

with isolate_apps("tests.zoo"):

    class Doubled(models.Model):
        rank = models.IntegerField()
        twice = models.GeneratedField(
            expression=models.F("rank") * 2, output_field=models.IntegerField(), db_persist=False
        )

        class Meta:
            app_label = "zoo"
