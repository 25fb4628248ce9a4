"""OpenTelemetry spans, where its API is installed (extra ``opentelemetry``): else nothing.

=======================  =====================================================================
span                     what it spans
=======================  =====================================================================
``ringcache.load``       a caller's loader, for a miss or for a value that was due
``ringcache.fill_wait``  the wait of a miss for the value that another is loading
``ringcache.drain``      the landing of a write-behind partition's batches
=======================  =====================================================================
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

__all__ = ["span"]

try:
    from opentelemetry import trace
except ImportError:

    def span(name: str, **attributes: str | int) -> AbstractContextManager[object]:  # as the other
        """Return nothing to enter."""
        return nullcontext()

else:
    _tracer = trace.get_tracer("cachebackend")

    def span(name: str, **attributes: str | int) -> AbstractContextManager[object]:
        """Return a span to enter; it is a child of the one that is current."""
        # Until the site sets a provider there is nobody to tell, which a tracer takes microseconds to find
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            return nullcontext()
        return _tracer.start_as_current_span(name, attributes=attributes)
