"""Writes of one instance."""

from __future__ import annotations

import copy

from asgiref.sync import async_to_sync
from django.db import transaction
from django.db.models import F, Value
from django.db.models.functions import Concat

from tests.differential.kinds import has_text, is_child, is_composite, kind
from tests.differential.targets import Target
from tests.differential.values import field_value, key_arguments


@kind("create")
def _(target: Target) -> None:
    target.all.create(**target.columns())


@kind("async create")
def _(target: Target) -> None:
    async_to_sync(target.all.acreate)(**target.columns())


@kind("save a new row with a key")
def _(target: Target) -> None:
    target.instance().save(using=target.using)


@kind("save with force_insert")
def _(target: Target) -> None:
    target.instance().save(using=target.using, force_insert=True)


@kind("save a changed row")
def _(target: Target) -> None:
    row = target.get()
    for name, value in target.changes.items():
        setattr(row, name, value)
    row.save()


@kind("async save")
def _(target: Target) -> None:
    row = target.get()
    for name, value in target.changes.items():
        setattr(row, name, value)
    async_to_sync(row.asave)()


@kind("save with update_fields")
def _(target: Target) -> None:
    row = target.get()
    for name, value in target.changes.items():
        setattr(row, name, value)
    row.save(update_fields=list(target.changes))


@kind("save a deferred row")
def _(target: Target) -> None:
    row = target.all.only("pk", target.number).get(pk=target.chosen_pk())
    setattr(row, target.number, field_value(target.model._meta.get_field(target.number), target.step.value))
    row.save()


@kind("save over a row that was not read", lambda target: not is_composite(target))
def _(target: Target) -> None:
    columns = target.without_key(target.columns())
    target.model(**key_arguments(target.model, target.chosen_pk()), **columns).save(using=target.using)


@kind("save with the key as text", lambda target: not is_composite(target))
def _(target: Target) -> None:
    columns = target.without_key(target.columns())
    target.model(**key_arguments(target.model, str(target.chosen_pk())), **columns).save(using=target.using)


@kind("save with another key", lambda target: not is_child(target) and not is_composite(target))
def _(target: Target) -> None:
    row = target.get()
    row.pk = target.new_pk
    row.save()


@kind("save a copy", lambda target: not is_child(target) and not is_composite(target))
def _(target: Target) -> None:
    row = target.get()
    row.pk, row._state.adding = None, True
    for name, value in target.columns().items():
        setattr(row, name, value)
    row.save()


@kind("save an expression")
def _(target: Target) -> None:
    row = target.get()
    setattr(row, target.number, F(target.number) + 1)
    row.save()


@kind("save an expression in a text", has_text)
def _(target: Target) -> None:
    row = target.get()
    setattr(row, str(target.text), Concat(F(str(target.text)), Value("+")))
    row.save()


@kind("create an expression in a text", has_text)
def _(target: Target) -> None:
    columns = target.columns()
    columns[str(target.text)] = Concat(Value(""), Value(columns[str(target.text)]))
    target.all.create(**columns)


@kind("load and keep")
def _(target: Target) -> None:
    target.world.loaded[target.step.model] = target.get()


@kind("save what was kept")
def _(target: Target) -> None:
    row = target.world.loaded.get(target.step.model)
    if row is not None:
        row = copy.copy(row)
        setattr(
            row, target.number, field_value(target.model._meta.get_field(target.number), target.step.value)
        )
        row.save()


@kind("delete what was kept")
def _(target: Target) -> None:
    row = target.world.loaded.get(target.step.model)
    if row is not None:
        copy.copy(row).delete()


@kind("get_or_create")
def _(target: Target) -> None:
    target.all.get_or_create(
        **key_arguments(target.model, target.new_pk), defaults=target.without_key(target.columns())
    )


@kind("get_or_create by text", has_text)
def _(target: Target) -> None:
    columns = target.columns()
    target.all.get_or_create(**{str(target.text): columns.pop(str(target.text))}, defaults=columns)


@kind("update_or_create")
def _(target: Target) -> None:
    target.all.update_or_create(
        **key_arguments(target.model, target.new_pk), defaults=target.without_key(target.columns())
    )


@kind("update_or_create by text", has_text)
def _(target: Target) -> None:
    columns = target.columns()
    target.all.update_or_create(**{str(target.text): columns.pop(str(target.text))}, defaults=columns)


@kind("select_for_update and save")
def _(target: Target) -> None:
    with transaction.atomic(using=target.using):
        row = target.all.select_for_update(of=("self",)).get(pk=target.chosen_pk())
        for name, value in target.changes.items():
            setattr(row, name, value)
        row.save()


@kind("delete a row")
def _(target: Target) -> None:
    target.get().delete()


@kind("async delete")
def _(target: Target) -> None:
    async_to_sync(target.get().adelete)()


@kind("delete with keep_parents", is_child)
def _(target: Target) -> None:
    target.get().delete(keep_parents=True)
