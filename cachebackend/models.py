"""The tables that the promises rest on."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

__all__ = ["OutboxRow", "WriteBehindCheckpoint"]


class OutboxRow(models.Model):
    """Keys that a transaction made wrong, until every node has confirmed that it deleted them.

    The row is committed with the transaction, in its database.
    """

    keys = models.BinaryField(help_text="The keys by cache alias, as MessagePack.")
    is_intent = models.BooleanField(default=False, help_text="Written before a statement in autocommit.")
    created = models.DateTimeField(db_default=Now(), db_index=True, help_text="By the database's clock.")

    class Meta:
        verbose_name = "outbox row"

    def __str__(self) -> str:
        return f"owed since {self.created:%Y-%m-%d %H:%M:%S}"


class WriteBehindCheckpoint(models.Model):
    """The number of the last batch of a partition that landed, in the database that it landed in.

    It is set in the transaction that applies the batch, so a batch has landed exactly
    when its number says so; the row's lock lets one worker at a time drain a partition.
    """

    label = models.CharField(max_length=200, help_text="The model, as app_label.model_name.")
    partition = models.PositiveSmallIntegerField()
    batch = models.PositiveBigIntegerField(default=0, help_text="The last batch that landed; 0: none yet.")
    landed_at = models.DateTimeField(null=True, help_text="When it did.")
    rows = models.PositiveBigIntegerField(default=0, help_text="Rows that all batches together changed.")
    missing = models.PositiveBigIntegerField(default=0, help_text="Rows that they named and were not there.")

    class Meta:
        constraints = (models.UniqueConstraint(fields=["label", "partition"], name="ringcache_checkpoint"),)
        verbose_name = "write-behind checkpoint"

    def __str__(self) -> str:
        return f"{self.label}:{self.partition} at batch {self.batch}"
