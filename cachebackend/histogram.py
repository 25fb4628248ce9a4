"""How long things took: counts in fixed buckets, four to each doubling, so that any two add up.

Source: the bucketing of HdrHistogram (hdrhistogram.org), with two significant bits: the middle
of a bucket is at most an eighth off any time in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Histogram"]

#: What takes longer is counted as this: 67 s.
MOST_MICROS = 2**26
#: What the sum is called beside the buckets' numbers.
_SUM = "micros"


@dataclass(slots=True)
class Histogram:
    """Times, as far as buckets tell them.

    Attributes:
        buckets: How many times fell into each bucket, by its number; those without any are not there.
        micros: All times together, in microseconds.
    """

    buckets: dict[int, int] = field(default_factory=dict)
    micros: int = 0

    def add(self, seconds: float) -> None:
        """Count a time."""
        micros = int(seconds * 1_000_000)
        bucket = _bucket_of(min(micros, MOST_MICROS))
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.micros += micros

    def merge(self, other: Histogram) -> None:
        """Count another's times too."""
        for bucket, count in other.buckets.copy().items():  # another thread may be counting there
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count
        self.micros += other.micros

    @property
    def count(self) -> int:
        """How many times were counted."""
        return sum(self.buckets.values())

    @property
    def seconds(self) -> float:
        """All times together, in seconds."""
        return self.micros / 1_000_000

    def percentile(self, share: float) -> float | None:
        """Return the time, in seconds, that this share (0 to 1) did not exceed; None: there are none."""
        left = share * self.count
        for bucket, count in sorted(self.buckets.items()):
            left -= count
            if left <= 0:
                return (_least(bucket) + _least(bucket + 1)) / 2_000_000
        return None

    def below(self, micros: int) -> int:
        """Return how many times were shorter than a power of two of microseconds, which no bucket spans."""
        return sum(count for bucket, count in self.buckets.items() if _least(bucket) < micros)

    def as_dict(self) -> dict[str, int]:
        """Return the counts by bucket, and the sum, by names."""
        return {_SUM: self.micros} | {str(bucket): count for bucket, count in self.buckets.copy().items()}

    @classmethod
    def read(cls, named: Mapping[str, int]) -> Histogram:
        """Return what ``as_dict`` told; names that are no bucket's are left out."""
        known = range(_bucket_of(MOST_MICROS) + 1)
        buckets = {at: count for at in known if (count := named.get(str(at)))}
        return cls(buckets, named.get(_SUM, 0))


def _bucket_of(micros: int) -> int:
    """Return the number of a time's bucket: the place of its first bit, and the two bits after that."""
    shift = max(micros.bit_length() - 3, 0)
    return 4 * shift + (micros >> shift)


def _least(bucket: int) -> int:
    """Return the shortest time of a bucket, in microseconds."""
    shift = max(bucket // 4 - 1, 0)
    return (bucket - 4 * shift) << shift
