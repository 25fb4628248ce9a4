"""Counts of keys by group, and the hottest keys."""

from __future__ import annotations

import pytest

from cachebackend import key_counts
from cachebackend.counters import TIMED_ONE_IN
from cachebackend.key_counts import MAX_HOT_KEYS, KeySamples, group_of
from cachebackend.query_counts import FormKind


@pytest.mark.parametrize(
    ("key", "group"),
    [
        (b"shop:1:product:17", "product:*"),
        (b":1:product:17", "product:*"),
        (b"shop:1:user:5:profile:de:long", "user:*:profile:\N{HORIZONTAL ELLIPSIS}"),
        (b"shop:1:page-2026-05", "page-*-*"),
        (b"shop:1:session:0123456789abcdef", "session:*"),
        (b"shop:1:front", "front"),
        (b"shop:1:default@db:shop_product:id:17", "shop_product"),
        (b"shop:1:default@db:shop_product:slug:a:b", "shop_product"),
        (b"shop:1:result:894d23860fbf21360ab8a011", ""),
        (b"shop:1:shapes:default@db:t:0\xff", ""),
        (b"of-a-key-function", "of-a-key-function"),
        (b"\xff\xfe", "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"),
        (b"shop:1:" + b"x" * 100, "x" * 40),
    ],
)
def test_a_group_leaves_out_what_varies(key: bytes, group: str) -> None:
    """A row counts for its table; results of queries are counted by form."""
    assert group_of(key) == group


def counted(samples: KeySamples) -> dict[str, tuple[int, int, int, int]]:
    return {
        form.model: (counts.hits, counts.misses, counts.loads, counts.load_micros)
        for form, counts in samples.counts.total().items()
        if form.kind is FormKind.KEYS
    }


def test_a_sampled_get_stands_for_as_many_as_it_is_one_of() -> None:
    """Each load is counted, with its time."""
    samples = KeySamples()
    for is_hit in (True, True, False):
        samples.add_get(b"shop:1:product:1", is_hit=is_hit)
    samples.add_load(b"shop:1:product:2", 0.5)
    samples.add_load(b"shop:1:result:ab", 0.5)
    assert counted(samples) == {"product:*": (2 * TIMED_ONE_IN, TIMED_ONE_IN, 1, 500_000)}
    samples.after_fork()
    assert counted(samples) == {}


def test_keys_that_were_sampled_often_are_hot() -> None:
    """Once: a key that was sampled by chance is not; then they begin again."""
    samples = KeySamples()
    for key in (b"shop:1:a", b"shop:1:a", b"shop:1:b", b"shop:1:a"):
        samples.add_get(key, is_hit=True)
    assert samples.take_hot() == {b"shop:1:a": 3 * TIMED_ONE_IN}
    assert samples.take_hot() == {}


def test_a_hot_key_stays_among_many_cold_ones() -> None:
    """A limited number of keys is remembered."""
    samples = KeySamples()
    for number in range(10 * MAX_HOT_KEYS):
        samples.add_get(b"shop:1:cold:%d" % number, is_hit=True)
        samples.add_get(b"shop:1:hot", is_hit=True)
    assert len(samples._hot) == MAX_HOT_KEYS
    hot = samples.take_hot()
    assert max(hot, key=lambda key: hot[key]) == b"shop:1:hot"
    assert key_counts.MIN_SAMPLES > 1


def test_a_get_is_counted_while_another_thread_takes_the_hot_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that publishes takes them between two steps of the count; a get must never fail for it."""
    samples = KeySamples()
    for number in range(MAX_HOT_KEYS):
        samples.add_get(b"shop:1:cold:%d" % number, is_hit=True)
    replace = key_counts._replace_coldest

    def interrupted(hot: dict[bytes, int], key: bytes) -> None:
        samples.take_hot()
        replace(hot, key)

    monkeypatch.setattr(key_counts, "_replace_coldest", interrupted)
    samples.add_get(b"shop:1:one-more", is_hit=True)
    assert samples.take_hot() == {}
