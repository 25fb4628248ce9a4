"""Hashes of the counters of forms of queries, which many processes add to.

They are stored on as many nodes as other counters (``counters``). Beside its counters a hash holds what
each form stands for. A hash has a limited number of forms: what is counted of others is added to the form
that stands for everything beyond the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cachebackend.effects import Operation, Reply, Script
from cachebackend.errors import RingCacheError
from cachebackend.protocol.context import Context
from cachebackend.protocol.telemetry.counters import higher_of, read_copies, send_to_copies
from cachebackend.replies import integer

__all__ = ["FormCount", "StoredForms", "add_form_counts", "forms_of", "read_form_counts"]

_COUNT_FORMS = Script(__package__, "count_forms", reply=integer)
#: The most forms of a hash.
MAX_STORED_FORMS = 800


class FormCount(NamedTuple):
    """A number that is added to a counter of a form.

    Attributes:
        form: The id of the form.
        other: The id of the form to count under if the hash has no room for another form.
        description: What the form stands for.
        name: The name of the counter.
        number: The number.
    """

    form: str
    other: str
    description: str
    name: str
    number: int


class StoredForms(NamedTuple):
    """What the hashes of one key hold.

    Attributes:
        counts: By id of the form, and name of the counter: ``id.name``.
        descriptions: What the forms stand for, by id.
    """

    counts: dict[str, int]
    descriptions: dict[str, bytes]


def add_form_counts(
    context: Context, key: bytes, counts: Sequence[FormCount], expire_seconds: int
) -> Operation[RingCacheError | None]:
    """Add to the counters of a hash; return the error if no copy took the counts, as ``add_counts``."""
    parts = [part for each in counts for part in (*each[:-1], b"%d" % each.number)]
    call = _COUNT_FORMS.call([key], b"%d" % expire_seconds, b"%d" % MAX_STORED_FORMS, *parts)
    return (yield from send_to_copies(context, key, call))


def read_form_counts(
    context: Context, keys: Sequence[bytes]
) -> Operation[list[StoredForms | RingCacheError]]:
    """Return what each hash holds, or the error if none of its nodes answered."""
    copies = yield from read_copies(context, keys)
    return [forms_of([*of_key.values()]) for of_key in copies]


def forms_of(replies: Sequence[Reply]) -> StoredForms | RingCacheError:
    """Return what the copies of a hash hold together; an error if all replies are errors."""
    counts = higher_of(replies)
    if isinstance(counts, RingCacheError):
        return counts
    descriptions = {
        name.decode(): text
        for reply in replies
        if not isinstance(reply, RingCacheError)
        for name, text in zip(reply[::2], reply[1::2], strict=True)
        if name.isalnum()  # a counter has a dot in its name
    }
    return StoredForms({name: count for name, count in counts.items() if "." in name}, descriptions)
