"""``RINGCACHE["models"]``: the options of ``cached`` managers that models get without a line in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cachebackend.options.faults import Faults, shown
from cachebackend.options.rules import Boolean, Choice, Number, Optional, check_fields

__all__ = ["CachedModelOptions", "ModelLabels", "check_models"]

_SECONDS = Number(0, unit=" seconds")


class _Text:
    """A text that is not empty."""

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value; None: nothing is."""
        return None if isinstance(value, str) and value else f"must be a text, got {shown(value)}"


class _FieldNames(NamedTuple):
    """A list of names of fields; each may also be a tuple of names, if ``groups``."""

    groups: bool = False

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value; None: nothing is."""
        if not isinstance(value, list | tuple):
            return f"must be a list of names of fields, got {shown(value)}"
        for each in value:
            is_group = self.groups and isinstance(each, list | tuple) and len(each) > 0
            if not all(isinstance(name, str) and name for name in (each if is_group else [each])):
                return f"must have names of fields, got {shown(each)}"
        return None


@dataclass(frozen=True, slots=True)
class CachedModelOptions:
    """The options of a model in ``RINGCACHE["models"]``, which are arguments of ``CachedManager``.

    Attributes:
        lookups: What rows are looked up by, beside the primary key.
        timeout: Seconds until a row or a result expires; None: never. Default: the timeout of the alias.
        alias: The cache alias.
        consistency: ``"commit"`` or ``"strict"``.
        write: ``"invalidate"`` or ``"through"``.
        missing_timeout: Seconds for which the absence of a row is cached; None: it is not cached.
        stale_for: Seconds after its timeout in which an old row or result may be served; None: the
            option of the alias.
        triggers: Whether triggers notice changes that Django does not see.
        base_manager: The name of the manager through which rows are loaded.
        ignore: The fields of which results may be older than the table.
    """

    lookups: Any = field(default=(), metadata={"rule": _FieldNames(groups=True)})
    timeout: float | None = field(default=None, metadata={"rule": Optional(_SECONDS)})
    alias: str = field(default="default", metadata={"rule": _Text()})
    consistency: str = field(default="commit", metadata={"rule": Choice(("commit", "strict"))})
    write: str = field(default="invalidate", metadata={"rule": Choice(("invalidate", "through"))})
    missing_timeout: float | None = field(default=None, metadata={"rule": Optional(_SECONDS)})
    stale_for: float | None = field(default=None, metadata={"rule": Optional(_SECONDS)})
    triggers: bool = field(default=False, metadata={"rule": Boolean()})
    base_manager: str | None = field(default=None, metadata={"rule": Optional(_Text())})
    ignore: Any = field(default=(), metadata={"rule": _FieldNames()})


class ModelLabels:
    """A dict from labels of models, or of all models of an app, to dicts of options."""

    def fault(self, value: object) -> str | None:
        """Return what is wrong with the value; None: nothing is. ``check_models`` checks its items."""
        if isinstance(value, Mapping):
            return None
        return f'must be a dict such as {{"auth.User": {{}}}}, got a {type(value).__name__}'


def check_models(given: Mapping[Any, Any], faults: Faults) -> None:
    """Add the faults of each item of ``RINGCACHE["models"]``."""
    for label, options in given.items():
        app, _, name = label.rpartition(".") if isinstance(label, str) else ("", "", "")
        if not app.isidentifier() or not (name == "*" or name.isidentifier()):
            faults.add(label, 'must be the label of a model or of all of an app: "auth.User", "auth.*"')
        elif not isinstance(options, Mapping):
            faults.add(label, f"must be a dict of options, got {shown(options)}")
        else:
            check_fields(CachedModelOptions, options, faults.below(label))
