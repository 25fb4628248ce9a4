"""Histograms of durations: counts in fixed buckets, so that histograms of several processes add up.

There are four buckets to each doubling of the duration.

Source: the bucketing of HdrHistogram (hdrhistogram.org), with two significant bits: the middle of a
bucket differs from any duration in it by at most an eighth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Histogram"]

#: Microseconds; a longer duration is counted in the bucket of this one: 67 s.
MAX_MICROS = 2**26
#: The sum's name in ``as_dict``, beside the numbers of the buckets.
_SUM = "micros"


@dataclass(slots=True)
class Histogram:
    """A histogram of durations.

    Attributes:
        buckets: The count of each bucket, by its number; empty buckets are left out.
        micros: The sum of all durations, in microseconds.
    """

    buckets: dict[int, int] = field(default_factory=dict)
    micros: int = 0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        micros = int(seconds * 1_000_000)
        bucket = _bucket_of(min(micros, MAX_MICROS))
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.micros += micros

    def merge(self, histogram: Histogram) -> None:
        """Add the counts of another histogram to this one."""
        for bucket, count in histogram.buckets.copy().items():  # another thread may be adding to it
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count
        self.micros += histogram.micros

    @property
    def count(self) -> int:
        """The number of durations."""
        return sum(self.buckets.values())

    @property
    def seconds(self) -> float:
        """The sum of all durations, in seconds."""
        return self.micros / 1_000_000

    def percentile(self, share: float) -> float | None:
        """Return a percentile, in seconds: a share of the durations, 0 to 1, is at most this long.

        None: there are no durations.
        """
        rest = share * self.count
        for bucket, count in sorted(self.buckets.items()):
            rest -= count
            if rest <= 0:
                return (_lower_bound(bucket) + _lower_bound(bucket + 1)) / 2_000_000
        return None

    def count_below(self, micros: int) -> int:
        """Return how many durations were shorter than ``micros`` microseconds.

        The count is exact if ``micros`` is a power of two, because no bucket contains one inside.
        """
        return sum(count for bucket, count in self.buckets.items() if _lower_bound(bucket) < micros)

    def as_dict(self) -> dict[str, int]:
        """Return the counts by the bucket's number as text, and the sum as ``micros``."""
        return {_SUM: self.micros} | {str(bucket): count for bucket, count in self.buckets.copy().items()}

    @classmethod
    def from_dict(cls, named: Mapping[str, int]) -> Histogram:
        """Return the histogram that ``as_dict`` was called on; unknown names are ignored."""
        numbers = range(_bucket_of(MAX_MICROS) + 1)
        buckets = {number: count for number in numbers if (count := named.get(str(number)))}
        return cls(buckets, named.get(_SUM, 0))


def _bucket_of(micros: int) -> int:
    """Return the number of a duration's bucket: the position of its first bit, and the two bits after it."""
    shift = max(micros.bit_length() - 3, 0)
    return 4 * shift + (micros >> shift)


def _lower_bound(bucket: int) -> int:
    """Return the shortest duration of a bucket, in microseconds."""
    shift = max(bucket // 4 - 1, 0)
    return (bucket - 4 * shift) << shift
