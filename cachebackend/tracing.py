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

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

__all__ = ["begin", "span"]


def _nothing() -> None: ...


try:
    from opentelemetry import trace
except ImportError:

    def span(name: str, **attributes: str | int) -> AbstractContextManager[object]:  # as the other
        """Return nothing to enter."""
        return nullcontext()

    def begin(name: str) -> Callable[[], None]:
        """Begin nothing; return what ends it."""
        return _nothing

else:
    _tracer = trace.get_tracer("cachebackend")

    def _is_listened_to() -> bool:
        """Return whether the site has set a provider."""
        # The public way to ask reads the environment each time
        return getattr(trace, "_TRACER_PROVIDER", True) is not None

    def span(name: str, **attributes: str | int) -> AbstractContextManager[object]:
        """Return a span to enter; it is a child of the one that is current."""
        return (
            _tracer.start_as_current_span(name, attributes=attributes) if _is_listened_to() else nullcontext()
        )

    def begin(name: str) -> Callable[[], None]:
        """Begin a span; return what ends it.

        It is never the current one, for the steps of an operation may take turns with another's,
        and then the one would end what the other has begun.
        """
        return _tracer.start_span(name).end if _is_listened_to() else _nothing
