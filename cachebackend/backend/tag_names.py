"""The names of tags: a string, a model (all of its rows), or one row.

A model or a row is a tag only if its writes are watched; a tag whose writes nothing notices would
keep its values for ever. The name of a row or model begins with its scope, and names the table: the
rows of a proxy are those of its model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from django.core.exceptions import ImproperlyConfigured
from django.db import models, router

from cachebackend.backend.canonical import is_comparable, key_parts
from cachebackend.backend.lazy_objects import loaded
from cachebackend.backend.scope import database_of, part_of_table, scope_of

__all__ = [
    "Tag",
    "model_tag_name",
    "names_of_text",
    "row_tag_name",
    "row_tag_names",
    "table_of",
    "tag_name",
    "tags_of",
    "watch_tags_of",
]

#: A string, a model (all of its rows), or one row.
Tag: TypeAlias = str | type[models.Model] | models.Model

#: The models that are tags.
_watched: set[type[models.Model]] = set()


def watch_tags_of(model: type[models.Model]) -> bool:
    """Record that the writes of a model are watched; return whether it is new.

    The caller deletes the tags of the model and of its rows whenever rows change.
    """
    concrete = model._meta.concrete_model or model
    is_new = concrete not in _watched
    _watched.add(concrete)
    return is_new


def names_of_text(text: str) -> list[str]:
    """Return the names of the tags that a text may mean.

    They are the tag that is this text and, for ``demo.Article`` or ``demo.Article:7``, that of the
    watched model with this label, or of its row with this primary key.
    """
    label, is_row, pk = text.partition(":")
    names: list[str | None] = [tag_name(text)]
    for model in _watched:
        if model._meta.label_lower == label.lower():
            scope = scope_of(router.db_for_write(model))
            names.append(row_tag_name(model, pk, scope) if is_row else model_tag_name(model, scope))
    return [name for name in names if name is not None]


def tags_of(tags: Iterable[Tag]) -> tuple[Tag, ...]:
    """Return tags as a tuple, which can be read again.

    Raises:
        TypeError: A single tag is given; the letters of a string are not meant as tags.
    """
    if isinstance(tags, str | models.Model | type):
        message = f"tags must be a list of tags; put the tag {tags!r} into one"
        raise TypeError(message)
    return tuple(tags)


def tag_name(tag: Tag) -> str:
    """Return the name of a tag.

    Raises:
        TypeError: It is not a tag, or it is a row whose primary key cannot be part of a key.
        ImproperlyConfigured: Nothing watches the writes of the model.
    """
    tag = loaded(tag)
    _check(tag)
    if isinstance(tag, str):
        return f"tag:{tag}"
    if not isinstance(tag, models.Model):
        return model_tag_name(tag, scope_of(router.db_for_write(tag)))
    name = row_tag_name(type(tag), tag.pk, scope_of(database_of(tag)))
    if name is None:
        message = f"{tag!r} cannot be a tag: its primary key is {tag.pk!r}"
        if not is_comparable(tag._meta.pk):
            message += (
                f" in a {type(tag._meta.pk).__name__}, whose values Python cannot compare. Use the model"
            )
        raise TypeError(message)
    return name


def model_tag_name(model: type[models.Model], scope: str) -> str:
    """Return the name of the tag that is all rows of a model."""
    return f"rows:{scope}:{table_of(model)}"


def table_of(model: type[models.Model]) -> str:
    """Return the part of keys and tags of a model's rows that names its table.

    Two releases of a project, in which the model has another name, find each other's keys.
    """
    return part_of_table((model._meta.concrete_model or model)._meta.db_table)


def row_tag_name(model: type[models.Model], pk: Any, scope: str) -> str | None:
    """Return the name of the tag that is one row; None if its primary key cannot be part of a key."""
    return next(iter(row_tag_names(model, [pk], scope)), None)


def row_tag_names(model: type[models.Model], pks: Sequence[Any], scope: str) -> list[str]:
    """Return the names of the tags that are rows, without those that have none."""
    prefix = model_tag_name(model, scope)
    return [f"{prefix}:{part}" for part in key_parts(model._meta.pk, pks) if part is not None]


def _check(tag: Any) -> None:
    """Refuse what cannot be a tag.

    Raises:
        TypeError: It is neither a string nor a model nor an instance of one.
        ImproperlyConfigured: Nothing watches the writes of the model.
    """
    if isinstance(tag, str):
        return
    model = tag if isinstance(tag, type) else type(tag)
    if not issubclass(model, models.Model):
        message = f"a tag is a string, a model class, or a model instance; not {tag!r}"
        raise TypeError(message)
    if (model._meta.concrete_model or model) not in _watched:
        label = model._meta.label
        message = (
            f"{label} cannot be a tag, because nothing watches its writes. Add objects = "
            f"InvalidatingManager() or a CachedManager to the model, or set "
            f'RINGCACHE = {{"models": {{"{label}": {{}}}}}}'
        )
        raise ImproperlyConfigured(message)
