"""Queries: what their results depend on, read while Django compiles them.

``recording`` notes every table and column that enters the SQL, ``known`` says which expressions can be
cached, ``binding`` finds the columns that a query binds to values, and ``tables`` which tables can be
cached. ``dependencies`` puts them together, ``plans`` makes the key, tags and shapes of a result from
them, and ``evaluation`` answers the queries of a block from the ring. ``construction``
remembers this for querysets that are made in the same way, and ``steps`` builds them only if something
needs their query. ``queryset`` is what users call, and
``invalidating`` a plain manager of a watched model.

Imports the invalidation and the backend.
"""

from cachebackend.queries.invalidating import InvalidatingManager, InvalidatingQuerySet

__all__ = ["InvalidatingManager", "InvalidatingQuerySet"]
