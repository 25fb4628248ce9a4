"""The cost of one row that is read with its queued writes, and of one that is queued with others."""

from __future__ import annotations

from itertools import cycle

from benchmarks.enqueue import make_rows, plain_rows
from benchmarks.goals import Goal, Measured, measure_ratios
from benchmarks.herd import set_up
from benchmarks.rounds import one_core
from cacheproject.services import Services

__all__ = ["GOALS", "measure"]

ROWS = 200
GOALS = (
    Goal("behind.get", "objects.get", 1.7, "at_most"),
    Goal("pipelined update", "behind.update", 3.0, "at_least"),
)


def measure(*, quick: bool) -> Measured:
    """Measure reads and writes of single rows, a tenth of which have queued writes."""
    from django.db.models import F

    with one_core(), Services(ring=1, queue=1, durable=True) as services:
        set_up(services)
        from cachebackend import writebehind

        keys, plain = make_rows(ROWS), plain_rows()
        plain.behind.update_many({pk: {"views": F("views") + 1} for pk in keys})
        for partition in writebehind.seal_dirty():  # so that each queue has a checkpoint
            writebehind.drain(partition)
        for pk in keys[::10]:
            plain.behind.update(pk, views=F("views") + 1)
        following = cycle(keys)

        def pipelined() -> None:
            with plain.behind.pipelined() as pipeline:
                for pk in keys:
                    pipeline.update(pk, views=F("views") + 1)

        ratios = measure_ratios(
            GOALS,
            {
                "objects.get": lambda: plain.objects.get(pk=next(following)),
                "behind.get": lambda: plain.behind.get(next(following)),
                "behind.update": lambda: plain.behind.update(next(following), views=F("views") + 1),
                "pipelined update": pipelined,
            },
            quick=quick,
            per_call={"pipelined update": ROWS},
        )
    return Measured(ratios)
