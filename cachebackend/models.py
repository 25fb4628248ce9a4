"""The tables that the promises rest on."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

__all__ = ["OutboxRow", "ParkedWrite", "Ring", "WriteBehindCheckpoint"]


class OutboxRow(models.Model):
    """Keys that a transaction made wrong, until every node has confirmed that it deleted them.

    The row is committed with the transaction, in its database. A trigger, which cannot make
    keys, writes the changed rows instead; who settles the outbox row makes the keys of them.
    A row that names a node, by its place, owes all that the node holds of some aliases.
    """

    keys = models.BinaryField(default=b"", help_text="The keys by cache alias, as MessagePack.")
    node = models.CharField(
        max_length=500, blank=True, default="", help_text="The node that owes every key of the aliases."
    )
    label = models.CharField(
        max_length=200, blank=True, default="", help_text="The model whose rows a trigger saw change."
    )
    rows = models.JSONField(null=True, help_text="What keys are made of, of each of those rows, as text.")
    transaction_id = models.BigIntegerField(null=True, help_text="The transaction that the trigger ran in.")
    is_intent = models.BooleanField(default=False, help_text="Written before a statement in autocommit.")
    created = models.DateTimeField(db_default=Now(), db_index=True, help_text="By the database's clock.")

    class Meta:
        indexes = (
            models.Index(
                fields=["transaction_id"],
                condition=models.Q(transaction_id__isnull=False),
                name="ringcache_outbox_transaction",
            ),
        )
        verbose_name = "outbox row"

    def __str__(self) -> str:
        return f"owed since {self.created:%Y-%m-%d %H:%M:%S}"


class WriteBehindCheckpoint(models.Model):
    """The number of the last batch of a partition that landed, in the database that it landed in.

    It is set in the transaction that applies the batch, so a batch has landed exactly
    when its number says so; the row's lock lets one worker at a time drain a partition.
    Each incarnation of the partition's queue has numbers, and a checkpoint, of its own.
    """

    label = models.CharField(max_length=200, help_text="The model, as app_label.model_name.")
    partition = models.PositiveSmallIntegerField()
    incarnation = models.CharField(max_length=32, help_text="The name that the queue was born with.")
    batch = models.PositiveBigIntegerField(default=0, help_text="The last batch that landed; 0: none yet.")
    seal = models.CharField(
        max_length=32, default="", help_text="That batch's seal: another of the same number has another."
    )
    is_ended = models.BooleanField(
        default=False, help_text="Whether the queue was left for another node, or given up, and owes nothing."
    )
    landed_at = models.DateTimeField(null=True, help_text="When the last batch landed.")
    rows = models.PositiveBigIntegerField(default=0, help_text="Rows that all batches together changed.")
    missing = models.PositiveBigIntegerField(default=0, help_text="Rows that they named and were not there.")

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["label", "partition", "incarnation"], name="ringcache_checkpoint"
            ),
        )
        verbose_name = "write-behind checkpoint"

    def __str__(self) -> str:
        return f"{self.label}:{self.partition} at batch {self.batch}"


class ParkedWrite(models.Model):
    """What one batch was to do to a row that Postgres refused. Later writes of the row park behind it."""

    label = models.CharField(max_length=200, help_text="The model, as app_label.model_name.")
    partition = models.PositiveSmallIntegerField()
    batch = models.PositiveBigIntegerField(help_text="The batch that it came in.")
    key = models.TextField(help_text="The row's primary key, as text.")
    changes = models.BinaryField(help_text="The fields of the batch, as MessagePack.")
    error = models.TextField(help_text="What Postgres said.")
    created = models.DateTimeField(db_default=Now(), help_text="By the database's clock.")

    class Meta:
        indexes = (models.Index(fields=["label", "partition", "key"], name="ringcache_parked"),)
        ordering = ("pk",)
        verbose_name = "parked write"

    def __str__(self) -> str:
        return f"{self.label} {self.key}, batch {self.batch}"


class Ring(models.Model):
    """The ring, which has no table: what the permissions of its page are of."""

    class Meta:
        managed = False
        default_permissions = ("view", "change")
        verbose_name = verbose_name_plural = "ring"

    def __str__(self) -> str:
        return "ring"
