"""The tables: pending deletes, and the state of write-behind that lives in the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.db.backends.ddl_references import Statement
from django.db.models.functions import Now
from django.db.models.sql.compiler import SQLCompiler
from django.templatetags.tz import localtime

__all__ = ["Event", "OutboxRow", "ParkedWrite", "PrefixIndex", "Ring", "WriteBehindCheckpoint"]

# The checks of an app that is not installed do not run. What Django raises for its models names no way out
if not apps.is_installed("cachebackend"):
    message = (
        "cachebackend.models is imported, but INSTALLED_APPS does not contain 'cachebackend': add it, and "
        "run manage.py migrate"
    )
    raise ImproperlyConfigured(message)


#: Characters of a text that MySQL and MariaDB index: with a model's label less than their 3,072 bytes.
PREFIX_CHARACTERS = 255


#: Two days within the first and the last time that Python can hold: a time zone moves a time by up to one.
FETCHABLE_TIMES = ("0001-01-03 00:00:00+00", "9999-12-29 00:00:00+00")


class PrefixIndex(models.Index):
    """An index of columns some of which are texts of any length; MySQL and MariaDB index their beginning."""

    def create_sql(
        self, model: type[models.Model], schema_editor: Any, using: str = "", **kwargs: Any
    ) -> Statement:
        """Return the statement that creates the index."""
        if schema_editor.connection.vendor != "mysql":
            return super().create_sql(model, schema_editor, using, **kwargs)
        fields = [model._meta.get_field(name) for name in self.fields]
        prefixes = [
            f"({PREFIX_CHARACTERS})" if isinstance(field, models.TextField) else "" for field in fields
        ]
        statement: Statement = schema_editor._create_index_sql(
            model, fields=fields, name=self.name, using=using, col_suffixes=prefixes, **kwargs
        )
        return statement


class FetchableDateTimeField(models.DateTimeField):  # type: ignore[type-arg]  # generic in the stubs only
    """A time that can always be fetched: Postgres stores times that Python cannot hold.

    One such time would make every query fail that fetches it, and hide all other rows. The nearest time
    that Python can hold, in any time zone, is fetched in its place. Conditions, orderings and expressions
    use the time that is stored.
    """

    def deconstruct(self) -> tuple[str, str, Sequence[Any], dict[str, Any]]:
        """Return Django's field: the column is the same, so there is nothing to migrate."""
        name, _, arguments, keywords = super().deconstruct()
        return name, "django.db.models.DateTimeField", arguments, keywords

    def select_format(self, compiler: SQLCompiler, sql: str, params: Any) -> tuple[str, Any]:
        """Return the SQL of the time, or of an aggregate of times, in a list of columns to fetch."""
        if compiler.connection.vendor != "postgresql":
            return sql, params
        first, last = (f"'{time}'::timestamptz" for time in FETCHABLE_TIMES)
        nearest = f"CASE WHEN {sql} < {first} THEN {first} WHEN {sql} > {last} THEN {last} ELSE {sql} END"
        return nearest, (*params, *params, *params)


class OutboxRow(models.Model):
    """Pending deletes: keys that a transaction made wrong, until every node has confirmed their delete.

    The row is committed with the transaction, in the same database. A trigger cannot make keys,
    so it writes the changed rows instead, and the process that handles the outbox row makes the
    keys. A row with a node's endpoint means every key of some aliases on that node. A row that cannot
    be read is set aside, with the error: nothing but a person deletes it.
    """

    keys = models.BinaryField(default=b"", help_text="The keys by cache alias, as MessagePack.")
    node = models.CharField(
        max_length=500,
        blank=True,
        default="",
        help_text="The endpoint of a node on which every key of the aliases must be deleted.",
    )
    label = models.CharField(
        max_length=200,
        blank=True,
        default="",
        help_text="The model whose rows changed, if a trigger wrote this.",
    )
    rows = models.JSONField(
        null=True, help_text="The columns of those rows from which keys are made, as text."
    )
    transaction_id = models.BigIntegerField(null=True, help_text="The transaction in which the trigger ran.")
    # In a rolling deploy, processes of an earlier release still set it; the relay keeps such rows for a while
    is_intent = models.BooleanField(
        default=False, help_text="Deprecated: whether an earlier release wrote the row before its statement."
    )
    created = FetchableDateTimeField(db_default=Now(), db_index=True, help_text="By the database's clock.")
    # Triggers do not name the column, and neither do processes of an earlier release
    error = models.CharField(
        max_length=500,
        blank=True,
        default="",
        db_default="",
        help_text="Why the row cannot be read, if it is set aside.",
    )

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
        return f"pending since {localtime(self.created):%Y-%m-%d %H:%M:%S}"


