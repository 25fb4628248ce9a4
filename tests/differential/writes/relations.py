"""Writes by related managers, and of the rows between two ends."""

from __future__ import annotations

from tests.differential.kinds import has_foreign_key, has_many, has_nullable_foreign_key, kind
from tests.differential.targets import Target
from tests.differential.values import field_value
from tests.zoo.models import Mark


@kind("reverse add", has_foreign_key)
def _(target: Target) -> None:
    target.manager_of(target.foreign_key).add(target.get())


@kind("reverse add without bulk", has_foreign_key)
def _(target: Target) -> None:
    target.manager_of(target.foreign_key).add(target.get(), bulk=False)


@kind("reverse set", has_foreign_key)
def _(target: Target) -> None:
    target.manager_of(target.foreign_key).set([target.get()])


@kind("reverse remove", has_nullable_foreign_key)
def _(target: Target) -> None:
    target.manager_of(target.foreign_key).remove(target.get())


@kind("reverse clear", has_nullable_foreign_key)
def _(target: Target) -> None:
    target.manager_of(target.foreign_key).clear()


@kind("reverse create", has_foreign_key)
def _(target: Target) -> None:
    manager = target.manager_of(target.foreign_key)
    columns = target.of(manager.model).columns(target.step.value)
    columns.pop(target.foreign_key.attname)
    manager.create(**columns)


@kind("reverse update", has_foreign_key)
def _(target: Target) -> None:
    manager = target.manager_of(target.foreign_key)
    manager.update(**{target.of(manager.model).number: target.step.row + 30})


@kind("many add", has_many)
def _(target: Target) -> None:
    manager = target.many_manager
    manager.add(target.many_row(manager, target.step.other))


@kind("many add by key", has_many)
def _(target: Target) -> None:
    manager = target.many_manager
    manager.add(str(target.many_row(manager, target.step.other).pk))


@kind("many remove", has_many)
def _(target: Target) -> None:
    manager = target.many_manager
    manager.remove(target.many_row(manager, target.step.other))


@kind("many set", has_many)
def _(target: Target) -> None:
    manager = target.many_manager
    manager.set([target.many_row(manager, target.step.other)])


@kind("many clear", has_many)
def _(target: Target) -> None:
    target.many_manager.clear()


@kind("many create", has_many)
def _(target: Target) -> None:
    manager = target.many_manager
    manager.create(**target.of(manager.model).columns(target.step.other))


@kind("through create", has_many)
def _(target: Target) -> None:
    manager = target.many_manager
    manager.through._base_manager.using(target.using).create(
        **{
            f"{manager.source_field_name}_id": manager.instance.pk,
            f"{manager.target_field_name}_id": target.many_row(manager, target.step.other).pk,
        }
    )


@kind("through delete", has_many)
def _(target: Target) -> None:
    target.many_manager.through._base_manager.using(target.using).all().delete()


@kind("through update", has_many)
def _(target: Target) -> None:
    manager = target.many_manager
    other = target.many_row(manager, target.step.other)
    rows = manager.through._base_manager.using(target.using)
    rows.filter(**{f"{manager.source_field_name}_id": manager.instance.pk}).update(
        **{f"{manager.target_field_name}_id": other.pk}
    )


@kind("generic add", lambda target: target.step.model == "Post")
def _(target: Target) -> None:
    marks = target.of(Mark)
    target.get().marks.add(marks.all.get(pk=marks.chosen_pk(target.step.other)))


@kind("generic clear", lambda target: target.step.model == "Post")
def _(target: Target) -> None:
    target.get().marks.clear()


@kind("generic create", lambda target: target.step.model == "Post")
def _(target: Target) -> None:
    target.get().marks.create(name=field_value(target.model._meta.get_field("name"), target.step.value))
