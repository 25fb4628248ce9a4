"""OpenTelemetry spans, as an exporter receives them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db.models import F
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cachebackend import RingCache, writebehind
from cacheproject.demo.models import Article

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]


@pytest.fixture(scope="module")
def exporter() -> Iterator[InMemorySpanExporter]:
    """The exporter of the process: a provider can be set only once for each run."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    yield exporter
    provider.shutdown()  # otherwise it would store the spans of later tests
    trace._TRACER_PROVIDER = None  # otherwise each later span would warn
    # xdist may run other modules in between, and then set this fixture up again
    trace._TRACER_PROVIDER_SET_ONCE._done = False


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Iterator[Callable[[], list[ReadableSpan]]]:
    """Returns the spans that have ended since the test began."""
    exporter.clear()
    yield lambda: list(exporter.get_finished_spans())
    exporter.clear()


def test_a_load_is_a_span(ring_cache: RingCache, call: Callable[..., Any], spans: Any) -> None:
    """For a miss, and not for a hit. The span of a loader that fails has its error."""
    for _ in range(2):
        assert call(ring_cache, "get_or_set", "k", lambda: 1) == 1
    assert [span.name for span in spans()] == ["ringcache.load"]
    with pytest.raises(ZeroDivisionError):
        call(ring_cache, "get_or_set", "other", lambda: 1 / 0)
    assert [span.status.is_ok for span in spans()] == [True, False]


def test_a_wait_for_the_load_of_another_caller_is_a_span(ring_cache: RingCache, spans: Any) -> None:
    """The whole wait is one span, however often it reads the key; the load after it is another span."""

    def load() -> str:
        client = ring_cache.client
        [lease] = [client.nodes[client.ring.owner(key)].call((b"GET", key))]
        assert lease[:1] == b"L"
        client.nodes[client.ring.owner(key)].call((b"PEXPIRE", key, b"60"))
        with ThreadPoolExecutor(1) as pool:  # a loader that reads its own key does not wait
            assert pool.submit(ring_cache.get_or_set, "k", lambda: "mine").result() == "mine"
        return "late"

    key = ring_cache.key_bytes("k")
    assert ring_cache.get_or_set("k", load) == "late"
    ended = [span.name for span in spans()]
    assert ended == ["ringcache.fill_wait", "ringcache.load", "ringcache.load"]


@pytest.mark.postgres
def test_a_drain_is_a_span(spans: Any) -> None:
    """With the partition that it drains."""
    article = Article.objects.create(slug="s")
    Article.behind.update(article.pk, views=F("views") + 1)
    [partition] = writebehind.seal_dirty()
    writebehind.drain(partition)
    [span] = [each for each in spans() if each.name == "ringcache.drain"]
    assert dict(span.attributes or {}) == {"model": "demo.article", "partition": partition.number}


def test_without_the_opentelemetry_api_nothing_is_traced() -> None:
    """The API need not be installed."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from cachebackend.tracing import span\n"
        "with span('x', a=1) as entered: assert entered is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
