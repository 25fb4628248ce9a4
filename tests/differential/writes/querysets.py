"""Writes of many rows, by query sets and several managers."""

from __future__ import annotations

from asgiref.sync import async_to_sync
from django.db.models import Case, F, Value, When
from django.db.models.functions import Concat

from tests.differential.kinds import (
    can_bulk,
    has_foreign_key,
    has_own_key,
    has_text,
    is_child,
    is_composite,
    kind,
)
from tests.differential.targets import Target


@kind("bulk_create", can_bulk)
def _(target: Target) -> None:
    target.all.bulk_create([target.model(**target.columns(target.step.value + n)) for n in (0, 1)])


@kind("bulk_create with ignore_conflicts", can_bulk)
def _(target: Target) -> None:
    rows = [target.instance(), target.model(**target.columns(target.step.value + 1))]
    target.all.bulk_create(rows, ignore_conflicts=True)


@kind("bulk_create that updates by key", can_bulk)
def _(target: Target) -> None:
    pk = target.model._meta.pk
    unique = [each.name for each in pk.fields] if is_composite(target) else ["pk"]
    names = [name for name in target.columns() if name not in unique and name != pk.attname]
    fields = [target.model._meta.get_field(name).name for name in names]
    target.all.bulk_create(
        [target.instance()], update_conflicts=True, update_fields=fields, unique_fields=unique
    )


@kind("bulk_create that updates by another key", lambda target: can_bulk(target) and has_text(target))
def _(target: Target) -> None:
    text = str(target.text)
    if target.step.model == "Seat":
        unique, fields = ["hall", "rank"], ["name"]
    else:
        unique, fields = [text], [target.number]
    rows = [target.model(**target.columns())]
    target.all.bulk_create(rows, update_conflicts=True, update_fields=fields, unique_fields=unique)


@kind("bulk_update", lambda target: not has_own_key(target))  # Django raises for them
def _(target: Target) -> None:
    rows = list(target.all.order_by("pk")[:2])
    for row in rows[:1]:
        for name, value in target.changes.items():
            setattr(row, name, value)
    for row in rows:
        setattr(row, target.number, F(target.number) + 10)
    names = {target.model._meta.get_field(name).name for name in target.changes} | {target.number}
    target.all.bulk_update(rows, sorted(names))


@kind("update")
def _(target: Target) -> None:
    target.chosen.update(**target.changes)


@kind("async update")
def _(target: Target) -> None:
    async_to_sync(target.chosen.aupdate)(**target.changes)


@kind("update all")
def _(target: Target) -> None:
    target.all.update(**{target.number: F(target.number) + 10})


@kind("update with F")
def _(target: Target) -> None:
    target.chosen.update(**{target.number: F(target.number) + 1})


@kind("update a text with an expression", has_text)
def _(target: Target) -> None:
    target.chosen.update(**{str(target.text): Concat(F(str(target.text)), Value("+"))})


@kind("update with Case", lambda target: has_text(target) and not has_own_key(target))
def _(target: Target) -> None:
    text = str(target.text)
    swap = Case(When(pk=target.chosen_pk(), then=Value("swapped")), default=F(text))
    target.all.update(**{text: swap})


@kind("update a slice")
def _(target: Target) -> None:
    first = target.all.order_by(f"-{target.number}", "pk").values("pk")[:1]
    if not is_composite(target):
        target.all.filter(pk__in=first).update(**target.changes)


@kind("update the key", lambda target: not is_child(target) and not is_composite(target))
def _(target: Target) -> None:
    target.chosen.update(**{target.model._meta.pk.attname: target.new_pk})


@kind("update a foreign key", has_foreign_key)
def _(target: Target) -> None:
    target.chosen.update(**{target.foreign_key.name: target.related(target.foreign_key)})


@kind("update by a join", has_foreign_key)
def _(target: Target) -> None:
    other = target.related(target.foreign_key)
    target.all.filter(**{f"{target.foreign_key.name}__name": other.name}).update(
        **{target.number: target.step.row + 20}
    )


@kind("delete by queryset")
def _(target: Target) -> None:
    target.chosen.delete()


@kind("delete all")
def _(target: Target) -> None:
    target.all.delete()


@kind("delete by a join", has_foreign_key)
def _(target: Target) -> None:
    other = target.related(target.foreign_key)
    target.all.filter(**{f"{target.foreign_key.name}__name": other.name}).delete()


@kind("raw delete of a queryset", can_bulk)
def _(target: Target) -> None:
    target.chosen._raw_delete(target.using)


# Other managers


@kind("update by the base manager")
def _(target: Target) -> None:
    target.model._base_manager.using(target.using).filter(pk=target.chosen_pk()).update(**target.changes)


@kind("delete by the base manager")
def _(target: Target) -> None:
    target.model._base_manager.using(target.using).filter(pk=target.chosen_pk()).delete()


def has_own_text(target: Target) -> bool:
    return target.text is not None and not is_child(target) and not target.model._meta.proxy


@kind("update another model of the table", has_own_text)
def _(target: Target) -> None:
    text = str(target.text)
    value = getattr(target.get(), text)
    target.other_model().filter(pk=value).update(**{text: Concat(F(text), Value("+"))})


@kind("update a historical model")
def _(target: Target) -> None:
    target.historical().filter(pk=target.chosen_pk()).update(**target.changes)


@kind("save a historical row")
def _(target: Target) -> None:
    row = target.historical().get(pk=target.chosen_pk())
    for name, value in target.changes.items():
        setattr(row, name, value)
    row.save()


@kind("create a historical row")
def _(target: Target) -> None:
    target.historical().create(**target.columns())


@kind("delete a historical row")
def _(target: Target) -> None:
    target.historical().get(pk=target.chosen_pk()).delete()
