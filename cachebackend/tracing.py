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

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

__all__ = ["begin", "span"]


def _end_nothing() -> None: ...


try:
    from opentelemetry import trace
except ImportError:

    def span(name: str, **attributes: str | int) -> AbstractContextManager[object]:  # the same signature
        """Return a context that does nothing."""
        return nullcontext()

    def begin(name: str) -> Callable[[], None]:
        """Return a function that does nothing."""
        return _end_nothing

else:
    _tracer = trace.get_tracer("cachebackend")

    def _has_provider() -> bool:
        """Return whether the site has set a tracer provider."""
        # The public function to get the provider reads the environment each time
        return getattr(trace, "_TRACER_PROVIDER", True) is not None

    def span(name: str, **attributes: str | int) -> AbstractContextManager[object]:
        """Return a context that makes a span: a child of the current span."""
        return (
            _tracer.start_as_current_span(name, attributes=attributes) if _has_provider() else nullcontext()
        )

    def begin(name: str) -> Callable[[], None]:
        """Start a span, and return the function that ends it.

        The span never becomes the current span. In one thread the steps of two operations may
        alternate, and one operation would end the span that the other has started.
        """
        return _tracer.start_span(name).end if _has_provider() else _end_nothing
