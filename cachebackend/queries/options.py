"""How the results of a queryset are cached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from django.core.cache.backends.base import DEFAULT_TIMEOUT

__all__ = ["DEFAULT", "QueryOptions"]

#: The timeout of the cache alias; a text, because options are pickled with their queryset.
DEFAULT = "default"


class QueryOptions(NamedTuple):
    """How the results of a queryset are cached.

    Attributes:
        alias: The cache alias.
        timeout: Seconds until a result expires; None: never; ``DEFAULT``: the timeout of the alias.
        stale_for: Seconds after that in which a result may be served while one caller loads it again.
            None: the alias' option.
        depends_on: The labels of the models that the unknown parts of a query read.
        rows: The name of the model's ``CachedManager``, which reads whole rows by their primary keys.
        is_strict: Whether the manager is strict: then results are not cached.
    """

    alias: str = "default"
    timeout: float | str | None = DEFAULT
    stale_for: float | None = None
    depends_on: Sequence[str] = ()
    rows: str = ""
    is_strict: bool = False

    @property
    def seconds(self) -> Any:
        """The timeout as the cache takes it."""
        return DEFAULT_TIMEOUT if self.timeout == DEFAULT else self.timeout