class WriteBehindCheckpoint(models.Model):
    """The number of the last batch of a partition that was applied to this database.

    The transaction that applies the batch sets the number, so a batch is applied exactly if the
    number says so. The lock on this row lets one worker at a time drain the partition. Each
    incarnation of the partition's queue has its own batch numbers, and its own checkpoint.
    """

    label = models.CharField(max_length=200, help_text="The model, as app_label.model_name.")
    partition = models.PositiveSmallIntegerField()
    incarnation = models.CharField(
        max_length=32, help_text="The unique name that the queue got when it was created."
    )
    batch = models.PositiveBigIntegerField(
        default=0, help_text="The last batch that was applied; 0: none yet."
    )
    seal = models.CharField(
        max_length=32,
        default="",
        help_text="The seal of that batch: two batches of the same number have different seals.",
    )
    is_ended = models.BooleanField(
        default=False,
        help_text="Whether the queue has moved to another node, or was given up, and holds no writes.",
    )
    sampled_open = models.PositiveBigIntegerField(
        default=0, db_default=0, help_text="The open batch when the queue was last sampled; 0: never."
    )
    sampled_batch = models.PositiveBigIntegerField(
        default=0, db_default=0, help_text="A batch that was sealed then, and on the node's disk."
    )
    sampled_seal = models.CharField(max_length=32, default="", db_default="", help_text="Its seal.")
    sampled_at = FetchableDateTimeField(null=True, help_text="When the queue was last sampled.")
    landed_at = FetchableDateTimeField(null=True, help_text="When the last batch was applied.")
    rows = models.PositiveBigIntegerField(default=0, help_text="Rows that all batches together changed.")
    missing = models.PositiveBigIntegerField(
        default=0, help_text="Rows that batches named but that did not exist."
    )

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
    """The write of one batch to a row, which Postgres refused. Later writes to the row are parked too.

    The first parked write of a row keeps its error. Later ones are composed into one where that is
    exact, so a row with many writes stays a few parked writes.
    """

    label = models.CharField(max_length=200, help_text="The model, as app_label.model_name.")
    partition = models.PositiveSmallIntegerField()
    batch = models.PositiveBigIntegerField(help_text="The batch that held the write, or the last part of it.")
    key = models.TextField(help_text="The row's primary key, as text.")
    changes = models.BinaryField(help_text="The fields of the batch, as MessagePack.")
    error = models.TextField(help_text="The error that Postgres returned.")
    created = FetchableDateTimeField(db_default=Now(), help_text="By the database's clock.")
    retry_at = FetchableDateTimeField(
        null=True,
        help_text="When it is tried again by itself, because it waits for another row or for a lock; "
        "empty: a person retries it.",
    )

    class Meta:
        indexes = (
            PrefixIndex(fields=["label", "key"], name="ringcache_parked_row"),
            models.Index(
                fields=["retry_at"], condition=models.Q(retry_at__isnull=False), name="ringcache_parked_retry"
            ),
        )
        ordering = ("pk",)
        verbose_name = "parked write"

    def __str__(self) -> str:
        return f"{self.label} {self.key}, batch {self.batch}"


class Event(models.Model):
    """Something that happened to the nodes or the processes, or that a person did: the timeline of the page.

    Only the latest rows are kept. Several processes may see the same change; the first one stores it.
    """

    key = models.CharField(
        max_length=32, unique=True, help_text="Equal for the same change, no matter which process sees it."
    )
    kind = models.CharField(
        max_length=20, help_text="node, start, settings, deploy, fault, command or action."
    )
    subject = models.CharField(max_length=200, help_text="What changed, or the person.")
    state = models.CharField(
        max_length=100, blank=True, default="", help_text="The state of the subject from then on."
    )
    text = models.CharField(
        max_length=500,
        blank=True,
        default="",
        help_text="What happened; empty: the state is the first known.",
    )
    created = FetchableDateTimeField(db_default=Now(), help_text="By the database's clock.")

    class Meta:
        default_permissions = ()
        indexes = (models.Index(fields=["subject", "id"], name="ringcache_event_subject"),)
        verbose_name = "event"

    def __str__(self) -> str:
        return f"{localtime(self.created):%Y-%m-%d %H:%M:%S} {self.text}"


class Ring(OutboxRow):
    """The ring. It has no rows of its own: the permissions of the admin's ring page belong to this model."""

    class Meta:
        proxy = True
        default_permissions = ("view", "change")
        verbose_name = verbose_name_plural = "ring"

    def __str__(self) -> str:
        return "ring"
