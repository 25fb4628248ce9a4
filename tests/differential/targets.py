"""What a step writes: a model, and rows and values that small numbers choose.

A step has a meaning on any data: a number chooses among the rows that exist, so a script still
runs after a shrinker has removed steps from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from django.apps import apps
from django.apps.registry import Apps
from django.contrib.contenttypes.models import ContentType
from django.db import models, router
from django.db.migrations.state import ModelState, ProjectState

from tests.differential.values import field_value, key_arguments, number_field, primary_keys, text_field

__all__ = ["Step", "Target", "World"]


@dataclass(frozen=True)
class Step:
    """One write.

    Attributes:
        kind: Its name in ``KINDS``.
        model: The name of the model that it writes.
        row: Which row, among those that exist or among the primary keys that steps use.
        other: Which other row.
        value: Which value.
    """

    kind: str
    model: str
    row: int = 0
    other: int = 0
    value: int = 0


@dataclass
class World:
    """What a script remembers between its steps.

    Attributes:
        loaded: Instances that a step loaded and a later step saves, by model.
    """

    loaded: dict[str, models.Model] = field(default_factory=dict)


class Target:
    """The model and rows of a step."""

    def __init__(self, step: Step, world: World) -> None:
        self.step = step
        self.world = world
        self.model: Any = apps.get_model("zoo", step.model)
        self.using = router.db_for_write(self.model)
        self.text = text_field(self.model)
        self.number = number_field(self.model)

    def of(self, model: type[models.Model]) -> Target:
        """Return a target of another model, with the same numbers."""
        return Target(replace(self.step, model=model.__name__), self.world)

    @property
    def all(self) -> Any:
        """The model's plain queryset."""
        return self.model._default_manager.using(self.using)

    @property
    def pks(self) -> list[Any]:
        """The primary keys of the rows that exist."""
        return list(self.all.order_by("pk").values_list("pk", flat=True))

    def chosen_pk(self, number: int | None = None) -> Any:
        """Return the primary key of a row that exists, or of none."""
        pks = self.pks or primary_keys(self.model)
        return pks[(self.step.row if number is None else number) % len(pks)]

    @property
    def chosen(self) -> Any:
        """A queryset of the chosen row."""
        return self.all.filter(pk=self.chosen_pk())

    def get(self) -> Any:
        """Load the chosen row; raise ObjectDoesNotExist if there is none."""
        return self.all.get(pk=self.chosen_pk())

    @property
    def new_pk(self) -> Any:
        """One of the primary keys that steps use, whether or not it exists."""
        pks = primary_keys(self.model)
        return pks[self.step.other % len(pks)]

    def columns(self, number: int | None = None, *, blank: bool = False) -> dict[str, Any]:
        """Return values for the columns of a new row, without its primary key."""
        number = self.step.value if number is None else number
        values: dict[str, Any] = {}
        for position, each in enumerate(self._writable()):
            if each.has_default() and not isinstance(each, models.ForeignKey) and blank:
                continue
            values[each.attname] = field_value(each, number + position * self.step.other)
        return values

    def instance(self, number: int | None = None) -> Any:
        """Return an unsaved row with the primary key of the step."""
        return self.model(**key_arguments(self.model, self.new_pk), **self.without_key(self.columns(number)))

    def without_key(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return values of columns without those of the primary key."""
        pk = self.model._meta.pk
        parts = pk.fields if isinstance(pk, models.CompositePrimaryKey) else [pk]
        return {name: value for name, value in values.items() if name not in {each.attname for each in parts}}

    def _writable(self) -> list[Any]:
        pk = self.model._meta.pk
        return [
            each
            for each in self.model._meta.concrete_fields
            if not each.generated
            and each.column is not None
            and not (each.primary_key and not isinstance(each, models.CharField))
            and not (isinstance(each, models.OneToOneField) and each.remote_field.parent_link)
            and not isinstance(each, models.AutoField)
            and (each is not pk or isinstance(each, models.CharField))
        ]

    @property
    def lookup(self) -> str:
        """The attribute name of a column that the step changes: of a lookup if there is one."""
        manager = getattr(self.model, "cached", None)
        fields = manager.lookup_fields if manager is not None else []
        names = [field.attname for field in fields if not field.generated] + [self.text or self.number]
        return str(names[self.step.other % len(names)])

    @property
    def changes(self) -> dict[str, Any]:
        """A new value for a lookup."""
        return {self.lookup: field_value(self.model._meta.get_field(self.lookup), self.step.value)}

    @property
    def foreign_keys(self) -> list[Any]:
        """The foreign keys to models of the same app, without the one-to-one relations."""
        return [
            each
            for each in self.model._meta.concrete_fields
            if isinstance(each, models.ForeignKey)
            and not isinstance(each, models.OneToOneField)
            and each.related_model._meta.app_label == "zoo"
        ]

    @property
    def foreign_key(self) -> Any:
        return self.foreign_keys[self.step.other % len(self.foreign_keys)]

    def related(self, field: Any) -> Any:
        """Load the row of another model that the step's ``other`` chooses."""
        return self._nth(field.related_model, self.step.value)

    def manager_of(self, field: Any) -> Any:
        """Return the related manager at the reverse end of a foreign key."""
        return getattr(self.related(field), field.remote_field.get_accessor_name())

    @property
    def many(self) -> list[str]:
        """The names of the many-to-many relations of the model, at both ends."""
        names = []
        for each in self.model._meta.get_fields():
            if each.many_to_many:
                forward = isinstance(each, models.ManyToManyField)
                names.append(each.name if forward else each.get_accessor_name())
        return names

    @property
    def many_manager(self) -> Any:
        return getattr(self.get(), self.many[self.step.value % len(self.many)])

    def many_row(self, manager: Any, number: int) -> Any:
        return self._nth(manager.model, number)

    def _nth(self, model: Any, number: int) -> Any:
        rows = list(model._base_manager.using(self.using).order_by("pk"))
        if not rows:
            raise model.DoesNotExist
        return rows[number % len(rows)]

    def historical(self) -> Any:
        """Return the queryset of the model as a migration sees it."""
        return _historical().get_model("zoo", self.step.model)._default_manager.using(self.using)

    def other_model(self) -> Any:
        """Return the queryset of another model of the table, whose primary key is the unique text."""
        return _other_model(self.model._meta.db_table, str(self.text))._default_manager.using(self.using)


@cache
def _other_model(table: str, text: str) -> Any:
    meta = type("Meta", (), {"apps": Apps(), "app_label": "other", "db_table": table, "managed": False})
    column = models.CharField(max_length=40, primary_key=True)
    return type("Other", (models.Model,), {"__module__": __name__, "Meta": meta, text: column})


_HISTORICAL: list[Any] = []


def _historical() -> Any:
    if not _HISTORICAL:
        state = ProjectState()
        for model in (ContentType, *apps.get_app_config("zoo").get_models(include_auto_created=False)):
            state.add_model(ModelState.from_model(model))
        _HISTORICAL.append(state.apps)
    return _HISTORICAL[0]
