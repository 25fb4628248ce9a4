"""``UnbuiltQuerySet``: a queryset that notes how it is made, and builds its query when something needs it.

``construction`` says which querysets are made in the same way. A step that Django has accepted before is
only noted. Any access to the query builds it, as Django does, and then the queryset has no construction
any more: other code may change the query in place.
"""

from __future__ import annotations

from typing import Any, Self, TypeVar, cast

from django.db import models

from cachebackend.queries.construction import accepted, begun, followed, kept
from cachebackend.queries.options import QueryOptions

__all__ = ["COPIED", "UnbuiltQuerySet"]

M = TypeVar("M", bound=models.Model)
#: The attributes that a queryset has before its query is built.
_UNBUILT = frozenset({"model", "_db", "_hints", "_result_cache", "_prefetch_done"})
#: The attributes that the building of the query sets. A later Django has more of them.
_BUILT = tuple(sorted(vars(models.QuerySet()).keys() - _UNBUILT))
#: Those that Django copies from a queryset to its clone, beside the query.
COPIED = tuple(
    name
    for name in _BUILT
    if name not in {"_query", "_deferred_filter", "_defer_next_filter", "_cloning_enabled"}
)


class UnbuiltQuerySet(models.QuerySet[M]):
    """A queryset that notes how it is made."""

    cache_options = QueryOptions()
    #: How the queryset was made (``construction``); None: it is not known.
    _construction: int | None = None
    #: The queryset of the manager, and the steps that make this one of it.
    _root: Any = None
    _steps: tuple[tuple[str, Any, Any], ...] = ()
    #: Whether Django has built the query.
    _is_built = True

    def begin(self, options: QueryOptions) -> Self:
        """Return a queryset without steps, given the options; ``self`` must not be changed any more."""
        self.cache_options = options
        queryset: Self = _unbuilt(self, begun(self.model, options), ())
        return queryset

    def _with_options(self, **options: Any) -> Any:
        clone: Any = cast("Any", self)._chain()
        clone.cache_options = self.cache_options._replace(**options)
        return clone

    def _follow(self, name: str, args: Any, kwargs: Any) -> Any:
        """Return the queryset after a step; one that Django has accepted before is not built."""
        construction = self._construction  # read once: another thread may build the queryset meanwhile
        if self._is_built or self._result_cache is not None or construction is None:
            return _method(name)(self, *args, **kwargs)
        step = followed(construction, self.model, name, args, kwargs)
        if step is None or step[1] is None:
            result = _method(name)(self._replayed(), *args, **kwargs)
            if step is None:
                return result
        steps = (*self._steps, (name, args and kept(args), kwargs and kept(kwargs)))
        lazy = _unbuilt(self._root, step[1] or accepted(step[0]), steps)
        lazy.cache_options = (
            self.cache_options if name != "_with_options" else self.cache_options._replace(**kwargs)
        )
        return lazy

    def _replayed(self) -> Any:
        """Return the queryset, built by Django."""
        built: Any = models.QuerySet.all(self._root)
        built._hints, built._known_related_objects = (
            dict(self._root._hints),
            {},
        )  # Django changes them in place
        for name, args, kwargs in self._steps:
            built = _method(name)(built, *args, **kwargs)
        return built

    def _build(self) -> None:
        """Let Django build the query: code that knows no constructions uses it, and may change it."""
        built = self._replayed()
        self._construction = None
        for name in _BUILT:
            self.__dict__[name] = built.__dict__[name]
        self._is_built = True  # last: another thread may read the query

    def filter(self, *args: Any, **kwargs: Any) -> Self:  # noqa: D102  # as Django's, and so are the following
        return cast("Self", self._follow("filter", args, kwargs))

    def exclude(self, *args: Any, **kwargs: Any) -> Self:  # noqa: D102
        return cast("Self", self._follow("exclude", args, kwargs))

    def order_by(self, *args: Any) -> Self:  # noqa: D102
        return cast("Self", self._follow("order_by", args, {}))

    def reverse(self) -> Self:  # noqa: D102
        return cast("Self", self._follow("reverse", (), {}))

    def distinct(self, *args: Any) -> Self:  # noqa: D102
        return cast("Self", self._follow("distinct", args, {}))

    def select_related(self, *fields: Any) -> Self:  # noqa: D102
        return cast("Self", self._follow("select_related", fields, {}))

    def values(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        return self._follow("values", args, kwargs)

    def values_list(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        return self._follow("values_list", args, kwargs)

    def all(self) -> Self:  # noqa: D102
        if self._is_built:
            return super().all()
        lazy = _unbuilt(self._root, self._construction, self._steps)
        lazy.cache_options = self.cache_options
        return cast("Self", lazy)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice) and key.step is None:
            return self._follow("__getitem__", (key,), {})
        return super().__getitem__(key)

    def __getstate__(self) -> dict[str, Any]:
        self._fetch_all()
        if not self._is_built:
            self._build()
        state: dict[str, Any] = super().__getstate__()
        return {name: each for name, each in state.items() if name not in {"_root", "_steps"}}

    def _add_hints(self, **hints: Any) -> None:
        if not self._is_built:
            self._build()
        own: Any = self
        own._hints = {**own._hints, **hints}  # those of the root are not changed

    def _clone(self) -> Self:
        clone: Self = super()._clone()  # type: ignore[misc]
        clone.cache_options = self.cache_options
        return clone


class _Built:
    """An attribute of a queryset that exists only when Django has built the query."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, queryset: Any, owner: Any = None) -> Any:
        if queryset is None:
            return self
        if not queryset._is_built:
            queryset._build()
        return queryset.__dict__[self._name]

    def __set__(self, queryset: Any, value: Any) -> None:
        if not queryset._is_built:
            queryset._build()
        queryset.__dict__[self._name] = value


for _name in _BUILT:
    setattr(UnbuiltQuerySet, _name, _Built(_name))


def _method(name: str) -> Any:
    """Return Django's own method, or ours where Django has none."""
    return getattr(models.QuerySet, name, None) or getattr(UnbuiltQuerySet, name)


def _unbuilt(root: Any, construction: int | None, steps: tuple[tuple[str, Any, Any], ...]) -> Any:
    """Return a queryset that is made of another one by some steps, and not built yet."""
    queryset: Any = object.__new__(type(root))
    # Nothing of the root that can be changed, and not its query
    queryset.__dict__.update(
        model=root.model,
        _db=root._db,
        _hints=dict(root._hints),
        _result_cache=None,
        _prefetch_done=False,
        cache_options=root.cache_options,
        _root=root,
        _steps=steps,
        _construction=construction,
        _is_built=False,
    )
    return queryset
