"""The counts of queries by form, of all processes: each process adds its own to hashes on the nodes.

There is a hash for each hour, kept for a day, and one for each week, for Prometheus, which reads a total that
begins again as a restart. So the forms of old releases do not take the room of new ones.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b

from cachebackend import protocol
from cachebackend.backend import RingCache, ring_cache
from cachebackend.counters import Counters
from cachebackend.errors import RingCacheError
from cachebackend.query_counts import FormCounts, QueryCounts, QueryForm, known_form
from cachebackend.telemetry.totals import read_copies

__all__ = [
    "HOUR",
    "CountedForms",
    "hottest_keys",
    "hourly_query_counts",
    "publish_query_counts",
    "total_query_counts",
]

#: Seconds.
HOUR, WEEK = 3600, 7 * 24 * 3600
#: For how many seconds the counts of an hour are kept: a day and an hour; and those of a week: two weeks.
KEEP_HOUR_SECONDS, KEEP_WEEK_SECONDS = 25 * HOUR, 2 * WEEK
#: The hashes of the hottest keys, and the name of all keys beyond the limit of one.
_HOT = "hot"
#: The counts of each form, by its id.
CountedForms = dict[str, tuple[QueryForm, FormCounts]]


def publish_query_counts(alias: str) -> None:
    """Add what this process counted of queries and keys since the last time to the present hour and week."""
    cache = ring_cache(alias)
    samples = cache.client.context.samples
    for counters in (cache.client.query_counts, samples.counts):
        _publish(cache, counters, "hours", _hour_key(cache, alias, _hour()), KEEP_HOUR_SECONDS)
        _publish(cache, counters, "weeks", _week_key(cache, alias), KEEP_WEEK_SECONDS)
    hot = [_hot_key_count(key, count) for key, count in samples.take_hot().items()]
    if hot:  # counts that are refused are lost: the next samples are as good
        key = _key(cache, alias, f"{_HOT}-{_hour()}")
        cache.client.run(
            protocol.telemetry.add_form_counts(cache.client.context, key, hot, KEEP_HOUR_SECONDS)
        )


def _publish(
    cache: RingCache, counters: Counters[QueryCounts], ledger: str, key: bytes, keep_seconds: int
) -> None:
    client = cache.client
    new = counters.take_new(ledger)
    if not new:
        return
    counts = []
    for name, count in new.items():
        form_id, _, counter = name.partition(".")
        form = known_form(form_id)
        counts.append(protocol.telemetry.FormCount(form.id, form.kind, form.description, counter, count))
    error = client.run(protocol.telemetry.add_form_counts(client.context, key, counts, keep_seconds))
    if error is not None:  # the counts of the alias, which are refused as well, are what logs it
        counters.put_back(ledger, new)


def _hot_key_count(key: bytes, gets: int) -> protocol.telemetry.FormCount:
    form = blake2b(key, digest_size=8).hexdigest()
    return protocol.telemetry.FormCount(form, _HOT, key.decode(errors="backslashreplace"), "gets", gets)


def hottest_keys(alias: str, hours: int) -> dict[str, int]:
    """Return the keys that were read most in some hours, with about how many gets each had, the most first.

    Raises:
        RingCacheError: Neither node of an hour answered.
    """
    cache = ring_cache(alias)
    keys = [_key(cache, alias, f"{_HOT}-{hour}") for hour in range(_hour() - hours + 1, _hour() + 1)]
    gets: Counter[str] = Counter()
    for stored in cache.client.run(protocol.telemetry.read_form_counts(cache.client.context, keys)):
        if isinstance(stored, RingCacheError):
            raise stored
        for form, text in stored.descriptions.items():
            gets[text.decode(errors="backslashreplace")] += stored.counts.get(f"{form}.gets", 0)
    return dict(gets.most_common())


def hourly_query_counts(alias: str, hours: int) -> CountedForms:
    """Return what all processes counted of an alias' queries in some hours, the present one the last.

    Raises:
        RingCacheError: Neither node of an hour answered.
    """
    cache = ring_cache(alias)
    keys = [_hour_key(cache, alias, hour) for hour in range(_hour() - hours + 1, _hour() + 1)]
    return _sum(cache.client.run(protocol.telemetry.read_form_counts(cache.client.context, keys)))


def total_query_counts(alias: str) -> CountedForms:
    """Return what all processes counted of an alias' queries in the present week.

    Raises:
        RingCacheError: Neither of its two nodes answered.
    """
    cache = ring_cache(alias)
    copies = read_copies(cache.client, _week_key(cache, alias), KEEP_WEEK_SECONDS)
    return _sum([protocol.telemetry.forms_of(copies)])


def _sum(stored: Iterable[protocol.telemetry.StoredForms | RingCacheError]) -> CountedForms:
    total: CountedForms = {}
    for each in stored:
        if isinstance(each, RingCacheError):
            raise each
        by_form: dict[str, dict[str, int]] = {}
        for name, count in each.counts.items():
            form_id, _, counter = name.partition(".")
            by_form.setdefault(form_id, {})[counter] = count
        for form_id, counts in by_form.items():
            form = QueryForm.read(form_id, each.descriptions.get(form_id))
            if form is not None:
                total.setdefault(form_id, (form, FormCounts()))[1].add(FormCounts.from_dict(counts))
    return total


def _hour() -> int:
    return int(time.time()) // HOUR


def _hour_key(cache: RingCache, alias: str, hour: int) -> bytes:
    return _key(cache, alias, f"hour-{hour}")


def _week_key(cache: RingCache, alias: str) -> bytes:
    return _key(cache, alias, f"week-{int(time.time()) // WEEK}")


def _key(cache: RingCache, alias: str, name: str) -> bytes:
    """Return the key of a hash; no alias' own keys look like it."""
    return f"ringcache:queries:{cache.key_prefix}:{alias}:{name}".encode()
