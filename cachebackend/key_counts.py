"""Counts of keys by group: hits and misses of sampled gets, all loads and their time, and the hottest keys.

Keys with the same **group** are counted together: the rows of one table, or the keys that begin alike. Gets
are counted where they are timed already, one in ``TIMED_ONE_IN``, so the others cost nothing more. A process
has a limited number of groups and of hot keys.
"""

from __future__ import annotations

import re

from cachebackend.counters import TIMED_ONE_IN, Counters
from cachebackend.interrupts import raise_interrupt
from cachebackend.query_counts import FormKind, QueryCounts, QueryForm, form_of

__all__ = ["MAX_HOT_KEYS", "KeySamples", "group_of"]

#: The most keys of which a process counts the sampled gets.
MAX_HOT_KEYS = 200
#: The most keys whose form is remembered.
MAX_FORMS = 4096
#: A key that was sampled less often is not among the hottest ones: it may be there by chance.
MIN_SAMPLES = 2
#: The most parts of a key that its group shows, and the most characters of one.
MAX_PARTS, MAX_PART = 3, 40
#: A part of a key that differs from key to key: a number, or a digest.
_VARYING = re.compile(r"\b[0-9a-f]{8,}\b|\d+")
#: A row: database, table, columns and values.
_ROW = re.compile(r"[^:]+@[^:]*:([^:]+):[^:]+:")
#: The keys of query results and of their registry, which are counted by the form of the query.
_QUERIES = ("result:", "queries:", "shapes:")


def group_of(key: bytes) -> str:
    """Return the group of a key, as the nodes store it: a table, or the key without what varies.

    Empty for the results of queries, which are counted by form.
    """
    text = key.decode(errors="replace")
    _, _, rest = text.partition(":")
    version, _, name = rest.partition(":")
    if not (name and version.isdecimal()):  # a KEY_FUNCTION of the project
        name = text
    if name.startswith(_QUERIES):
        return ""
    if row := _ROW.match(name):
        return row[1]
    parts = [_VARYING.sub("*", part)[:MAX_PART] for part in name.split(":")]
    more = ":…" if len(parts) > MAX_PARTS else ""
    return ":".join(parts[:MAX_PARTS]) + more


class KeySamples:
    """What a process counts of the keys of one client.

    Attributes:
        counts: The counters of each group.
    """

    def __init__(self) -> None:
        self.counts = Counters(QueryCounts)
        self._hot: dict[bytes, int] = {}
        #: The forms of keys that were met; None for a key that is not counted.
        self._forms: dict[bytes, QueryForm | None] = {}

    def after_fork(self) -> None:
        """Set all counters to 0, in a forked child."""
        self.counts.after_fork()
        self._hot = {}

    def add_get(self, key: bytes, *, is_hit: bool) -> None:
        """Count a sampled get: it stands for as many as one is sampled of."""
        form = self._form(key)
        if form is None:
            return
        counts = self.counts.cell[form]
        if is_hit:
            counts.hits += TIMED_ONE_IN
        else:
            counts.misses += TIMED_ONE_IN
        # Threads share it: a lost count of a sample does no harm. ``take_hot`` may replace it meanwhile
        hot = self._hot
        if key in hot or len(hot) < MAX_HOT_KEYS:
            hot[key] = hot.get(key, 0) + 1
        else:
            _replace_coldest(hot, key)

    def add_load(self, key: bytes, seconds: float) -> None:
        """Count a load, and the time that it took."""
        form = self._form(key)
        if form is not None:
            counts = self.counts.cell[form]
            counts.loads += 1
            counts.load_micros += int(seconds * 1_000_000)

    def take_hot(self) -> dict[bytes, int]:
        """Return the keys that were sampled most since the last call, with the number of their gets."""
        hot, self._hot = self._hot, {}
        return {key: count * TIMED_ONE_IN for key, count in hot.items() if count >= MIN_SAMPLES}

    def _form(self, key: bytes) -> QueryForm | None:
        try:
            return self._forms[key]
        except KeyError as error:
            raise_interrupt(error)
        if len(self._forms) >= MAX_FORMS:
            self._forms.clear()
        group = group_of(key)
        form = self._forms[key] = form_of(FormKind.KEYS, group, "") if group else None
        return form


def _replace_coldest(hot: dict[bytes, int], key: bytes) -> None:
    """Give a key the place and the count of the coldest one.

    Source: Space-Saving (Metwally, Agrawal, El Abbadi, 2005): no hot key is left out.
    """
    coldest, count = min(tuple(hot.items()), key=lambda item: item[1])
    hot.pop(coldest, None)
    hot[key] = count + 1
