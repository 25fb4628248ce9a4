"""The rows that every script begins with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.db import connections, models, transaction

from cachebackend.models import OutboxRow
from tests.differential.values import field_value, key_arguments, primary_keys

__all__ = ["start_again"]

#: Steps give smaller primary keys to rows; sequences give larger ones.
_FIRST_OF_SEQUENCE = 100


def start_again(family: Iterable[type[models.Model]], using: str) -> None:
    """Empty the family's tables, reset their sequences, and insert the first rows."""
    concrete = [model for model in family if not model._meta.proxy]
    _empty(concrete, using)
    with transaction.atomic(using):
        for number, model in enumerate(concrete):
            for each in (0, 1):
                _first_row(model, each, number).save(using=using, force_insert=True)
        for model in concrete:
            for field in model._meta.many_to_many:
                if field.remote_field.through._meta.auto_created:
                    row = model._base_manager.using(using).order_by("pk")[0]
                    getattr(row, field.name).set(field.related_model._base_manager.using(using).all()[:1])
    OutboxRow.objects.using(using).all().delete()
    ContentType.objects.clear_cache()


def _first_row(model: Any, number: int, position: int) -> models.Model:
    """Return an unsaved row. A child's key is not the key of a row of its parent."""
    pks = primary_keys(model)
    is_child = bool(model._meta.parents)
    if not is_child or isinstance(model._meta.pk, models.CharField):
        row = model(**key_arguments(model, pks[number]))
    else:
        row = model(pk=_FIRST_OF_SEQUENCE // 2 + 2 * position + number)
    for field in model._meta.concrete_fields:
        if (
            field.generated
            or field.column is None
            or (field.remote_field and getattr(field.remote_field, "parent_link", False))
        ):
            continue
        if isinstance(field, models.AutoField) and not field.primary_key:
            continue
        if isinstance(field, models.CharField) and field.unique and is_child:
            setattr(row, field.attname, f"{model.__name__}{number}")
        elif not field.primary_key:
            setattr(
                row,
                field.attname,
                field_value(
                    field,
                    2 * number if isinstance(field, models.DecimalField | models.DateTimeField) else number,
                ),
            )
    return row


def _empty(family: Iterable[type[models.Model]], using: str) -> None:
    connection = connections[using]
    quote = connection.ops.quote_name
    tables = [model._meta.db_table for model in family]
    for model in family:
        tables += [field.m2m_db_table() for field in model._meta.local_many_to_many]
    deletes = [f"DELETE FROM {quote(table)}" for table in (*tables, OutboxRow._meta.db_table)]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            resets = [
                f"SELECT setval(pg_get_serial_sequence('{quote(model._meta.db_table)}', '{field.column}'), "
                f"{_FIRST_OF_SEQUENCE})"
                for model in family
                for field in model._meta.local_fields
                if isinstance(field, models.AutoField)
            ]
            before, after = "SET session_replication_role = replica", "RESET session_replication_role"
            cursor.execute("; ".join([before, *deletes, *resets, after]))
        else:
            for statement in ("PRAGMA foreign_keys = OFF", *deletes, "PRAGMA foreign_keys = ON"):
                cursor.execute(statement)
