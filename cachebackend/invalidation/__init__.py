"""A row changed: which keys that makes wrong, and when they are deleted.

``dependents`` knows the keys of a model's rows, ``signals`` and ``querysets`` notice
changes, ``transactions`` deletes after the commit, never before it. Decides nothing
about how keys are read or filled.
"""

from cachebackend.invalidation.dependents import Dependent, dependents_of, register
from cachebackend.invalidation.querysets import InvalidatingManager, InvalidatingQuerySet
from cachebackend.invalidation.transactions import invalidate_rows

__all__ = [
    "Dependent",
    "InvalidatingManager",
    "InvalidatingQuerySet",
    "dependents_of",
    "invalidate_rows",
    "register",
]
