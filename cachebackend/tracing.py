"""OpenTelemetry spans, if its API is installed (extra ``opentelemetry``); otherwise they do nothing.

=======================  =====================================================================
span                     duration
=======================  =====================================================================
``ringcache.load``       a call of a caller's loader, after a miss or to refresh a value
``ringcache.fill_wait``  the wait of a miss for the value that another caller is loading
``ringcache.drain``      the drain of a write-behind partition
=======================  =====================================================================
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

__all__ = ["begin", "span"]


def _end_nothing() -> None: ...


def _tracer() -> Any:
    """Return the tracer; None if the site has set no tracer provider.

    A site that sets one has imported the API. Importing it here would cost each process 7 ms.
    """
    api = sys.modules.get("opentelemetry.trace")
    if not hasattr(api, "get_tracer"):  # another thread may be importing the API
        return None
    # The public function to get the provider reads the environment each time
    provider = getattr(api, "_TRACER_PROVIDER", True)
    return None if provider is None else _tracer_of(provider)


@lru_cache(maxsize=1)
def _tracer_of(_provider: Any) -> Any:
    """Return the tracer of the provider that is set."""
    return sys.modules["opentelemetry.trace"].get_tracer("cachebackend")


def span(name: str, **attributes: str | int) -> AbstractContextManager[object]:
    """Return a context that makes a span: a child of the current span."""
    tracer = _tracer()
    return nullcontext() if tracer is None else tracer.start_as_current_span(name, attributes=attributes)


def begin(name: str) -> Callable[[], None]:
    """Start a span, and return the function that ends it.

    The span never becomes the current span. In one thread the steps of two operations may
    alternate, and one operation would end the span that the other has started.
    """
    tracer = _tracer()
    return _end_nothing if tracer is None else tracer.start_span(name).end
