"""Options of cached querysets."""

from __future__ import annotations

import pickle

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from cachebackend.queries.options import QueryOptions


def test_the_default_timeout_survives_pickling() -> None:
    """Django's own mark for it is an object without a name."""
    assert pickle.loads(pickle.dumps(QueryOptions())).seconds is DEFAULT_TIMEOUT
    assert QueryOptions(timeout=None).seconds is None
    assert QueryOptions(timeout=5).seconds == 5
